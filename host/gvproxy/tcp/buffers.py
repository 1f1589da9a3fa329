"""The two queues of a connection: bytes sent and not acknowledged, and bytes that came early."""

from bisect import bisect_right
from collections import deque
from operator import itemgetter

_LEFT = itemgetter(0)


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
    """Payload that arrived ahead of a gap: disjoint, sorted pieces, and the newest one's number.

    Bounded by the window, which the caller trims to first, and in the number of pieces: one byte
    alone takes a hundred.  What is kept is copied, since it outlives the receive buffer it came in.
    """

    MAX_PIECES = 2048
    """A megabyte of the smallest common segments (536); what comes beyond has to come again."""

    __slots__ = ("_latest", "_pieces", "size")

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []
        self._latest = 0
        self.size = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, start: int, payload: bytes | memoryview) -> None:
        """Keep what of `payload` is not there yet; `start` is its first sequence number."""
        end = start + len(payload)
        pieces = self._pieces
        if len(pieces) >= self.MAX_PIECES:
            return
        self._latest = start
        index = bisect_right(pieces, start, key=_LEFT)
        if index:
            left, data = pieces[index - 1]
            if left + len(data) > start:
                payload = payload[left + len(data) - start :]
                start = left + len(data)
        while start < end:
            if index < len(pieces) and pieces[index][0] < end:
                left, data = pieces[index]
                gap, skip = left - start, left + len(data)
            else:
                gap, skip = end - start, end
            if gap:
                pieces.insert(index, (start, bytes(payload[:gap])))
                self.size += gap
                index += 1
            payload = payload[skip - start :]
            start = skip
            index += 1

    def take(self, start: int) -> list[bytes]:
        """Remove and return the pieces that follow `start` without a gap."""
        pieces, taken = self._pieces, []
        while pieces and pieces[0][0] <= start:
            left, data = pieces.pop(0)
            self.size -= len(data)
            if left + len(data) > start:
                taken.append(data[start - left :] if left < start else data)
                start = left + len(data)
        return taken

    def blocks(self, most: int) -> list[tuple[int, int]]:
        """Return up to `most` (left, right) ranges, that of the newest arrival first (RFC 2018)."""
        ranges: list[tuple[int, int]] = []
        for left, data in self._pieces:
            right = left + len(data)
            if ranges and ranges[-1][1] == left:
                ranges[-1] = (ranges[-1][0], right)
            else:
                ranges.append((left, right))
        ranges.sort(key=lambda edge: not edge[0] <= self._latest < edge[1])
        return ranges[:most]

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self.size = 0
