"""The way of one TCP connection's segments to its guest: Ethernet, IPv4 and TCP headers in one go.

Everything that does not change during a connection is packed once; a segment costs one `pack` and
two additions for its checksums.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from gvproxy.stack import gso
from gvproxy.stack.port import Station
from gvproxy.wire import ethernet, ipv4, tcp
from gvproxy.wire.checksum import ones_sum, pseudo_header, valid
from taplink import vnet
from taplink.vnet import Offload

# Ethernet; IPv4 up to its checksum; both addresses and both ports; TCP behind the ports
_HEADERS = Struct("!14sBBHHHBBH12sIIHHHH")
_START = ethernet.SIZE + ipv4.SIZE
_CHECKSUM_ONLY = vnet.HEADER.pack(
    vnet.F_NEEDS_CSUM, vnet.GSO_NONE, 0, 0, _START, tcp.CHECKSUM_OFFSET, 0
)
_CSUM, _TSO4 = int(Offload.CSUM), int(Offload.TSO4)
_FIXED = sum((ipv4.VERSION << 8, ipv4.DONT_FRAGMENT, ipv4.TTL << 8 | ipv4.PROTOCOL_TCP))


class TcpPath:
    """Implements `gvproxy.tcp.connection.Path` for IPv4.

    `guest` and `address` are packed addresses: the guest's own, and the one it talks to.
    """

    __slots__ = (
        "_addresses_sum",
        "_ends",
        "_gso",
        "_mac",
        "_mss",
        "_pseudo",
        "_resolve",
        "address",
        "eth_in",
        "eth_out",
        "guest",
        "guest_port",
        "key",
        "port",
        "station",
    )

    def __init__(
        self,
        mac: bytes,
        key: bytes,
        station: Station | None,
        resolve: Callable[[TcpPath], None],
    ) -> None:
        """`key` is guest address, other address, guest port, other port, as in the guest's packets.

        `mac` is the gateway's.  Without a station segments are lost, and `resolve` is called for
        each.
        """
        self._mac = mac
        self._resolve = resolve
        self.key = key
        self.guest, self.address = key[:4], key[4:8]
        self.guest_port = int.from_bytes(key[8:10], "big")
        self.port = int.from_bytes(key[10:12], "big")
        self._ends = self.address + self.guest + key[10:12] + key[8:10]
        self._addresses_sum = ones_sum(key[:8], 8) + _FIXED
        self._pseudo = pseudo_header(key[:8], ipv4.PROTOCOL_TCP)
        self._mss = 0
        self._gso = _CHECKSUM_ONLY
        self.station = station
        self.eth_in = self.eth_out = b""
        if station is not None:
            self.attach(station)

    def attach(self, station: Station) -> None:
        """Send to `station` from now on."""
        self.station = station
        self.eth_in = ethernet.HEADER.pack(self._mac, station.mac, ethernet.TYPE_IPV4)
        self.eth_out = ethernet.HEADER.pack(station.mac, self._mac, ethernet.TYPE_IPV4)

    @property
    def congested(self) -> bool:
        return self.station is not None and self.station.port.congested

    @property
    def known(self) -> bool:
        return self.station is not None and self.station.port.attached

    def verify(self, frame: memoryview, start: int, end: int) -> bool:
        """Check the checksum of a segment that stands at `start` to `end` of `frame`."""
        length = end - start
        return valid(ones_sum(frame[start:end], length) + self._pseudo + length)

    def send(
        self,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> None:
        station = self.station
        if station is None:
            self._resolve(self)
            return
        size = len(payload)
        length = tcp.SIZE + len(options) + size
        total = ipv4.SIZE + length
        header = (
            _HEADERS.pack(
                self.eth_out,
                ipv4.VERSION,
                0,
                total,
                0,
                ipv4.DONT_FRAGMENT,
                ipv4.TTL,
                ipv4.PROTOCOL_TCP,
                0xFFFF - (self._addresses_sum + total) % 0xFFFF,
                self._ends,
                seq,
                ack,
                (tcp.SIZE + len(options)) << 10 | flags,
                window,
                (self._pseudo + length) % 0xFFFF,
                0,
            )
            + options
        )
        if size <= mss or not size:
            meta, needed = _CHECKSUM_ONLY, _CSUM
        else:
            if mss != self._mss:
                self._mss = mss
                self._gso = vnet.HEADER.pack(
                    vnet.F_NEEDS_CSUM,
                    vnet.GSO_TCPV4,
                    len(header),
                    mss,
                    _START,
                    tcp.CHECKSUM_OFFSET,
                    0,
                )
            meta, needed = self._gso, _TSO4
        port = station.port
        if port.offload & needed:
            port.send(meta, header, payload)
        else:
            for head, piece in gso.complete(meta, header, payload):
                port.send(vnet.PLAIN, head, piece)
