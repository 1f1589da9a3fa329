"""The way of one TCP connection's segments to its guest: Ethernet, IPv4 and TCP headers in one go.

Everything that does not change during a connection is packed once; a segment costs one `pack` and
two additions for its checksums.  For a port without offloads that is one for each MSS, and the
payload's own sum: 3.0 µs for 1448 bytes, two of them the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from gvproxy.stack.port import Port, Station
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
QUESTION = 2000
"""Bytes that the text of one batch counts for beside its own (`Port.carried`): with
`ports.fairness.WORTH` 40 µs, which is what a request takes on a connection that is kept.  Nobody
has a use for segments without text, or out of order."""
FIRST_QUESTION = 20000
"""For the connection as well: 400 µs."""
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
        "_ports_sum",
        "_pseudo",
        "_resolve",
        "address",
        "eth_in",
        "eth_out",
        "guest",
        "guest_port",
        "key",
        "owner",
        "port",
        "station",
        "talks",
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
        self._ports_sum = self.guest_port + self.port
        self._mss = 0
        self._gso = _CHECKSUM_ONLY
        self.owner = None if station is None else station.port
        """The port of the guest whose connection it is, if it was there when that began."""
        self.station = station
        self.talks = False
        """The guest has sent text."""
        self.eth_in = self.eth_out = b""
        if station is not None:
            self.attach(station)

    def attach(self, station: Station) -> None:
        """Send to `station` from now on."""
        self.station = station
        self.eth_in = ethernet.HEADER.pack(self._mac, station.mac, ethernet.TYPE_IPV4)
        self.eth_out = ethernet.HEADER.pack(station.mac, self._mac, ethernet.TYPE_IPV4)

    def earn(self) -> None:
        """Have a batch's text be worth its guest's time: a question is short, but no flood."""
        if self.station is not None:
            self.station.port.carried += QUESTION if self.talks else FIRST_QUESTION
            self.talks = True

    @property
    def congested(self) -> bool:
        return self.station is not None and self.station.port.congested

    @property
    def known(self) -> bool:
        return self.station is not None and self.station.port.attached

    def verify(self, frame: memoryview, start: int, end: int) -> bool:
        """Check the checksum of a segment that stands at `start` to `end` of `frame`."""
        length = end - start
        return valid(ones_sum(frame, length, start) + self._pseudo + length)

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
        port = station.port
        size = len(payload)
        if not port.offload & (_CSUM if size <= mss else _TSO4):
            self._send_complete(port, seq, ack, flags, window, options, payload, mss)
            return
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
        if size <= mss:
            meta = _CHECKSUM_ONLY
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
            meta = self._gso
        port.send(meta, header, payload)

    def _send_complete(
        self,
        port: Port,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        options: bytes,
        payload: bytes | memoryview,
        mss: int,
    ) -> None:
        """Send segments of `mss` bytes with their checksums, for a port without offloads."""
        view, end = memoryview(payload), len(payload)
        headers = tcp.SIZE + len(options)
        offset, until_last = headers << 10, flags & ~(tcp.FIN | tcp.PSH)
        common = self._pseudo + self._ports_sum + (ack >> 16) + (ack & 0xFFFF) + window + headers
        if options:
            common += ones_sum(options, len(options))
        positions = range(0, end, mss) if end > mss else (0,)
        for identification, position in enumerate(positions):
            piece = view[position : position + mss] if end > mss else payload
            size = len(piece)
            bits = offset | (until_last if position + size < end else flags)
            place = seq + position & 0xFFFFFFFF
            total = ipv4.SIZE + headers + size
            addends = common + (place >> 16) + (place & 0xFFFF) + bits + size
            header = _HEADERS.pack(
                self.eth_out,
                ipv4.VERSION,
                0,
                total,
                identification,
                ipv4.DONT_FRAGMENT,
                ipv4.TTL,
                ipv4.PROTOCOL_TCP,
                0xFFFF - (self._addresses_sum + total + identification) % 0xFFFF,
                self._ends,
                place,
                ack,
                bits,
                window,
                0xFFFF - (addends + ones_sum(payload, size, position)) % 0xFFFF,
                0,
            )
            port.send(vnet.PLAIN, header + options, piece)
