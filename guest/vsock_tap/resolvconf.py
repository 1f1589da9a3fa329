"""/etc/resolv.conf while the agent runs, and the original back afterwards.

The original, be it a file, a symbolic link (systemd-resolved's) or nothing, is set aside in the
state directory before the file is first written.  It comes back when the agent ends; after a
crash, when the next agent begins.  What somebody else has written in the meantime is theirs and
stays: the agent only replaces what begins with its own first line.

A write is atomic, by a new file renamed over the old one.  In a container /etc/resolv.conf is
often a bind mount, which cannot be renamed over; it is written in place.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

FIRST_LINE = "# Written by vsock-tap; the original comes back when it ends."
_NOT_RENAMED_OVER = (errno.EBUSY, errno.EXDEV)


class ResolvConf:
    """One resolv.conf.  Every method raises OSError when the file system refuses."""

    def __init__(self, path: Path, state_directory: Path) -> None:
        self._path = path
        self._original = state_directory / "resolv.conf"
        self._absent = state_directory / "resolv.conf.absent"

    def write(self, nameservers: Sequence[IPv4Address], search: Sequence[str]) -> None:
        """Let names be looked up at `nameservers`, and unqualified ones in `search` as well."""
        if not self._is_ours():
            self._set_aside()
        lines = [FIRST_LINE]
        if search:
            lines.append("search " + " ".join(search))
        lines += [f"nameserver {address}" for address in nameservers]
        text = "\n".join(lines) + "\n"
        new = self._path.with_name(f".{self._path.name}.vsock-tap")
        new.write_text(text, encoding="ascii")
        new.chmod(0o644)
        if not self._put_in_place(new):
            self._path.write_text(text, encoding="ascii")

    def restore(self) -> bool:
        """Put the original back; returns whether there was one to put back."""
        try:
            if not self._is_ours():
                return False
            if self._absent.exists():
                self._path.unlink()
            elif os.path.lexists(self._original):
                self._put_back()
            else:
                return False
        finally:
            self._forget()
        return True

    def _is_ours(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return file.readline().rstrip() == FIRST_LINE.encode("ascii")
        except FileNotFoundError:
            return False

    def _set_aside(self) -> None:
        self._original.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._forget()
        if os.path.lexists(self._path):
            _copy(self._path, self._original)
        else:
            self._absent.touch()

    def _put_back(self) -> None:
        new = self._path.with_name(f".{self._path.name}.vsock-tap")
        _copy(self._original, new)
        if not self._put_in_place(new):
            self._path.write_bytes(self._original.read_bytes())

    def _put_in_place(self, new: Path) -> bool:
        """Rename `new` over the file; returns False, and removes it, where that cannot be."""
        try:
            os.replace(new, self._path)
        except OSError as error:
            new.unlink()
            if error.errno not in _NOT_RENAMED_OVER:
                raise
            return False
        return True

    def _forget(self) -> None:
        for path in (self._original, self._absent):
            path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its mode, times and owner, or a symbolic link as the link it is."""
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    owner = source.lstat()
    with contextlib.suppress(PermissionError):
        os.chown(target, owner.st_uid, owner.st_gid, follow_symlinks=False)
