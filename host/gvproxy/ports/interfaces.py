"""Listeners that speak a hypervisor's dialect from the first byte on, without /connect."""

import logging
import socket
from asyncio import AbstractEventLoop
from collections.abc import Callable, Mapping
from functools import partial

from gvproxy.errors import StartError
from gvproxy.listening import Dialect, is_loopback
from gvproxy.ports.acceptor import Acceptor
from gvproxy.ports.datagram import DatagramListener
from gvproxy.ports.guestport import GuestPort
from gvproxy.ports.guests import Guests
from gvproxy.ports.lobby import Lobby, Next
from gvproxy.ports.tapsocket import Handover
from gvproxy.ports.vpnkit import Handshake
from taplink import endpoint
from taplink.framing import HYPERKIT, QEMU, LinkError
from taplink.tap import TapError, adopt_tap
from taplink.vnet import Offload

log = logging.getLogger(__name__)

_HTTP = b"POST ", b"GET "


class Interfaces:
    """The dialects' listeners of one daemon."""

    def __init__(
        self, loop: AbstractEventLoop, guests: Guests, mtu: int, macs: Mapping[str, bytes]
    ) -> None:
        """`macs` are the addresses of vpnkit's VMs, by UUID."""
        self._loop = loop
        self._guests = guests
        self._mtu = mtu
        self._macs = macs
        self._lobby = Lobby(loop)
        self._patient = Lobby(loop, timeout=None)  # a guest of QEMU's may boot for long
        self._acceptors: list[Acceptor] = []
        self._datagrams: list[DatagramListener] = []

    def serve(self, dialect: Dialect, sock: socket.socket, name: str) -> None:
        """Take guests at a socket that listens, which belongs to the interfaces from now on."""
        _warn_of_others(dialect, sock, name)
        if dialect is Dialect.VFKIT:
            attach = partial(self._guests.attach_datagrams, dialect=dialect)
            self._datagrams.append(DatagramListener(self._loop, sock, attach))
            return
        accepted: Mapping[Dialect, Callable[[socket.socket], object]] = {
            Dialect.QEMU: partial(self._take_qemu, name),
            Dialect.BESS: partial(self._guests.attach_packets, dialect=dialect),
            Dialect.VPNKIT: partial(self._shake_hands, name),
            Dialect.TAP: partial(self._take_tap, name),
        }
        take = accepted[dialect]
        self._acceptors.append(
            Acceptor(self._loop, sock, lambda sock: take(endpoint.accepted(sock)), few=True)
        )

    def refuse(self) -> None:
        """Take no new connections; those who are there stay."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        self._lobby.close()
        self._patient.close()

    def close(self) -> None:
        """Take nobody any more; those with a connection of their own stay."""
        self.refuse()
        for listener in self._datagrams:
            listener.close()
        self._datagrams.clear()

    def attach(self, descriptor: int) -> GuestPort | None:
        """Attach the guest at a descriptor that was there when we were started.

        A tap, or a connected socket of QEMU's or of BESS's kind; raises StartError.
        """
        try:
            return self._guests.attach_tap(adopt_tap(descriptor))
        except TapError as error:
            problem = str(error)
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError:
            raise StartError(f"-listen-fd {descriptor}: {problem}, and no socket") from None
        try:
            sock.getpeername()
        except OSError as error:
            sock.detach()
            raise StartError(f"-listen-fd {descriptor}: the socket is not connected") from error
        sock.set_inheritable(False)
        sock.setblocking(False)
        if sock.type == socket.SOCK_STREAM:
            return self._guests.attach_stream(sock, QEMU)
        if sock.type == getattr(socket, "SOCK_SEQPACKET", None):
            return self._guests.attach_packets(sock, dialect=Dialect.BESS)
        sock.detach()
        raise StartError(f"-listen-fd {descriptor}: a socket of a kind that no guest has")

    def _take_qemu(self, where: str, sock: socket.socket) -> None:
        """Wait for the first frame, whose length has a zero in front, unlike anything in HTTP."""

        def feed(data: bytes) -> Next:
            if data.startswith(_HTTP):
                raise LinkError("an agent or HTTP client belongs to -listen")
            if data[0]:
                raise LinkError("what arrived is no frame of QEMU's")
            return partial(self._guests.attach_stream, sock, QEMU, rest=data)

        self._patient.enter(sock, where, feed)

    def _take_tap(self, where: str, sock: socket.socket) -> None:
        handover = Handover(self._loop, sock, self._guests.attach_tap)
        self._lobby.enter(sock, where, handover.feed, handover.receive)

    def _shake_hands(self, where: str, sock: socket.socket) -> None:
        handshake = Handshake(self._mtu, self._macs)

        def feed(data: bytes) -> Next | None:
            answer = handshake.feed(data)
            if answer:
                sock.send(answer)
            if not handshake.done:
                return None
            return partial(
                self._guests.attach_stream,
                sock,
                HYPERKIT,
                Offload.NONE,
                handshake.rest,
                dialect=Dialect.VPNKIT,
            )

        self._lobby.enter(sock, where, feed)


def _warn_of_others(dialect: Dialect, sock: socket.socket, name: str) -> None:
    """Tell who can come where no dialect has room for a token, as Go's gvproxy lets them."""
    internet = sock.family in (socket.AF_INET, socket.AF_INET6)
    if internet and not is_loopback(sock.getsockname()[0]):
        log.warning(
            "%s (-listen-%s) takes guests of other machines, and asks for no token: "
            "who reaches it reaches what guests do; 127.0.0.1 takes those of this one",
            name,
            dialect,
        )
