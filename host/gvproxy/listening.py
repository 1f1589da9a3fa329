"""Where the daemon is told to listen, and for whom; `config` has the other settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from gvproxy.errors import ConfigError
from taplink import endpoint
from taplink.endpoint import Endpoint, Scheme

DEFAULT_LISTEN = "vsock://:1024"
"""Where nothing else is asked for; Go's gvproxy 0.1.0 had it."""


class Dialect(StrEnum):
    """How a hypervisor speaks at a socket of its own, as its flag is called."""

    QEMU = "qemu"
    VPNKIT = "vpnkit"
    BESS = "bess"
    VFKIT = "vfkit"
    TAP = "tap"
    """Not a hypervisor's: a tap is handed over there."""


@dataclass(frozen=True, slots=True)
class Interface:
    """Where guests of one dialect come to."""

    dialect: Dialect
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Places:
    """All of them: `listen` takes guests and API calls, `services` only the latter."""

    listen: tuple[Endpoint, ...]
    services: tuple[Endpoint, ...]
    interfaces: tuple[Interface, ...]


_SCHEMES = {
    Dialect.QEMU: (Scheme.UNIX, Scheme.TCP),
    Dialect.VPNKIT: (Scheme.UNIX, Scheme.TCP, Scheme.VSOCK),
    Dialect.BESS: (Scheme.UNIXPACKET,),
    Dialect.VFKIT: (Scheme.UNIXGRAM,),
    Dialect.TAP: (Scheme.UNIX,),
}
_ELSEWHERE: dict[str, str] = {
    Scheme.UNIXPACKET: f"-listen-{Dialect.BESS}",
    Scheme.UNIXGRAM: f"-listen-{Dialect.VFKIT}",
    Scheme.STDIO: "-listen-stdio",
}
"""The flags of what is no byte stream, or not to be listened at."""
_EXCLUSIVE = (Dialect.QEMU, Dialect.VPNKIT, Dialect.BESS)
"""Of these Go's gvproxy takes one."""


def read(
    listen: Sequence[str],
    services: str | None,
    dialects: Mapping[Dialect, str | None],
    *,
    others: bool,
    token: bool,
) -> Places:
    """Read the URLs; where guests come in `others` ways there is no default.

    Unless a `token` is asked for, TCP is for this machine alone.  Raises ConfigError.
    """
    interfaces = _interfaces({dialect: url for dialect, url in dialects.items() if url})
    taken = tuple(interface.endpoint for interface in interfaces)
    default = () if interfaces or others else (DEFAULT_LISTEN,)
    for url in listen:
        flag = _ELSEWHERE.get(url.partition("://")[0].lower())
        if flag is not None:
            raise ConfigError(f"-listen: {url!r} belongs to {flag}")
    where = _endpoints("-listen", listen or default, taken)
    taken += where
    desks = _endpoints("-services", [services] if services else [], taken)
    if not token:
        for flag, endpoints in (("-listen", where), ("-services", desks)):
            _check_loopback(flag, endpoints)
    return Places(where, desks, interfaces)


def _check_loopback(flag: str, endpoints: Sequence[Endpoint]) -> None:
    for one in endpoints:
        if one.scheme is Scheme.TCP and not is_loopback(one.host):
            raise ConfigError(
                f"{flag}: {one} takes calls of other machines, which needs an -api-token-file; "
                "127.0.0.1 takes those of this one"
            )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can connect to a host's address, or to `localhost`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _interfaces(urls: Mapping[Dialect, str]) -> tuple[Interface, ...]:
    exclusive = [f"-listen-{dialect}" for dialect in _EXCLUSIVE if dialect in urls]
    if len(exclusive) > 1:
        raise ConfigError(f"{exclusive[0]} and {exclusive[1]} cannot both be given")
    interfaces: tuple[Interface, ...] = ()
    for dialect, url in urls.items():
        try:
            where = endpoint.parse_listener(url, *_SCHEMES[dialect])
        except endpoint.EndpointError as error:
            raise ConfigError(f"-listen-{dialect}: {error}") from error
        if any(where.path and where.path == other.endpoint.path for other in interfaces):
            raise ConfigError(f"-listen-{dialect}: {where} is given twice")
        interfaces += (Interface(dialect, where),)
    return interfaces


def _endpoints(
    flag: str, urls: Sequence[str], others: tuple[Endpoint, ...] = ()
) -> tuple[Endpoint, ...]:
    """Read the URLs of listeners, each of which is one besides `others`."""
    endpoints: tuple[Endpoint, ...] = ()
    for url in urls:
        try:
            one = endpoint.parse_listener(url)
        except endpoint.EndpointError as error:
            raise ConfigError(f"{flag}: {error}") from error
        if any(
            one == other or (one.path and one.path == other.path) for other in (*others, *endpoints)
        ):
            raise ConfigError(f"{flag}: {one} is given twice")
        endpoints += (one,)
    return endpoints


def read_notification(text: str) -> Path:
    """Read the path of a unix socket, as such or as a URL; raises ConfigError."""
    path = text.removeprefix("unix://")
    if "://" in path or "\0" in path or not path:
        raise ConfigError(f"-notification must be the path of a unix socket, not {text!r}")
    return Path(path)
