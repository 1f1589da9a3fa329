"""The two queues of a connection: bytes sent and not acknowledged, and bytes that came early."""

from bisect import bisect_left, bisect_right
from collections import deque
from operator import itemgetter

_LEFT, _RIGHT = itemgetter(0), itemgetter(1)


class SendBuffer:
    """The outgoing stream from `start` (not yet acknowledged) to `end`, as the chunks it came in.

    The chunks are the retransmission queue as well: what is sent is a chunk itself wherever the
    segment and the chunk coincide, and nothing is ever joined to be kept.
    """

    __slots__ = ("_base", "_chunks", "end")

    def __init__(self, start: int) -> None:
        self._chunks: deque[bytes] = deque()
        self._base = start  # sequence number of the first byte of the first chunk
        self.end = start

    def append(self, chunk: bytes) -> None:
        """Add bytes to the end of the stream; the buffer keeps `chunk`, which must not change."""
        self._chunks.append(chunk)
        self.end += len(chunk)

    def release(self, una: int) -> None:
        """Drop whatever lies before `una`."""
        chunks, base = self._chunks, self._base
        while chunks and base + len(chunks[0]) <= una:
            base += len(chunks.popleft())
        self._base = base

    def peek(self, start: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from sequence number `start` on, `start` < `end`."""
        position = self._base
        pieces: list[memoryview] = []
        for chunk in self._chunks:
            after = position + len(chunk)
            if after > start:
                if start <= position and not pieces and len(chunk) == size:
                    return chunk
                view = memoryview(chunk)[max(start - position, 0) :][:size]
                pieces.append(view)
                size -= len(view)
                start = after
                if not size:
                    break
            position = after
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def clear(self) -> None:
        """Forget the stream."""
        self._chunks.clear()
        self._base = self.end


class Reassembly:
    """Payload that arrived ahead of a gap: disjoint, sorted pieces, and the ranges they make up.

    Bounded by the window, which the caller trims to first, and in the number of pieces: one byte
    alone takes a hundred.  What is kept is copied, since it outlives the receive buffer it came in.
    """

    MAX_PIECES = 8192
    """The largest window in common segments (1448); what comes beyond has to come again."""
    MAX_BLOCKS = 4  # that a SACK option has room for

    __slots__ = ("_pieces", "_ranges", "_recent", "size")

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []
        self._ranges: list[tuple[int, int]] = []
        self._recent: deque[int] = deque(maxlen=self.MAX_BLOCKS)  # where what came last begins
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, start: int, payload: bytes | memoryview) -> bool:
        """Keep what of `payload` is not there yet; `start` is its first sequence number.

        Says whether anything of it was new, or might have been and had no place.
        """
        end = start + len(payload)
        pieces, before = self._pieces, self.size
        if len(pieces) >= self.MAX_PIECES:
            return True
        self._recent.appendleft(start)
        if not self._cover(start, end):
            return False
        index = bisect_right(pieces, start, key=_LEFT)
        if index:
            left, data = pieces[index - 1]
            if left + len(data) > start:
                payload = payload[left + len(data) - start :]
                start = left + len(data)
        last = bisect_left(pieces, end, index, key=_LEFT)
        if last > index and pieces[last - 1][0] + len(pieces[last - 1][1]) > end:
            last -= 1
            payload = payload[: pieces[last][0] - start]
        # One piece in place of those it covers: so there is never more than one more.
        self.size += len(payload) - sum(len(data) for _, data in pieces[index:last])
        pieces[index:last] = [(start, bytes(payload))]
        return self.size > before

    def _cover(self, start: int, end: int) -> bool:
        """Add to the ranges; say whether that changes them."""
        ranges = self._ranges
        first = bisect_left(ranges, start, key=_RIGHT)
        last = bisect_right(ranges, end, key=_LEFT)
        if first < last:
            if ranges[first][0] <= start and end <= ranges[first][1]:
                return False
            start = min(start, ranges[first][0])
            end = max(end, ranges[last - 1][1])
        ranges[first:last] = [(start, end)]
        return True

    def take(self, start: int) -> list[bytes]:
        """Remove and return the pieces that follow `start` without a gap."""
        pieces, taken = self._pieces, []
        count = 0
        for left, data in pieces:
            if left > start:
                break
            count += 1
            self.size -= len(data)
            if left + len(data) > start:
                taken.append(data[start - left :] if left < start else data)
                start = left + len(data)
        del pieces[:count]
        del self._ranges[: bisect_right(self._ranges, start, key=_LEFT)]
        return taken

    def blocks(self) -> list[tuple[int, int]]:
        """Return up to four (left, right) ranges, by their last arrivals (RFC 2018 §4)."""
        found: list[tuple[int, int]] = []
        for start in self._recent:
            index = bisect_right(self._ranges, start, key=_LEFT) - 1
            if index >= 0:
                block = self._ranges[index]
                if start < block[1] and block not in found:
                    found.append(block)
        return found

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._ranges.clear()
        self.size = 0
