"""Reassembly of IPv4 fragments, bounded in number, size and time (RFC 791 §3.2, RFC 1858)."""

from dataclasses import dataclass, field

from gvproxy.wire import ipv4

TIMEOUT = 30.0  # Linux: ipfrag_time
MAX_PACKETS = 64
MAX_BYTES = 1 << 20
MAX_PIECES = 128
"""Fragments of one packet; 65535 bytes are 45 at an MTU of 1500, and 119 at 576."""


@dataclass(slots=True)
class _Packet:
    deadline: float
    pieces: dict[int, bytes] = field(default_factory=dict)  # by offset in bytes
    size: int = 0
    end: int = 0  # of the fragment that reaches furthest
    total: int = -1  # known once the last fragment is there


class Reassembler:
    """Collects fragments by (addresses, protocol, identification)."""

    def __init__(self) -> None:
        self._packets: dict[bytes, _Packet] = {}
        self._bytes = 0
        self.failures = 0

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, key: bytes, fragment: int, payload: memoryview, now: float) -> bytes | None:
        """Take one fragment; return the whole payload once it is complete.

        `fragment` is the header's flags and offset.  Overlaps make the whole packet void: no
        honest sender overlaps (RFC 5722's reasoning for IPv6).
        """
        self._expire(now)
        offset = (fragment & ipv4.OFFSET_MASK) * 8
        more = bool(fragment & ipv4.MORE_FRAGMENTS)
        size = len(payload)
        if not size or (more and size % 8) or offset + size > ipv4.MAX_PACKET - ipv4.SIZE:
            self.failures += 1
            return None
        while self._bytes + size > MAX_BYTES or (
            len(self._packets) >= MAX_PACKETS and key not in self._packets
        ):
            self._drop(next(iter(self._packets)))  # the oldest, this one itself perhaps
        packet = self._packets.get(key)
        if packet is None:
            packet = self._packets[key] = _Packet(now + TIMEOUT)
        if packet.pieces.get(offset) == bytes(payload):
            return None  # sent twice
        for start, piece in packet.pieces.items():
            if offset < start + len(piece) and start < offset + size:
                self._drop(key)
                return None
        packet.pieces[offset] = bytes(payload)
        packet.size += size
        self._bytes += size
        packet.end = max(packet.end, offset + size)
        if not more:
            packet.total = offset + size
        if len(packet.pieces) > MAX_PIECES or 0 <= packet.total < packet.end:
            self._drop(key)  # too many, or something behind the last one
        elif packet.size == packet.total:
            del self._packets[key]
            self._bytes -= packet.size
            return b"".join(packet.pieces[start] for start in sorted(packet.pieces))
        return None

    def _expire(self, now: float) -> None:
        # Deadlines are in order of insertion.
        while self._packets:
            key, packet = next(iter(self._packets.items()))
            if packet.deadline > now:
                return
            self._drop(key)

    def _drop(self, key: bytes) -> None:
        self._bytes -= self._packets.pop(key).size
        self.failures += 1
