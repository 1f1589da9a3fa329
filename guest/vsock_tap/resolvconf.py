"""/etc/resolv.conf while the agent runs, and the original back afterwards.

The original, be it a file, a symbolic link (systemd-resolved's) or nothing, is set aside in the
state directory before the file is first written, and the new one says where.  It comes back when
the agent ends; after a crash, be it the machine's, when the next agent begins.  What somebody else
has written in the meantime is theirs and stays: the agent only replaces what begins with its own
first line.

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
import stat
import tempfile
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from secrets import token_hex

FIRST_LINE = "# Written by vsock-tap; the original comes back when it ends."
_ORIGINAL = "# Original: "
_NOTHING = "none"
"""There was no file."""
_IN_PLACE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of making and renaming a file after which the old one may still be writable."""


class ResolvConf:
    """One resolv.conf.  Every method raises OSError when the file system refuses.

    `state_directory` is where the original is kept.
    """

    def __init__(self, path: Path, state_directory: Path) -> None:
        self._path = path
        self._lock_name = f"resolv.conf.{_identity(path)}.lock"
        self._lock: int | None = None
        self._made: Path | None = None  # the original, set aside by this agent
        self.state_directory = state_directory

    def __str__(self) -> str:
        return str(self._path)

    @property
    def kept(self) -> str:
        path = self._place(self._said()) or self._made
        return f"; the original is kept as {path}" if path and os.path.lexists(path) else ""

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
        lines = ["search " + " ".join(search)] if search else []
        lines += [f"nameserver {address}" for address in nameservers]

        def text(original: str) -> bytes:
            return "\n".join((FIRST_LINE, f"{_ORIGINAL}{original}", *lines, "")).encode()

        def make(path: Path) -> None:
            path.write_bytes(text(original))
            path.chmod(0o644)

        said = self._said()
        original = self._set_aside(self._path) if said is None else said
        if said is None or not self._path.is_symlink():  # else it was written through
            if self._replace(make):
                return
            if said is None:
                original = self._set_aside(self._target)
        _overwrite(self._path, text(original))

    def restore(self) -> bool:
        """Put the original back; returns whether there was one to put back.

        An error leaves it where it is, for the next agent's beginning.
        """
        said = self._said()
        if said is not None:
            self._put_back(said)
        for original in (self._made, self._place(said)):
            if original is not None:
                original.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # something else is kept there
                    original.parent.rmdir()
        self._made = None
        self._remove_state_directory()
        return said is not None

    def _put_back(self, said: str) -> None:
        original = self._place(said)
        if said == _NOTHING:
            self._target.unlink()
        elif original is None or not os.path.lexists(original):
            raise FileNotFoundError(errno.ENOENT, f"its original is gone ({said or 'not told'})")
        # What is renamed over the old file is no link, so one was written through.
        elif self._path.is_symlink() or not self._replace(lambda path: _copy(original, path)):
            _overwrite(self._path, original.read_bytes())

    @property
    def _target(self) -> Path:
        """The file itself, where the path is a link."""
        return Path(os.path.realpath(self._path))

    @property
    def _lock_file(self) -> Path:
        return self.state_directory / self._lock_name

    def _said(self) -> str | None:
        """Return what a file of ours says about its original, None where it is not ours."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            first, second = file.readline().rstrip("\n"), file.readline().rstrip("\n")
        if first != FIRST_LINE:
            return None
        return second.removeprefix(_ORIGINAL) if second.startswith(_ORIGINAL) else ""

    @staticmethod
    def _place(said: str | None) -> Path | None:
        """Return the original's path, where that was told."""
        return Path(said) if said and said.startswith("/") else None

    def _set_aside(self, path: Path) -> str:
        """Copy the original, and return what a file is to say about it."""
        if self._made is not None:  # of a file that somebody else has replaced
            self._made.unlink(missing_ok=True)
            self._made = None
        if not os.path.lexists(path):
            return _NOTHING
        try:
            self.state_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            writable = os.access(self.state_directory, os.W_OK)
        except OSError:
            writable = False
        if not writable:  # an ordinary user, root only of a namespace; or a /var that is read-only
            self.state_directory = Path(tempfile.mkdtemp(prefix="vsock-tap-"))
        self._made = self.state_directory / f"resolv.conf.{token_hex(4)}"
        _copy(path, self._made)
        _sync(self.state_directory)
        return str(self._made)

    def _replace(self, make: Callable[[Path], None]) -> bool:
        """Let `make` write a new file and rename it over the old one.

        Returns False where that cannot be but the old one might still be written.
        """
        new = self._path.with_name(f".{self._path.name}.vsock-tap")
        try:
            make(new)
            if not new.is_symlink():
                _sync(new)
            os.replace(new, self._path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            if error.errno not in _IN_PLACE:
                raise
            return False
        return True

    def _remove_state_directory(self) -> None:
        """Remove it, unless something is kept in it."""
        with contextlib.suppress(OSError):
            self.state_directory.rmdir()


def _identity(path: Path) -> str:
    """Return a name for the file's lock: two machines may share all but /etc.

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
    if not target.is_symlink():
        _sync(target)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk: power may fail after the next rename."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _overwrite(path: Path, data: bytes) -> None:
    """Write in place, and cut the rest off last: a full disk must leave the old or the new."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), "wb") as file:
        file.write(data)
        file.truncate()
