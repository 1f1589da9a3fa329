"""The settings file: flags by their names, one a line, such as `mtu = 4000`.

`#` begins a comment and quotes keep spaces, as in a shell.  `MTU=4000` and `STOP_IF_EXIST=""` are
understood as well, for /etc/sysconfig is written like that.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from taplink.text import reason

FILES = (Path("/etc/vsock-tap.conf"), Path("/etc/sysconfig/vsock-tap"))
"""The first that exists is read, where the command line names no other."""
MAX_SIZE = 1 << 20
"""Bytes; so much is no settings but a mistake."""
_LINE = re.compile(r"([A-Za-z][A-Za-z_-]*)\s*=(.*)", re.ASCII)
# Not shlex's, whose `#` begins a comment inside of a word as well, and whose time is quadratic.
_PIECE = re.compile(r"""[^\s'"\\]+|'[^']*'|"(?:[^"\\]|\\.)*"|\\.""")
_WORD = re.compile(rf"(\s+|#.*)|((?:{_PIECE.pattern})+)|.")


def find() -> Path | None:
    """Return the settings file that is read where none is named."""
    return next((path for path in FILES if path.exists()), None)


def read(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each setting's place, for errors, its flag's name and its value.

    Raises ValueError with the place where a line is no setting, or the file cannot be read.
    """
    try:
        lines = _contents(path).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error.reason}") from error
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        place = f"{path}:{number}"
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{place}: {line!r} is not like name = value")
        yield place, found[1].lower().replace("_", "-"), _value(found[2], place)


def _contents(path: Path) -> bytes:
    with open(path, "rb", opener=_open) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path} is no regular file")
        contents = file.read(MAX_SIZE + 1)
    if len(contents) > MAX_SIZE:
        raise ValueError(f"{path} is larger than {MAX_SIZE >> 20} MiB")
    return contents


def _open(path: str, flags: int) -> int:
    # A FIFO is not to be waited for, a terminal not to become ours.
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _value(text: str, place: str) -> str:
    words = []
    for space, word in _WORD.findall(text):
        if word:
            words.append(_PIECE.sub(_unquote, word))
        elif not space:
            raise ValueError(f"{place}: a quote or a backslash stands alone")
    if len(words) > 1:
        raise ValueError(f"{place}: {text.strip()!r} is more than one value; quotes keep spaces")
    return "".join(words)


def _unquote(piece: re.Match[str]) -> str:
    text = piece[0]
    if text[0] == "'":
        return text[1:-1]
    if text[0] == '"':
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    return text.removeprefix("\\")
