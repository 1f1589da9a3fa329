"""What a forward may say: the texts of its two sides, read and checked, without any I/O.

A side of TCP and UDP is `host:port` or `host:first-last`.  What is published as a unix socket or a
named pipe leads to a URL: `tcp://host:port`, or `ssh-tunnel://user@host:port/path?key=FILE` for a
unix socket of the guest's.  Whether a host is one of the network's is not known here.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from gvproxy.errors import BadLocalError, BadPortError, BadRemoteError, UnknownProtocolError

SSH_PORT = 22
MAX_RANGE = 1024
"""Ports of one forward, which takes 40 ms by then, and a guest may ask for it."""
MAX_HOST = 255
"""Characters; each port of a range is known by a text with it."""
_QUERY = re.compile("[?&#].*", re.DOTALL)
_NUMBER = re.compile("[0-9]{1,5}")


class Protocol(StrEnum):
    """What the API calls the kinds of forwards."""

    TCP = "tcp"
    UDP = "udp"
    UNIX = "unix"
    NPIPE = "npipe"

    @property
    def has_ports(self) -> bool:
        """Its local side is a port, and not a name in the file system."""
        return self in (Protocol.TCP, Protocol.UDP)


@dataclass(frozen=True, slots=True)
class Local:
    """What is published, by the `name` the API shows: a port of the host's, or a path.

    No `host` means all addresses of both families, as in Go.
    """

    name: str
    host: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Remote:
    """A port of a guest's; no `host` means the caller's own."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return it as the API shows it."""
        return f"{self.host}:{self.port}"

    @property
    def kept(self) -> str:
        """Return it as it can be published by again."""
        return str(self)


@dataclass(frozen=True, slots=True)
class UrlRemote(Remote):
    """The same, written as a URL."""

    def __str__(self) -> str:
        """Return it as the API shows it."""
        return f"tcp://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SshRemote(Remote):
    """A unix socket of a guest's, reached through the guest's sshd."""

    user: str
    path: str
    key: str
    passphrase: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Return it as the API shows it, to guests too: without the key and its passphrase."""
        where = f"{quote(self.user)}@{self.host}:{self.port}"
        return f"ssh-tunnel://{where}{quote(self.path)}"

    @property
    def kept(self) -> str:
        """Return it as the state has it: the file of the key, but not its passphrase."""
        return f"{self}?key={quote(self.key)}"


def read_protocol(text: str) -> Protocol:
    """Read the name of a protocol; raises UnknownProtocolError."""
    try:
        return Protocol(text)
    except ValueError:
        raise UnknownProtocolError(text) from None


def read(protocol: Protocol, local: str, remote: str) -> list[tuple[Local, Remote]]:
    """Read both sides: several pairs for ranges of ports, else one.

    Raises BadLocalError, BadRemoteError and BadPortError.
    """
    locals_ = read_locals(protocol, local)
    if not remote:
        raise BadRemoteError("remote is missing")
    remotes = _ports(remote) if protocol.has_ports else [_url(remote)]
    if len(locals_) != len(remotes):
        counts = f"has {len(remotes)} ports, and local {local!r} has {len(locals_)}"
        raise BadRemoteError(f"remote {public(remote)!r} {counts}")
    return list(zip(locals_, remotes, strict=True))


def read_locals(protocol: Protocol, text: str) -> list[Local]:
    """Read what is, or is to be, published; raises BadLocalError and BadPortError."""
    if not text:
        raise BadLocalError("local is missing")
    if protocol is Protocol.UNIX:
        path = text.removeprefix("unix://")
        if not path.startswith("/") or path.endswith("/") or "\0" in path or not _is_text(path):
            raise BadLocalError(f"local {public(text)!r} is no absolute path of a unix socket")
        return [Local(path)]
    if protocol is Protocol.NPIPE:
        return [Local(text)]
    if _is_url(text):
        raise BadLocalError(f"local {public(text)!r} must be host:port, and no URL")
    host, separator, ports = text.rpartition(":")
    if not separator:
        raise BadLocalError(f"local {text!r} has no port")
    if len(host) > MAX_HOST:
        raise BadLocalError(f"local has a host of more than {MAX_HOST} characters")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return [Local(f"{host}:{port}", bare, port) for port in _range(ports)]


def _ports(text: str) -> list[Remote]:
    if _is_url(text):
        raise BadRemoteError(f"remote {public(text)!r} must be host:port, and no URL")
    host, separator, ports = text.rpartition(":")
    if not separator:
        raise BadRemoteError(f"remote {text!r} has no port")
    return [Remote(host, port) for port in _range(ports)]


def _url(text: str) -> Remote:
    try:
        url = urlsplit(text)
        text.encode()
    except ValueError:
        raise BadRemoteError(f"remote {public(text)!r} is no URL") from None
    match url.scheme:
        case "tcp":
            host, separator, port = url.netloc.rpartition(":")
            if not separator:
                raise BadRemoteError(f"remote {public(text)!r} has no port")
            return UrlRemote(host, _port(port))
        case "ssh-tunnel":
            return _ssh(text, url)
        case _:
            raise BadRemoteError(
                f"remote {public(text)!r} must be tcp://host:port or "
                "ssh-tunnel://user@host:port/path?key=FILE"
            )


def _ssh(text: str, url: SplitResult) -> SshRemote:
    user, separator, where = url.netloc.rpartition("@")
    if not (user and separator):
        raise BadRemoteError(f"remote {public(text)!r} names no user")
    if not unquote(url.path).strip("/"):
        raise BadRemoteError(f"remote {public(text)!r} has no path of a socket in the guest")
    values = {name: values[0] for name, values in parse_qs(url.query).items()}
    if not values.get("key"):
        raise BadRemoteError(f"remote {public(text)!r} names no key, a file of the host's")
    host, _, port = where.partition(":")
    return SshRemote(
        host=host,
        port=_port(port) if port else SSH_PORT,
        user=unquote(user),
        path=unquote(url.path),
        key=values["key"],
        passphrase=values.get("passphrase"),
    )


def _is_text(text: str) -> bool:
    """Tell whether it can be written in UTF-8: JSON may have half a surrogate pair in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def public(url: str) -> str:
    """Leave out of what is shown or logged what may be secret: a query, or what was to be one."""
    return _QUERY.sub("", url)


def _is_url(text: str) -> bool:
    """Tell whether a URL was given for a port, of which not even a part is to be shown as one."""
    return "://" in text or bool(_QUERY.search(text))


def _range(text: str) -> range:
    """Read a port, or the first and the last one."""
    first, separator, last = text.partition("-")
    if not separator:
        return range(_port(text), _port(text) + 1)
    found = range(_port(first), _port(last) + 1)
    if not found:
        raise BadPortError(f"ports {text!r} are no range: the first comes first")
    if len(found) > MAX_RANGE:
        raise BadPortError(f"ports {text!r} are more than {MAX_RANGE}")
    return found


def _port(text: str) -> int:
    if not (_NUMBER.fullmatch(text) and 0 < int(text) <= 65535):
        raise BadPortError(f"port {public(text)!r} is not a number from 1 to 65535")
    return int(text)
