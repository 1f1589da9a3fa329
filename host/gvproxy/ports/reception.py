"""Takes what comes to the daemon's listening sockets and finds out what it wants.

The first request head of a connection is read here, not by an HTTP library, for behind the head of
/connect frames may follow in the same read, and behind that of /tunnel what is for the guest.  Each
of `posts` gets the POSTs to one path; anything else goes, with the bytes read so far, to `http`.
Who may not call (`access`) gets no further than here.
"""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Mapping
from functools import partial

from gvproxy.complaint import Complaint
from gvproxy.ports import vpnkit
from gvproxy.ports.acceptor import Acceptor
from gvproxy.ports.access import Access, own_users, peer_address
from gvproxy.ports.lobby import MAX_WAITING, Lobby, Next
from taplink import endpoint
from taplink.framing import ETHERNET_HEADER, QEMU, LinkError
from taplink.text import one_line
from taplink.upgrade import Request, RequestReader

log = logging.getLogger(__name__)

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"

_MAX_STRANGERS = 16
"""Connections at a time of who may not call and has not asked yet: a caller whose connection ends
before it has sent its request does not look for an answer."""

Handler = Callable[[socket.socket, Request], None]
"""Takes over a connection: its socket, non-blocking, and what has been read of it."""


class Reception:
    """Listens on any number of sockets until it is closed."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        posts: Mapping[str, Handler],
        http: Handler,
        access: Access,
        waiting: int = MAX_WAITING,
    ) -> None:
        """`waiting` is of connections at a time that have not said what they want."""
        self._loop = loop
        self._posts = posts
        self._http = http
        self._access = access
        self._acceptors: list[Acceptor] = []
        self._lobby = Lobby(loop, _BAD_REQUEST, limit=waiting)
        self._strangers = Lobby(loop, limit=_MAX_STRANGERS)
        self._complaint = Complaint(log)

    def listen(self, sock: socket.socket, name: str, users: Collection[int] = ()) -> None:
        """Accept on `sock`, non-blocking and listening, which belongs to the reception now.

        `users` may call at it besides root and the daemon's own.
        """
        accepted = partial(self._accepted, name, own_users().union(users))
        self._acceptors.append(Acceptor(self._loop, sock, accepted, few=True))

    def close(self) -> None:
        """Stop listening, and end the connections that have not said what they want."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        self._lobby.close()
        self._strangers.close()

    def _accepted(self, where: str, users: Collection[int], sock: socket.socket) -> None:
        try:
            refusal = self._access.refusal_of_user(sock, users)
        except OSError:
            sock.close()
            return
        if refusal is not None:
            self._complaint.make(self._loop.time(), "refused at %s: %s", where, refusal.text)
            answer = partial(refusal.answer, sock)
            self._strangers.enter(endpoint.accepted(sock), where, lambda data: answer)
            return
        reader = RequestReader()

        def feed(data: bytes) -> Next | None:
            try:
                request = reader.feed(data)
            except LinkError as error:
                raise LinkError(f"{error}{_belonging(data)}") from error
            return None if request is None else partial(self._decide, sock, request)

        self._lobby.enter(endpoint.accepted(sock), where, feed)

    def _decide(self, sock: socket.socket, request: Request) -> None:
        refusal = self._access.refusal(sock.family, request.headers)
        if refusal is not None:
            line = f"{request.method} {one_line(request.target.partition('?')[0])}"
            log.debug("%s: %s", line, refusal.text)
            self._access.complain(self._loop.time(), peer_address(sock), refusal)
            refusal.answer(sock)
            return
        path = request.target.partition("?")[0]
        posts = self._posts if request.method == "POST" else {}
        posts.get(path, self._http)(sock, request)


def _belonging(data: bytes) -> str:
    """Tell where a guest belongs that speaks another dialect than that of this listener."""
    if data.startswith(vpnkit.MAGIC):
        return "; vpnkit's guests belong to -listen-vpnkit"
    size = QEMU.length.size
    if len(data) >= size and ETHERNET_HEADER <= QEMU.length.unpack_from(data)[0] <= QEMU.limit:
        return "; frames such as QEMU's belong to -listen-qemu"
    return ""
