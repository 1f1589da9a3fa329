"""Sockets that systemd has opened for us (sd_listen_fds(3), systemd.socket(5)).

A socket's FileDescriptorName says what it is for: `qemu`, `vpnkit`, `bess`, `vfkit` for guests of
these dialects, `tap` for taps that are handed over, `services` for API calls only, `listen` or
anything else for what -listen is.
"""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from gvproxy.errors import ConfigError
from gvproxy.listening import Dialect, is_loopback

FIRST = 3  # SD_LISTEN_FDS_START
SERVICES = "services"
_KINDS = {
    Dialect.BESS: getattr(socket, "SOCK_SEQPACKET", None),
    Dialect.VFKIT: socket.SOCK_DGRAM,
}
"""All others are byte streams."""


@dataclass(frozen=True, slots=True)
class Inherited:
    """One such socket, which does not block; no `dialect` means -listen, or -services."""

    sock: socket.socket
    descriptor: int
    name: str
    dialect: Dialect | None

    def __str__(self) -> str:
        return f"systemd's socket {self.name or self.descriptor}"

    @property
    def known(self) -> bool:
        """Tell whether the name says what the socket is for, or nobody has given it one."""
        unnamed = self.name in ("", "unknown", "listen") or self.name.endswith(".socket")
        return unnamed or self.dialect is not None or self.name == SERVICES


def sockets() -> tuple[Inherited, ...]:
    """Take them over, once; raises ConfigError for one that is not of the kind its name needs."""
    environment = {key: os.environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES")}
    if environment["PID"] != str(os.getpid()) or not environment["FDS"].isdecimal():
        return ()
    names = environment["FDNAMES"].split(":")
    return tuple(
        _take(FIRST + number, names[number] if number < len(names) else "")
        for number in range(int(environment["FDS"]))
    )


def _take(descriptor: int, name: str) -> Inherited:
    shown = name or descriptor
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"systemd's socket {shown} cannot be used: {error.strerror}") from error
    sock.set_inheritable(False)
    sock.setblocking(False)
    dialect = Dialect(name) if name in set(Dialect) else None
    wanted = socket.SOCK_STREAM if dialect is None else _KINDS.get(dialect, socket.SOCK_STREAM)
    if sock.type != wanted:
        sock.close()
        raise ConfigError(f"systemd's socket {shown} is of another type than that name needs")
    return Inherited(sock, descriptor, name, dialect)


def check_loopback(inherited: Iterable[Inherited]) -> None:
    """Raise ConfigError where the API, which asks for no token, listens to other machines."""
    for one in inherited:
        internet = one.sock.family in (socket.AF_INET, socket.AF_INET6)
        if one.dialect is None and internet and not is_loopback(one.sock.getsockname()[0]):
            raise ConfigError(
                f"{one} takes calls of other machines, which needs an -api-token-file"
            )
