"""/etc/resolv.conf while the agent runs, and the original back afterwards.

The original, be it a file, a symbolic link (systemd-resolved's) or nothing, is set aside in the
state directory before the file is first written.  It comes back when the agent ends; after a
crash, be it the machine's, when the next agent begins.  What somebody else has written in the
meantime is theirs and stays: the agent only replaces what begins with its own first line.

A write is atomic, by a new file renamed over the old one.  In a container /etc/resolv.conf is
often a bind mount, which cannot be renamed over, or /etc is not writable; then it is written in
place.  A symbolic link stays one then, and the file it leads to is what is set aside and put back.

Of two agents on one machine the first looks after the file, by a lock that ends with its process;
the other one leaves it alone.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path

FIRST_LINE = "# Written by vsock-tap; the original comes back when it ends."
_IN_PLACE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of making and renaming a file after which the old one may still be writable."""


class ResolvConf:
    """One resolv.conf.  Every method raises OSError when the file system refuses.

    `state_directory` is where the original is kept.
    """

    def __init__(self, path: Path, state_directory: Path) -> None:
        self._path = path
        self._name = f"resolv.conf.{_identity(path)}"
        self._lock: int | None = None
        self.state_directory = state_directory

    def __str__(self) -> str:
        return str(self._path)

    @property
    def kept(self) -> str:
        return f"; the original is kept in {self.state_directory}"

    def claim(self) -> bool:
        """Look after the file from now until `release`; False where another agent does.

        Without a writable state directory there is no lock: nor is there an original that another
        agent could take for one left behind.
        """
        try:
            self.state_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(self._lock_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        if os.fstat(lock).st_nlink == 0:  # its owner released it just now
            os.close(lock)
            return self.claim()
        self._lock = lock
        return True

    def release(self) -> None:
        """Let another agent look after the file."""
        if self._lock is not None:
            self._lock_file.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None
        self._remove_state_directory()

    def write(self, nameservers: Sequence[IPv4Address], search: Sequence[str]) -> None:
        """Let names be looked up at `nameservers`, and unqualified ones in `search` as well."""
        ours = self._is_ours()
        if not ours:
            self._set_aside(self._path)
        lines = [FIRST_LINE]
        if search:
            lines.append("search " + " ".join(search))
        lines += [f"nameserver {address}" for address in nameservers]
        text = "\n".join(lines) + "\n"

        def make(path: Path) -> None:
            path.write_text(text, encoding="ascii")
            path.chmod(0o644)

        if (ours and self._path.is_symlink()) or not self._replace(make):
            if not ours:
                self._set_aside(self._target)
            _overwrite(self._path, text.encode("ascii"))

    def restore(self) -> bool:
        """Put the original back; returns whether there was one to put back.

        An error leaves it in `state_directory`, for the next agent's beginning.
        """
        restored = self._is_ours() and self._put_back()
        self._forget()
        self._remove_state_directory()
        return restored

    def _put_back(self) -> bool:
        if self._absent.exists():
            self._target.unlink()
        elif os.path.lexists(self._original):
            # What is renamed over the old file is no link, so one was written through.
            if self._path.is_symlink() or not self._replace(
                lambda path: _copy(self._original, path)
            ):
                _overwrite(self._path, self._original.read_bytes())
        else:
            return False
        return True

    @property
    def _target(self) -> Path:
        """The file itself, where the path is a link."""
        return Path(os.path.realpath(self._path))

    @property
    def _lock_file(self) -> Path:
        return self.state_directory / f"{self._name}.lock"

    @property
    def _original(self) -> Path:
        return self.state_directory / self._name

    @property
    def _absent(self) -> Path:
        return self.state_directory / f"{self._name}.absent"

    def _is_ours(self) -> bool:
        try:
            with self._path.open("rb") as file:
                return file.readline().rstrip() == FIRST_LINE.encode("ascii")
        except FileNotFoundError:
            return False

    def _set_aside(self, path: Path) -> None:
        try:
            self.state_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            writable = os.access(self.state_directory, os.W_OK)
        except PermissionError:
            writable = False
        if not writable:
            # An ordinary user, root only of a namespace: kept, but not found after a crash.
            self.state_directory = Path(tempfile.mkdtemp(prefix="vsock-tap-"))
        self._forget()
        if os.path.lexists(path):
            _copy(path, self._original)
        else:
            self._absent.touch()

    def _replace(self, make: Callable[[Path], None]) -> bool:
        """Let `make` write a new file and rename it over the old one.

        Returns False where that cannot be but the old one might still be written.
        """
        new = self._path.with_name(f".{self._path.name}.vsock-tap")
        try:
            make(new)
            os.replace(new, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            if error.errno not in _IN_PLACE:
                raise
            return False
        return True

    def _forget(self) -> None:
        for path in (self._original, self._absent):
            path.unlink(missing_ok=True)

    def _remove_state_directory(self) -> None:
        """Remove it, unless something is kept in it."""
        with contextlib.suppress(OSError):
            self.state_directory.rmdir()


def _identity(path: Path) -> str:
    """Return a name for the file, whatever its content: two machines may share all but /etc.

    It is the folder's, for the file itself is replaced.  One that is mounted, as in containers and
    network namespaces, is not, and may be another than the folder says.
    """
    place = os.path.realpath(path.parent) + f"/{path.name}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        mounted = any(line.split()[4] == place for line in mounts)
    there = os.stat(place if mounted else path.parent)
    return f"{there.st_dev:x}.{there.st_ino:x}"


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its mode, times and owner, or a symbolic link as the link it is."""
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
    owner = source.lstat()
    with contextlib.suppress(OSError):  # EPERM, or EINVAL for an owner unknown to the namespace
        os.chown(target, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _overwrite(path: Path, data: bytes) -> None:
    """Write in place, and cut the rest off last: a full disk must leave the old or the new."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
        file.write(data)
        file.truncate()
