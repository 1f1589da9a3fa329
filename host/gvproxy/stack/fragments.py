"""Reassembly of IPv4 fragments, bounded in number, size and time (RFC 791 §3.2, RFC 1858).

A guest that has as many packets under way as it may gives up its oldest for another.
"""

from dataclasses import dataclass, field

from gvproxy.limits import Owner, Quota
from gvproxy.wire import ipv4

Key = tuple[Owner, bytes]
"""Whose packet it is; and addresses, protocol and identification."""

TIMEOUT = 30.0  # Linux: ipfrag_time
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

    def __init__(self, quota: Quota) -> None:
        self._packets: dict[Key, _Packet] = {}
        self._quota = quota
        self.failures = 0

    def __len__(self) -> int:
        return len(self._packets)

    def add(self, key: Key, fragment: int, payload: memoryview, now: float) -> bytes | None:
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
        packet = self._packets.get(key)
        if packet is None:
            if not self._make_room(key[0]):
                self.failures += 1
                return None
            packet = self._packets[key] = _Packet(now + TIMEOUT)
        if packet.pieces.get(offset) == bytes(payload):
            return None  # sent twice
        for start, piece in packet.pieces.items():
            if offset < start + len(piece) and start < offset + size:
                self._drop(key)
                return None
        packet.pieces[offset] = bytes(payload)
        packet.size += size
        packet.end = max(packet.end, offset + size)
        if not more:
            packet.total = offset + size
        if len(packet.pieces) > MAX_PIECES or 0 <= packet.total < packet.end:
            self._drop(key)  # too many, or something behind the last one
        elif packet.size == packet.total:
            self._remove(key)
            return b"".join(packet.pieces[start] for start in sorted(packet.pieces))
        return None

    def leave(self, owner: Owner) -> None:
        """Give up what a guest has not sent the rest of."""
        for key in [key for key in self._packets if key[0] == owner]:
            self._drop(key)

    def _expire(self, now: float) -> None:
        # Deadlines are in order of insertion.
        while self._packets:
            key, packet = next(iter(self._packets.items()))
            if packet.deadline > now:
                return
            self._drop(key)

    def _make_room(self, owner: Owner) -> bool:
        if not self._quota.has_room(owner):
            oldest = next((key for key in self._packets if key[0] == owner), None)
            if oldest is not None:
                self._drop(oldest)
        return self._quota.take(owner)

    def _drop(self, key: Key) -> None:
        self._remove(key)
        self.failures += 1

    def _remove(self, key: Key) -> None:
        del self._packets[key]
        self._quota.give(key[0])
