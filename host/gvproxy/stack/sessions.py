"""The short way of a guest's datagrams to the outside: many of them in one go.

Once the first datagram between two addresses and ports has gone the long way (`ip`, `udp`), whoever
took it may have those that follow as runs: the datagrams of one batch, all of one size but for a
smaller last one, which is what the host's kernel takes in one call (UDP_SEGMENT).  A guest's kernel
makes such runs as well (`vnet.GSO_UDP_L4`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from gvproxy.limits import Quota
from gvproxy.stack.port import Port, StackCounters, Station
from gvproxy.wire import ethernet, ipv4, udp
from gvproxy.wire.checksum import Buffer, ones_sum, pseudo_header, valid
from taplink import vnet

MAX_SEGMENTS = 64
"""Datagrams of a run: what Linux takes in one call, before 6.9 at least (UDP_MAX_SEGMENTS)."""
MAX_PAYLOAD = ipv4.MAX_PACKET - ipv4.SIZE - udp.SIZE
MAX_GUEST_SEGMENTS = 128
"""Datagrams that a guest may have made of one frame: Linux's own limit since 6.9."""

_START = ethernet.SIZE + ipv4.SIZE
_LENGTH_CHECKSUM = Struct("!4xHH")
_TRUSTED = vnet.TRUSTED  # an attribute less on the hot path

Run = list[memoryview]
Leave = Callable[[Run, int, float], None]
"""Takes a run, the size of its datagrams, and the time; the views are not valid afterwards."""


@dataclass(slots=True, eq=False)
class Session:
    """A guest's address and port, and those it sends to."""

    eth_in: bytes
    """The Ethernet header of its frames."""
    station: Station
    owner: Port
    """Where its station was when it began."""
    pseudo: int
    """The pseudo-header's sum without the length."""
    leave: Leave
    run: Run = field(default_factory=list)
    size: int = 0
    """Of the run's datagrams."""
    room: int = 0
    """Bytes that the run may still grow by."""


class Sessions:
    """Those of one stack; a guest that has too many has none, and goes the long way once more."""

    def __init__(self, mac: bytes, counters: StackCounters, quota: Quota) -> None:
        """`mac` is the gateway's."""
        self._mac = mac
        self._quota = quota
        self._counters = counters
        self._known: dict[bytes, Session] = {}
        self._gathering: list[Session] = []

    def add(self, key: bytes, station: Station, leave: Leave) -> None:
        """Have `leave` take what `station` sends with `key`: both addresses and both ports."""
        owner = station.port
        self._forget(key)
        if not owner.attached:  # detached amid a batch of its own
            return
        if not self._quota.has_room(owner):
            self.leave(owner)
        if not self._quota.take(owner):
            return
        eth_in = ethernet.HEADER.pack(self._mac, station.mac, ethernet.TYPE_IPV4)
        pseudo = pseudo_header(key[:8], ipv4.PROTOCOL_UDP)
        self._known[key] = Session(eth_in, station, owner, pseudo, leave)

    def clear(self) -> None:
        """Have all go the long way."""
        for key in list(self._known):
            self._forget(key)

    def leave(self, owner: Port) -> None:
        """Forget those of a guest."""
        for key in [key for key, session in self._known.items() if session.owner is owner]:
            self._forget(key)

    def _forget(self, key: bytes) -> None:
        session = self._known.pop(key, None)
        if session is not None:
            self._quota.give(session.owner)

    def take(
        self, port: Port, frame: memoryview, eth: bytes, key: bytes, end: int, now: float
    ) -> bool:
        """Take the datagram behind 20 bytes of IPv4, whose packet ends at `end` of the frame.

        False where it has to go the long way.
        """
        session = self._known.get(key)
        if session is None or session.eth_in != eth or session.station.port is not port:
            return False
        offset = port.offset
        start = offset + _START
        length, given = _LENGTH_CHECKSUM.unpack_from(frame, start)
        if start + length != end or not given or end > len(frame):
            return False
        size = length - udp.SIZE
        if size <= 0:
            return False
        if not (offset and frame[0] & _TRUSTED):
            if offset and frame[1]:
                return False
            if not valid(ones_sum(frame, length, start) + session.pseudo + length):
                return False
        elif frame[1]:
            size = segment_size(frame, size)
            if not size:
                return False
        self._counters.udp_in += 1
        session.station.seen = now
        payload = frame[start + udp.SIZE : end]
        if len(payload) <= size * MAX_SEGMENTS:
            self._gather(session, payload, size, now)
        else:
            for piece in pieces(payload, size * MAX_SEGMENTS):
                self._gather(session, piece, min(size, len(piece)), now)
        return True

    def _gather(self, session: Session, payload: memoryview, size: int, now: float) -> None:
        """Add the datagrams of `size`, of which the last may be smaller, to the run."""
        count = len(payload)
        if session.run and (
            count > session.room
            or size > session.size
            or (size < session.size and count > size)  # only one may be smaller
        ):
            self._leave(session, now)
        if not session.run:
            session.size, session.room = size, min(size * MAX_SEGMENTS, MAX_PAYLOAD)
            self._gathering.append(session)
        session.run.append(payload)
        session.room -= count
        if count % session.size:
            self._leave(session, now)

    def flush(self, now: float) -> None:
        """Let all runs leave: at the end of the batch, and before what goes the long way."""
        if self._gathering:
            for session in self._gathering:
                if session.run:
                    self._leave(session, now)
            self._gathering.clear()

    def _leave(self, session: Session, now: float) -> None:
        run, session.run = session.run, []
        session.leave(run, session.size, now)


def segment_size(meta: Buffer, count: int) -> int:
    """Return the size of the datagrams that a virtio-net header wants made of `count` bytes.

    0 where that is not what it wants, or a guest's own kernel would not.
    """
    if meta[1] != vnet.GSO_UDP_L4 or not meta[0] & _TRUSTED:
        return 0
    size = min(meta[4] | meta[5] << 8, count)
    return size if count <= size * MAX_GUEST_SEGMENTS else 0


def pieces(payload: memoryview, size: int) -> Iterator[memoryview]:
    """Cut `payload` into pieces of `size`, of which the last may be smaller."""
    for position in range(0, len(payload), size):
        yield payload[position : position + size]
