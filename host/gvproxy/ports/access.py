"""Who may call the API, by what the kernel says of a connection and what a request's head says.

* At a unix socket: the daemon's own user and root (SO_PEERCRED of unix(7)); where the system has no
  such thing the file's mode alone decides.
* Over TCP, any user of the machine can connect, a web page in a browser too.  With a token, who
  has it may call, under whatever name the host is known.  Without, the listener is at a loopback
  address (`listening` sees to it), and the host has to be called by an address or `localhost`: a
  page that has its own name lead here (DNS rebinding) gives that name.
* Everywhere: no call comes from a page of another origin.  Browsers tell in POSTs, and in whatever
  a page could read the answer of, where the page is from (the Fetch standard, §3.2).

Who comes over vsock is a guest, of whom nothing of this is asked.
"""

import logging
import os
import socket
import struct
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from gvproxy.complaint import Complaint
from taplink.bearer import Bearer

log = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")  # struct ucred of <sys/socket.h>: pid, uid, gid
_INTERNET = (socket.AF_INET, socket.AF_INET6)
LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a caller is told that may not call."""

    status: HTTPStatus
    text: str

    @property
    def headers(self) -> dict[str, str]:
        """Return those that belong to the status (RFC 9110 §11.6.1)."""
        return {"WWW-Authenticate": "Bearer"} if self.status is HTTPStatus.UNAUTHORIZED else {}

    def response(self) -> bytes:
        """Return it as the whole of an HTTP response, after which the connection ends."""
        body = f"{self.text}\n"
        fields = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body.encode())),
            "Connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in (self.headers | fields).items())
        return f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n{lines}\r\n{body}".encode()

    def answer(self, sock: socket.socket) -> None:
        """Send the response on a socket, non-blocking, and close it."""
        with suppress(OSError):
            sock.send(self.response())
            # What is unread would make a reset of the close, which can overtake the answer.
            sock.recv(1 << 16)
        sock.close()


@dataclass(slots=True)
class Counters:
    """Who was turned away: other users, callers without the token, web pages and wrong names."""

    strangers: int = 0
    unauthorized: int = 0
    foreign: int = 0


class Access:
    """The rules of one daemon; `token` is asked for over TCP, where there is one."""

    def __init__(self, token: Bearer | None = None) -> None:
        self.counters = Counters()
        self._token = token
        self._complaint = Complaint(log)

    def refusal_of_user(self, sock: socket.socket, users: Collection[int]) -> Refusal | None:
        """Tell why whoever has connected to a unix socket may not call; raises OSError."""
        credentials = peer_credentials(sock)
        if credentials is None or credentials[1] in users:
            return None
        _, uid = credentials
        self.counters.strangers += 1
        return Refusal(HTTPStatus.FORBIDDEN, f"user {uid} may not call")

    def refusal(self, family: int, headers: Mapping[str, str]) -> Refusal | None:
        """Tell why a request may not be; `headers` have lower-case names, each of them once."""
        host = headers.get("host", "")
        if family in _INTERNET and self._token is not None:
            if not self._token.admits(headers.get("authorization", "")):
                self.counters.unauthorized += 1
                return Refusal(HTTPStatus.UNAUTHORIZED, "the token is missing or wrong")
        elif family in _INTERNET and host and not _is_plain(host):
            self.counters.foreign += 1
            return Refusal(HTTPStatus.FORBIDDEN, "call the host by an IP address, or localhost")
        if "origin" in headers and not _is_ours(headers["origin"], host):
            self.counters.foreign += 1
            return foreign_origin()
        return None

    def complain(self, now: float, peer: str, refusal: Refusal) -> None:
        """Tell the log, at `now` of the loop, of a caller without the token, who may be trying."""
        if refusal.status is HTTPStatus.UNAUTHORIZED:
            self._complaint.make(now, "refused a call of %s: %s", peer, refusal.text)


def foreign_origin() -> Refusal:
    """Return what a web page's call is answered with."""
    return Refusal(HTTPStatus.FORBIDDEN, "web pages may not call")


def peer_credentials(sock: socket.socket) -> tuple[int, int] | None:
    """Return process and user at the other end of a unix socket, as of its connect.

    None where that is not known; raises OSError.
    """
    if not hasattr(socket, "SO_PEERCRED") or sock.family != socket.AF_UNIX:
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    process, user, _ = _UCRED.unpack(credentials)
    return process, user & 0xFFFFFFFF


def peer_address(sock: socket.socket) -> str:
    """Return the IP address that a TCP connection comes from, for the log."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return "somebody who has gone"


def own_users() -> frozenset[int]:
    """Return the users that may call: root, and whose daemon this is."""
    return frozenset({0, os.geteuid()}) if hasattr(os, "geteuid") else frozenset()


def socket_owner(sock: socket.socket) -> Collection[int]:
    """Return the user whose a unix socket's file is: whoever has made it decides who may call."""
    if not hasattr(socket, "AF_UNIX") or sock.family != socket.AF_UNIX:
        return ()
    name = sock.getsockname()
    try:
        return (os.stat(name).st_uid,) if name and name[0] not in (0, "\0") else ()
    except OSError:
        return ()


def host_name(host: str) -> str:
    """Return a Host header's name or address, without port and brackets, empty for nonsense."""
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError:
        return ""
    if parts.netloc != host or "@" in host or (port is None and host.endswith(":")):
        return ""
    return (parts.hostname or "").removesuffix(".")


def is_address(name: str) -> bool:
    """Tell whether a host's name is an IP address."""
    try:
        return bool(ip_address(name))
    except ValueError:
        return False


def _is_plain(host: str) -> bool:
    name = host_name(host)
    return name == LOCALHOST or is_address(name)


def _is_ours(origin: str, host: str) -> bool:
    """Tell whether a page comes from here: it has our own address, and that is a loopback one."""
    name = host_name(host)
    local = name == LOCALHOST or (is_address(name) and ip_address(name).is_loopback)
    return local and origin == f"http://{host}"
