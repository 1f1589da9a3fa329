"""A DHCP server's side in dpkt, and a host that speaks both dialects over a unix socket."""

import select
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from dpkt.dhcp import DHCP
from dpkt.ethernet import Ethernet
from dpkt.ip import IP
from dpkt.udp import UDP

from taplink import vnet
from taplink.endpoint import listen, parse
from taplink.framing import HYPERKIT, TAPLINK, FrameReader
from taplink.upgrade import Request, RequestReader, offered, switching_protocols
from taplink.vnet import Offload

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)
SERVER = "192.168.127.1"
SERVER_MAC = bytes.fromhex("5a94efe40cdd")
OPTIONS: dict[int, bytes] = {
    1: bytes.fromhex("ffffff00"),
    3: IPv4Address(SERVER).packed,
    6: IPv4Address(SERVER).packed,
    51: struct.pack(">I", 3600),
    54: IPv4Address(SERVER).packed,
}
"""What a lease comes with: a /24, router, name server, one hour, server identifier."""


def dhcp_of(frame: bytes) -> DHCP | None:
    """Return a client's message, None for another frame."""
    packet = Ethernet(frame).data
    if not isinstance(packet, IP) or not isinstance(packet.data, UDP) or packet.data.dport != 67:
        return None
    return DHCP(packet.data.data)


def options_of(message: DHCP) -> dict[int, bytes]:
    return dict(message.opts)


def kind_of(message: DHCP) -> int:
    return int(options_of(message)[53][0])


def answer(
    message: DHCP,
    kind: int,
    address: str = "192.168.127.2",
    options: dict[int, bytes] | None = None,
    *,
    xid: int | None = None,
) -> bytes:
    """Build the server's answer as an Ethernet frame; `options` replace and add to OPTIONS."""
    chosen = {53: bytes([kind])} | OPTIONS | (options or {})
    reply = DHCP(
        op=2,
        xid=message.xid if xid is None else xid,
        chaddr=message.chaddr,
        yiaddr=int(IPv4Address(address)),
        opts=list(chosen.items()),
    )
    return to_client(bytes(reply))


def to_client(payload: bytes, *, sport: int = 67, dport: int = 68) -> bytes:
    """Wrap a UDP payload into a broadcast frame of the server's."""
    udp = UDP(sport=sport, dport=dport, ulen=8 + len(payload), data=payload)
    packet = IP(
        src=IPv4Address(SERVER).packed, dst=b"\xff" * 4, p=17, len=28 + len(payload), data=udp
    )
    return bytes(Ethernet(src=SERVER_MAC, dst=b"\xff" * 6, type=0x0800, data=packet))


class Guest:
    """An attached agent, seen from the host."""

    def __init__(self, sock: socket.socket, request: Request, *, taplink: bool) -> None:
        self.request = request
        self._sock = sock
        self._framing = TAPLINK if taplink else HYPERKIT
        self._reader = FrameReader(self._framing)
        self._frames = [bytes(view) for view in self._reader.feed(request.rest)]

    def send(self, frame: bytes) -> None:
        """Send an Ethernet frame."""
        header = vnet.PLAIN if self._framing is TAPLINK else b""
        length = self._framing.length.pack(len(header) + len(frame))
        self._sock.sendall(length + header + frame)

    def frame(self, wanted: Callable[[bytes], bool], timeout: float = 10.0) -> bytes:
        """Return the next Ethernet frame `wanted` is true of; raises EOFError, TimeoutError."""
        while True:
            while self._frames:
                frame = self._frames.pop(0)[self._framing.offset :]
                if wanted(frame):
                    return frame
            if not select.select([self._sock], [], [], timeout)[0]:
                raise TimeoutError("no such frame")
            self._frames = [bytes(view) for view in self._reader.receive(self._sock)]

    def dhcp(self) -> DHCP:
        """Return the next DHCP message."""
        message = dhcp_of(self.frame(lambda frame: dhcp_of(frame) is not None))
        assert message is not None
        return message

    def lease(
        self, address: str = "192.168.127.2", options: dict[int, bytes] | None = None
    ) -> None:
        """Answer a DISCOVER and its REQUEST."""
        for expected, kind in ((DISCOVER, OFFER), (REQUEST, ACK)):
            message = self.dhcp()
            assert kind_of(message) == expected
            self.send(answer(message, kind, address, options))

    def closed(self) -> bool:
        """Read to the end; raises TimeoutError when the agent keeps the link open."""
        try:
            self.frame(lambda frame: False)
        except EOFError:
            return True
        return False

    def close(self) -> None:
        """End the link."""
        self._sock.close()


class Host:
    """A listener that agents attach to, one dialect at a time: at a unix socket, or over TCP."""

    def __init__(self, where: Path | socket.socket) -> None:
        """A socket that is given is a TCP one."""
        if isinstance(where, socket.socket):
            self.url = "tcp://{}:{}".format(*where.getsockname())
            self._listener = where
        else:
            self.url = f"unix://{where}"
            self._listener = listen(parse(self.url))
        self._listener.settimeout(10)
        self._guests: list[Guest] = []

    def accept(
        self,
        *,
        taplink: bool = True,
        offload: Offload = Offload.NONE,
        first: bytes = b"",
    ) -> Guest:
        """Accept an agent: agree to taplink/1 with `offload`, or stay silent as Go's host does.

        `first` is sent before the request is read.
        """
        sock, _ = self._listener.accept()
        sock.settimeout(10)
        sock.sendall(first)
        reader = RequestReader()
        while (request := reader.feed(sock.recv(65536))) is None:
            pass
        assert offered(request) is not None
        if taplink:
            sock.sendall(switching_protocols(offload))
        guest = Guest(sock, request, taplink=taplink)
        self._guests.append(guest)
        return guest

    def refuse(self, response: bytes) -> None:
        """Accept an agent and answer with another response."""
        sock, _ = self._listener.accept()
        with sock:
            sock.settimeout(10)
            sock.recv(65536)
            sock.sendall(response)

    def close(self) -> None:
        """Stop listening and end every link."""
        self._listener.close()
        for guest in self._guests:
            guest.close()
