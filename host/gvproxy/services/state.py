"""What outlasts a daemon with -state-dir: leases, and what the API has published and named.

One JSON file, written as a whole and put in the place of the last one, so that a crash leaves one
or the other.  A file that cannot be understood is set aside, and the daemon starts without.  A
folder is one daemon's alone.  `keeper` fills it.
"""

import json
import logging
import os
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import BinaryIO

from gvproxy.config import Forward, Zone
from gvproxy.errors import BadZoneError, StartError
from gvproxy.services import zonejson
from taplink.text import reason

log = logging.getLogger(__name__)

FILE = "state.json"
ASIDE = "state.json.broken"
LOCK = "lock"
VERSION = 1
MAX_SIZE = 16 << 20


@dataclass(frozen=True, slots=True)
class SavedLease:
    """A lease; `key` is the client's, in hexadecimal digits; `expires` is in seconds since 1970."""

    address: str
    key: str
    mac: str
    name: str
    expires: float


@dataclass(frozen=True, slots=True)
class State:
    """All of it."""

    leases: list[SavedLease] = field(default_factory=list)
    forwards: list[Forward] = field(default_factory=list)
    zones: list[Zone] = field(default_factory=list)


class StateFile:
    """The file in a folder, which is made where it is missing, and locked until `close`."""

    def __init__(self, folder: Path) -> None:
        """Raises StartError."""
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(folder / LOCK)
        except BlockingIOError as error:
            raise StartError(f"-state-dir {folder} is another gvproxy's") from error
        except (OSError, ValueError) as error:
            raise StartError(f"-state-dir {folder} cannot be used: {reason(error)}") from error

    def load(self) -> State:
        """Return what the last daemon left; what makes no sense is set aside.

        Raises StartError where the file cannot be read, or not be set aside.
        """
        path, aside = self._folder / FILE, self._folder / ASIDE
        try:
            with open(path, "rb", opener=_regular) as file:
                text = file.read(MAX_SIZE)
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise StartError(f"-state-dir: {path} cannot be read: {reason(error)}") from error
        try:
            return decode(text)
        except ValueError as error:
            problem = str(error)
        try:
            path.replace(aside)
        except OSError as error:
            why = f"{path} is broken ({problem}), and cannot become {aside}"
            raise StartError(f"-state-dir: {why}: {reason(error)}") from error
        log.warning(
            "%s is broken (%s): it is %s now, and all it said is lost", path, problem, aside
        )
        return State()

    def save(self, text: bytes) -> None:
        """Put `text` in the file's place; raises OSError, and then the file is as it was."""
        if not os.path.samestat(os.fstat(self._lock.fileno()), os.stat(self._folder / LOCK)):
            raise OSError("the folder was made anew, and another gvproxy has it by now")
        new = self._folder / f"{FILE}.new"
        try:
            with open(new, "w+b", opener=_regular) as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._folder / FILE)
        except OSError:
            with suppress(OSError):  # what is in it takes room on a disk that has none
                os.truncate(new, 0)
            raise

    def close(self) -> None:
        """Let another daemon have the folder."""
        self._lock.close()


def _regular(path: str, flags: int) -> int:
    """Open a regular file; raises OSError for anything else, which might keep us waiting."""
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{os.path.basename(path)} is no regular file")
    return descriptor


def _lock(path: Path) -> BinaryIO:
    """Lock a file until it is closed; raises OSError, BlockingIOError where it is locked."""
    file = open(path, "a+b", opener=_regular)  # noqa: SIM115
    with suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
    return file


def encode(state: State) -> bytes:
    """Write the file's contents."""
    return json.dumps(
        {
            "version": VERSION,
            "leases": [asdict(lease) for lease in state.leases],
            "forwards": [
                {"local": one.local, "remote": one.remote, "protocol": one.protocol}
                for one in state.forwards
            ],
            "zones": [zonejson.encode(zone) for zone in state.zones],
        },
        indent=1,
    ).encode()


def decode(text: bytes) -> State:
    """Read the file's contents; raises ValueError with what is wrong."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        raise ValueError(f"it is not of version {VERSION}")
    try:
        leases = [_lease(one) for one in tree["leases"]]
        forwards = [
            Forward(*(_text(one, name) for name in ("local", "remote", "protocol")))
            for one in tree["forwards"]
        ]
        zones = [
            zonejson.decode({key.lower(): value for key, value in one.items()})
            for one in tree["zones"]
        ]
    except (BadZoneError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it lacks something, or has something wrong: {error}") from None
    return State(leases, forwards, zones)


def _lease(tree: Mapping[str, object]) -> SavedLease:
    """Read a lease, of which each part is what it should be."""
    address, key, mac, name = (_text(tree, part) for part in ("address", "key", "mac", "name"))
    expires = tree["expires"]
    if not isinstance(expires, int | float) or not 0 <= expires < sys.maxsize:
        raise ValueError(f"{expires!r:.40} is no time")
    if not name.isascii():
        raise ValueError(f"{name!r} is no client's name")
    IPv4Address(address)
    if not bytes.fromhex(key) or len(bytes.fromhex(mac.replace(":", ""))) != 6:
        raise ValueError(f"{key!r} and {mac!r} are no client's")
    return SavedLease(address, key, mac, name, expires)


def _text(tree: Mapping[str, object], key: str) -> str:
    value = tree[key]
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
