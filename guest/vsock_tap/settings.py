"""The settings file: flags by their names, one a line, such as `mtu = 4000`.

`#` begins a comment and quotes keep spaces, as in a shell.  `MTU=4000` and `STOP_IF_EXIST=""` are
understood as well, for /etc/sysconfig is written like that.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from taplink.text import reason

FILES = (Path("/etc/vsock-tap.conf"), Path("/etc/sysconfig/vsock-tap"))
"""The first that exists is read, where the command line names no other."""
_LINE = re.compile(r"([A-Za-z][A-Za-z_-]*)\s*=(.*)", re.ASCII)


def find() -> Path | None:
    """Return the settings file that is read where none is named."""
    return next((path for path in FILES if path.exists()), None)


def read(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each setting's place, for errors, its flag's name and its value.

    Raises ValueError with the place where a line is no setting, or the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error.reason}") from error
    for number, line in enumerate(lines, 1):
        place = f"{path}:{number}"
        try:
            words = shlex.split(line, comments=True)
            if not words:
                continue
            found = _LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(f"{line.strip()!r} is not like name = value")
            values = shlex.split(found[2], comments=True)
            if len(values) > 1:
                raise ValueError(f"{found[2].strip()!r} is more than one value; quotes keep spaces")
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        yield place, found[1].lower().replace("_", "-"), "".join(values)
