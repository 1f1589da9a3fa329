"""A small image of Debian with Python and dnf, on which ours is tried where there is no Fedora.

`python -m tests.lab.base` puts it where the tests look for it, as an archive of its files.  It is
of the machine's own release, for whose Python the packages are.  On other systems than Debian,
without mmdebstrap or not as root, none is there afterwards, and the tests say so.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lab.scratch import build_stub

BASE = Path(__file__).parents[2] / ".venv" / "base.tar"
_SUM = BASE.with_suffix(".sum")
"""Of what it was made by."""
_PACKAGES = ("dnf", "kmod", "python3")
_SMALLER = ("gpg", "usr-is-merged")
"""In place of gnupg and usrmerge, which bring Perl."""
_LEFT_OUT = ("doc", "i18n", "info", "locale", "man")
_MERGED = "/usr/share/mmdebstrap/hooks/merged-usr"


def _make(suite: str, archive: Path, folder: Path) -> None:
    stub = build_stub(folder / "stub", ["kmod"])
    done = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=essential", f"--hook-dir={_MERGED}"),
            f"--include={','.join((*_PACKAGES, *_SMALLER))}",
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
            "--dpkgopt=force-unsafe-io",
            f"--customize-hook=copy-in {stub} /",
            f'--customize-hook=chroot "$1" dnf --quiet --assumeyes install /{stub.name}',
            f'--customize-hook=rm "$1/{stub.name}"',
            *(suite, str(archive)),
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}no base was made: mmdebstrap ended so")


def main() -> None:
    """Make it, unless one is there that was made by the same."""
    release = platform.freedesktop_os_release()
    if os.geteuid() or release["ID"] != "debian" or not shutil.which("mmdebstrap"):
        return
    suite = release["VERSION_CODENAME"]
    made_by = hashlib.sha256(suite.encode() + Path(__file__).read_bytes()).hexdigest()
    if BASE.exists() and _SUM.exists() and _SUM.read_text() == made_by:
        return
    print("Making a base of Debian for the container image ...", file=sys.stderr)
    BASE.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=BASE.parent) as folder:
        new = Path(folder) / BASE.name
        _make(suite, new, Path(folder))
        new.rename(BASE)
    _SUM.write_text(made_by)


if __name__ == "__main__":
    main()
