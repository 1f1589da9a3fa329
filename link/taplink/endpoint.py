"""Where a link goes to: its URL, and the byte stream behind it.

    vsock://CID:PORT/path   unix:///path   tcp://host:port/path     (byte streams)
    unixpacket:///path   unixgram:///path                           (packets, to be listened at)
    stdio:///program?flag=value                                     (a program to be started)

`vsock://null:PORT/folder` is what hyperkit on macOS has for vsock: a unix socket in that folder.

On Windows a listener's `vsock://:PORT` is Hyper-V's service for that port, as Linux guests have it,
and `vsock://GUID` any service (`hyperv`).  A GUID that stands for a port means that port on every
system, so that a configuration written for Windows serves elsewhere; others are Hyper-V's alone.

A URL that is refused, or that cannot be opened for a reason its user has to mend, is an
`EndpointError` of one line which names the URL.  A peer that cannot be reached right now is an
`OSError`, for the caller to try again.
"""

import asyncio
import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from taplink import hyperv
from taplink.liveness import end_when_dead
from taplink.text import reason

DEFAULT_REQUEST_PATH = "/connect"
_HYPERKIT_CID = 2
"""VMADDR_CID_HOST (linux/vm_sockets.h); hyperkit's sockets are called cid.port."""
VMADDR_CID_ANY = 0xFFFFFFFF
"""linux/vm_sockets.h; as a number in a URL it means what an empty CID means."""
MAX_UNIX_PATH = 107
"""sun_path with its closing zero is 108 bytes (unix(7))."""
UNIX_BUFFER = 4 * 1024 * 1024
"""Of a unix socket, each way.  The default, 208 KiB, holds three super-frames."""
VSOCK_BUFFER = 8 * 1024 * 1024
"""Of a vsock socket.  Linux 6.12.92 and later bound the queued packets as well as the bytes, and
reset a stream of many small frames that goes over; the bound follows this size."""

_BUFFER_OPTIONS = ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF))
"""Each behind its SO_…BUFFORCE (asm-generic/socket.h), which `socket` has no name for."""
_PORT = re.compile(r"[0-9]{1,10}")
_NO_SLASHES = re.compile(r"(unix|unixpacket|unixgram|stdio):(/.+)", re.IGNORECASE)
_PEER, _LISTENER = "vsock://2:1024", "vsock://:1024"
"""Examples for who wrote something else: of what is connected to, and of where to listen."""


class EndpointError(ValueError):
    """The URL does not say where to, or what it names cannot be opened."""


class Scheme(StrEnum):
    """The kind of transport."""

    VSOCK = "vsock"
    UNIX = "unix"
    TCP = "tcp"
    UNIXPACKET = "unixpacket"
    UNIXGRAM = "unixgram"
    STDIO = "stdio"


_TRANSPORTS = (Scheme.VSOCK, Scheme.UNIX, Scheme.TCP)
"""Byte streams, which can be opened."""
_UNIX_KINDS = {
    Scheme.UNIX: socket.SOCK_STREAM,
    Scheme.UNIXPACKET: getattr(socket, "SOCK_SEQPACKET", None),
    Scheme.UNIXGRAM: socket.SOCK_DGRAM,
}
DATAGRAM_BUFFERS = 1024 * 1024, 4 * 1024 * 1024
"""To send and to receive, of a socket for datagrams: those of Go's gvproxy for vfkit."""
_ANY_PORT = {(Scheme.TCP, 0), (Scheme.VSOCK, 0xFFFFFFFF)}
"""What a listener asks for any free port by; vsock's is VMADDR_PORT_ANY (linux/vm_sockets.h)."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A parsed URL; which of the fields mean something depends on the scheme.

    `cid` is None where a listener takes any.  `service` is the GUID of one of Hyper-V's that
    stands for no port, in lower case.  `host` is a name or an address without brackets, empty for
    every address of the machine.  `request_path` is what /connect is called there, and
    `arguments` are those of a program at `path`.
    """

    scheme: Scheme
    cid: int | None = None
    service: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    request_path: str = DEFAULT_REQUEST_PATH
    arguments: tuple[str, ...] = ()
    url: str = field(default="", compare=False)

    def __str__(self) -> str:
        """Give back the URL as it was written."""
        return self.url


def parse_peer(url: str) -> Endpoint:
    """Read the URL of what is to be connected to; raises EndpointError."""
    endpoint = parse(url, schemes=(*_TRANSPORTS, Scheme.STDIO))
    _check_peer(endpoint)
    return endpoint


def parse_listener(url: str, *schemes: Scheme) -> Endpoint:
    """Read the URL of where to listen, for byte streams unless others are named.

    Raises EndpointError.
    """
    example = _example(url, schemes) if schemes else _LISTENER
    endpoint = parse(url, example, schemes or _TRANSPORTS)
    if not schemes:
        _check_transport(endpoint, _LISTENER)
    elif endpoint.scheme not in schemes:
        wanted = " or ".join(f"{scheme}://" for scheme in schemes)
        raise EndpointError(f"{endpoint}: must be a {wanted} URL")
    return endpoint


def _example(url: str, schemes: Sequence[Scheme]) -> str:
    """Return what a URL of the first scheme looks like, with the path that was meant, if any."""
    place = "HOST:PORT" if schemes[0] is Scheme.TCP else url if url.startswith("/") else "/PATH"
    return f"{schemes[0]}://{place}"


def parse(url: str, example: str = _PEER, schemes: Sequence[Scheme] = _TRANSPORTS) -> Endpoint:
    """Read any endpoint's URL.

    Raises EndpointError, which shows the example and the schemes where it helps.
    """
    # urlsplit drops some of these silently, and none of them belongs into a request head.
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in url):
        raise EndpointError(f"{url!r}: a URL has no spaces or control characters")
    name, separator, _ = url.partition("://")
    if not separator:
        if slashes := _NO_SLASHES.fullmatch(url):
            example = f"{slashes[1].lower()}://{slashes[2]}"
        elif url.startswith("/") and example in (_PEER, _LISTENER):
            example = f"unix://{url}"
        raise EndpointError(f"{url!r} is no URL, such as {example}")
    try:
        scheme = Scheme(name.lower())
    except ValueError:
        known = ", ".join(f"{scheme}://" for scheme in schemes)
        raise EndpointError(f"{url}: unknown scheme {name!r} (known are {known})") from None
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise EndpointError(f"{url}: {error}") from None
    if parts.fragment or "@" in parts.netloc or (parts.query and scheme is not Scheme.STDIO):
        raise EndpointError(f"{url}: a user, a query or a fragment has no meaning here")
    match scheme:
        case Scheme.VSOCK:
            return _parse_vsock(url, parts.netloc, parts.path, example)
        case Scheme.TCP:
            return _parse_tcp(url, parts.netloc, parts.path)
        case _:
            if parts.netloc:
                raise EndpointError(f"{url}: the path must be absolute: {scheme}:///path")
            arguments = tuple(f"-{flag}={value}" for flag, value in parse_qsl(parts.query, True))
            return Endpoint(
                scheme, path=_socket_path(url, parts.path), arguments=arguments, url=url
            )


def _parse_vsock(url: str, authority: str, path: str, example: str) -> Endpoint:
    if hyperv.is_guid(authority):
        return _parse_service(url, authority, path)
    name, separator, port = authority.rpartition(":")
    if not separator:
        guid = "no GUID, which has 8-4-4-4-12 hexadecimal digits, and " if "-" in authority else ""
        raise EndpointError(f"{url}: {guid}no port, such as {example}")
    if name == "null":
        number = _number(url, "port", port, 0xFFFFFFFF)
        folder = _socket_path(url, path.rstrip("/"))
        hyperkit = f"{folder}/{_HYPERKIT_CID:08x}.{number:08x}"
        return Endpoint(Scheme.UNIX, path=_socket_path(url, quote(hyperkit)), url=url)
    cid = _number(url, "CID", name, 0xFFFFFFFF) if name else VMADDR_CID_ANY
    return Endpoint(
        Scheme.VSOCK,
        cid=None if cid == VMADDR_CID_ANY else cid,
        port=_number(url, "port", port, 0xFFFFFFFF),
        request_path=_request_path(url, path),
        url=url,
    )


def _parse_service(url: str, guid: str, path: str) -> Endpoint:
    port = hyperv.port_of(guid)
    return Endpoint(
        Scheme.VSOCK,
        service=guid.lower() if port is None else "",
        port=port or 0,
        request_path=_request_path(url, path),
        url=url,
    )


def _parse_tcp(url: str, authority: str, path: str) -> Endpoint:
    host, separator, port = authority.rpartition(":")
    if not separator:
        raise EndpointError(f"{url}: no port, such as tcp://127.0.0.1:1024")
    if not host.isascii():
        raise EndpointError(f"{url}: the host is not ASCII")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise EndpointError(f"{url}: an IPv6 address stands in brackets")
    try:
        host.encode("idna")  # as `socket` and `asyncio` will
    except UnicodeError:
        why = "each part of a host's name has 1 to 63 characters"
        raise EndpointError(f"{url}: {why}, such as tcp://gateway.example:1024") from None
    return Endpoint(
        Scheme.TCP,
        host=host,
        port=_number(url, "port", port, 0xFFFF),
        request_path=_request_path(url, path),
        url=url,
    )


def _number(url: str, what: str, text: str, limit: int) -> int:
    if not _PORT.fullmatch(text) or int(text) > limit:
        raise EndpointError(f"{url}: the {what} is a number from 0 to {limit}, not {text!r}")
    return int(text)


def _request_path(url: str, path: str) -> str:
    if not path.isascii():
        raise EndpointError(f"{url}: the path is not ASCII")
    return path if path not in ("", "/") else DEFAULT_REQUEST_PATH


def _socket_path(url: str, quoted: str) -> str:
    path = unquote(quoted)
    if path in ("", "/"):
        raise EndpointError(f"{url}: no path, such as unix:///run/gvproxy.sock")
    if "\0" in path:
        raise EndpointError(f"{url}: the path holds a zero byte")
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise EndpointError(f"{url}: the path is longer than {MAX_UNIX_PATH} bytes")
    return path


def _check_transport(endpoint: Endpoint, example: str) -> None:
    if endpoint.scheme not in _TRANSPORTS:
        why = f"{endpoint.scheme}:// is no byte stream"
        examples = f"{example}, unix:///run/gvproxy.sock or tcp://127.0.0.1:1024"
        raise EndpointError(f"{endpoint}: {why}; take one such as {examples}")


def _check_peer(endpoint: Endpoint) -> None:
    """Raise EndpointError for what can be listened at, but never connected to."""
    if endpoint.scheme is Scheme.STDIO:
        return
    _check_transport(endpoint, _PEER)
    if endpoint.scheme is Scheme.TCP and not endpoint.host:
        raise EndpointError(f"{endpoint}: no host to connect to, such as tcp://127.0.0.1:1024")
    if endpoint.scheme is Scheme.VSOCK and endpoint.cid is None:
        raise EndpointError(f"{endpoint}: no CID to connect to; the host is {_PEER}")
    if (endpoint.scheme, endpoint.port) in _ANY_PORT:
        raise EndpointError(f"{endpoint}: port {endpoint.port} is any free one; 1024 is a port")


# Opening


async def connect(endpoint: Endpoint, timeout: float) -> socket.socket:
    """Open the byte stream: a connected, non-blocking socket with its buffers set.

    Not that of a program, which is started (`program`).  `timeout` is in seconds and covers looking
    up a name.  Raises OSError, TimeoutError among them, when the peer cannot be reached now, and
    EndpointError when it never can.
    """
    assert endpoint.scheme is not Scheme.STDIO
    _check_peer(endpoint)
    async with asyncio.timeout(timeout):
        match endpoint.scheme:
            case Scheme.UNIX:
                return await _connect_unix(endpoint)
            case Scheme.TCP:
                return await _connect_tcp(endpoint)
            case _:
                address = (endpoint.cid, endpoint.port)
                return await _connect_socket(_vsock_socket(endpoint), address)


async def _connect_unix(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    set_unix_buffers(sock)
    return await _connect_socket(sock, endpoint.path)


async def _connect_tcp(endpoint: Endpoint) -> socket.socket:
    infos = await asyncio.get_running_loop().getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    )
    failure: OSError = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
    for family, kind, protocol, _, address in infos:
        sock = socket.socket(family, kind, protocol)
        try:
            await _connect_socket(sock, address)
        except OSError as error:
            failure = error
            continue
        set_no_delay(sock)
        end_when_dead(sock)
        return sock
    raise failure


async def _connect_socket(sock: socket.socket, address: object) -> socket.socket:
    """Connect by hand: uvloop's `sock_connect` resolves addresses of families it does not know."""
    loop = asyncio.get_running_loop()
    try:
        sock.setblocking(False)
        # EAGAIN is a unix listener whose backlog is full (unix(7)): an error, nothing is under way.
        status = sock.connect_ex(address)  # type: ignore[arg-type]
        if status == errno.EINPROGRESS:
            writable = asyncio.Event()
            loop.add_writer(sock, writable.set)
            try:
                await writable.wait()
            finally:
                loop.remove_writer(sock)
            status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            raise OSError(status, os.strerror(status))
    except BaseException:
        sock.close()
        raise
    return sock


def listen(endpoint: Endpoint, backlog: int = 1024) -> socket.socket:
    """Open a non-blocking listening socket; raises EndpointError with the reason in one line.

    One for datagrams listens by being there.  A unix socket has mode 0600 from the moment it
    exists.  A socket file nobody answers on any more is replaced; anything else at that path is
    left alone and refused.
    """
    try:
        match endpoint.scheme:
            case Scheme.UNIX | Scheme.UNIXPACKET | Scheme.UNIXGRAM:
                sock = _bind_unix(endpoint)
            case Scheme.TCP:
                sock = _bind_tcp(endpoint)
            case Scheme.VSOCK:
                sock = _bind_hyperv(endpoint) if hyperv.available() else _bind_vsock(endpoint)
            case Scheme.STDIO:
                raise EndpointError(f"{endpoint}: nobody connects to a program")
        if endpoint.scheme is not Scheme.UNIXGRAM:
            sock.listen(backlog)
    except OSError as error:
        raise EndpointError(f"{endpoint}: {reason(error)}") from error
    sock.setblocking(False)
    return sock


def identity(path: str) -> tuple[int, int] | None:
    """Tell which file is at a path; None where there is none."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def unlink(path: str, listener: tuple[int, int] | None) -> OSError | None:
    """Remove the file of a listener, by its `identity`, unless another has taken its place.

    Returns why it is still there, if it is.
    """
    if listener is not None and identity(path) == listener:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return error
    return None


def _bind_unix(endpoint: Endpoint) -> socket.socket:
    kind = _UNIX_KINDS[endpoint.scheme]
    if kind is None:
        raise EndpointError(f"{endpoint}: this system has no such sockets")
    _remove_stale(endpoint, kind)
    sock = socket.socket(socket.AF_UNIX, kind)
    buffers = DATAGRAM_BUFFERS if endpoint.scheme is Scheme.UNIXGRAM else (UNIX_BUFFER,) * 2
    set_unix_buffers(sock, *buffers)
    mask = os.umask(0o177)
    try:
        return _bind(sock, endpoint.path)
    finally:
        os.umask(mask)


def _remove_stale(endpoint: Endpoint, kind: socket.SocketKind) -> None:
    """Remove what a killed listener left at the path; raises EndpointError for anything else."""
    try:
        mode = os.lstat(endpoint.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise EndpointError(f"{endpoint}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        status = probe.connect_ex(endpoint.path)
    if status != errno.ECONNREFUSED:
        # EPROTOTYPE: one of another kind does; EPERM: one that is connected.
        there = status in (0, errno.EAGAIN, errno.EPROTOTYPE, errno.EPERM)
        why = "somebody listens there" if there else os.strerror(status)
        raise EndpointError(f"{endpoint}: the socket exists: {why}")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(endpoint.path)


def _bind_tcp(endpoint: Endpoint) -> socket.socket:
    if not endpoint.host:
        return socket.create_server(
            ("", endpoint.port),
            family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
            dualstack_ipv6=socket.has_dualstack_ipv6(),
        )
    info = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    if os.name == "posix":
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _bind(sock, info[4])


def _bind_vsock(endpoint: Endpoint) -> socket.socket:
    if endpoint.service:
        why = "a service of Hyper-V's needs Windows and Python 3.12 or newer"
        raise EndpointError(f"{endpoint}: {why}; a port is such as {_LISTENER}")
    cid = VMADDR_CID_ANY if endpoint.cid is None else endpoint.cid
    return _bind(_vsock_socket(endpoint), (cid, endpoint.port))


def _bind_hyperv(endpoint: Endpoint) -> socket.socket:
    if endpoint.cid is not None:
        raise EndpointError(f"{endpoint}: Hyper-V's guests have no CIDs; take {_LISTENER}")
    try:
        service = endpoint.service or hyperv.service_of(endpoint.port)
    except ValueError as error:
        raise EndpointError(f"{endpoint}: {error}") from None
    return _bind(hyperv.make_socket(), hyperv.any_vm(service))


def _bind(sock: socket.socket, address: object) -> socket.socket:
    try:
        sock.bind(address)  # type: ignore[arg-type]
    except BaseException:
        sock.close()
        raise
    return sock


def accepted(sock: socket.socket) -> socket.socket:
    """Prepare a socket a listener has accepted as `connect` prepares its own; returns it."""
    sock.setblocking(False)
    if hasattr(socket, "AF_UNIX") and sock.family == socket.AF_UNIX:
        set_unix_buffers(sock)
    elif sock.family in (socket.AF_INET, socket.AF_INET6):
        set_no_delay(sock)
    return sock


def set_no_delay(sock: socket.socket) -> None:
    """Turn Nagle's algorithm off: a batch of frames is as large as it will get."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def set_unix_buffers(
    sock: socket.socket, send: int = UNIX_BUFFER, receive: int = UNIX_BUFFER
) -> None:
    """Raise both buffers: past net.core.{w,r}mem_max for root, up to it for others."""
    for (forced, option), size in zip(_BUFFER_OPTIONS, (send, receive), strict=True):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except OSError:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, size)


def _vsock_socket(endpoint: Endpoint) -> socket.socket:
    """Make a socket whose accepted or own connection has the large buffer (vsock(7))."""
    if not hasattr(socket, "AF_VSOCK"):
        why = "this system has no vsock sockets (on Windows they need Python 3.12 or newer)"
        raise EndpointError(f"{endpoint}: {why}")
    sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_MAX_SIZE, VSOCK_BUFFER)
        sock.setsockopt(socket.AF_VSOCK, socket.SO_VM_SOCKETS_BUFFER_SIZE, VSOCK_BUFFER)
    except BaseException:
        sock.close()
        raise
    return sock
