"""A byte stream of a guest's, cut into frames: the same frames however it arrives.

The first message says which dialect; the others are the stream as it is cut there.  It is read as
that, whole, and byte by byte; and by a port, for whose guest a stream that is out of step is the
end, and nothing is raised.  Datagrams are frames as they are.
"""

from collections.abc import Callable
from typing import Literal

from gvproxy.ports.fairness import MAX_FRAMES
from gvproxy.ports.vpnkit import ANSWER_SIZE, HELLO_SIZE, MAGIC, REQUEST_SIZE, Handshake
from taplink import vnet
from taplink.framing import HYPERKIT, QEMU, TAPLINK, FrameReader, Framing, LinkError
from tests.fuzz.budget import within
from tests.fuzz.cases import Case, join, split
from tests.fuzz.mutation import Repair
from tests.host.stack import bench as lab

repair: Repair | None = None

_DIALECTS = (HYPERKIT, QEMU, TAPLINK)
VPNKIT = 3
_MTU = 1500
_MACS = {"8e8e1f6d-3c9b-4c0c-9e3e-0a4b3f1c2d5e": bytes.fromhex("5a94efe40cee")}

Heard = tuple[list[bytes], bytes, bool]
"""Frames, what is said to the guest, and whether the stream was out of step."""


def _cut(framing: Framing, pieces: Case) -> Heard:
    """Read a stream of frames that arrives in pieces."""
    least = framing.length.size + framing.limit
    reader, space = FrameReader(framing, 2 * least), least
    frames: list[bytes] = []
    for piece in pieces:
        # As `receive` does: no more than there is room for beside a frame that is not complete.
        for start in range(0, len(piece), space):
            try:
                with within():
                    found = reader.feed(piece[start : start + space])
            except LinkError:
                return frames, b"", True
            frames += map(bytes, found)
    assert all(framing.offset <= len(frame) <= framing.limit for frame in frames)
    return frames, b"", False


class Source:
    """A socket from which a stream comes as it is cut, and then its end."""

    def __init__(self, pieces: Case) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.ended = False

    def recv_into(self, buffer: memoryview, /) -> int:
        assert not self.ended, "it is read behind its end"
        assert len(buffer), "it is read without room"
        if not self._pieces:
            self.ended = True
            return 0
        piece = self._pieces.pop(0)
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if count < len(piece):
            self._pieces.insert(0, piece[count:])
        return count


def _receive(framing: Framing, pieces: Case, most: int) -> Heard:
    """Read a stream from a socket, with at most so many frames at a time."""
    least = framing.length.size + framing.limit
    reader, source = FrameReader(framing, least), Source(pieces)
    frames: list[bytes] = []
    for _ in range(2 * len(b"".join(pieces)) + 2):
        try:
            with within():
                found = reader.receive(source, most)
        except LinkError:
            return frames, b"", True
        except EOFError:
            return frames, b"", False
        assert len(found) <= most
        frames += map(bytes, found)
    raise AssertionError("the end of a stream does not come")


def _read(framing: Framing, stream: bytes) -> Heard:
    """Read a stream once more, by the dialect's description alone."""
    size = 2 if framing is HYPERKIT else 4
    order: Literal["little", "big"] = "little" if framing is HYPERKIT else "big"
    least = 12 if framing is TAPLINK else 0
    most = 0xFFFF if framing is HYPERKIT else least + 14 + 4 + 65535
    frames: list[bytes] = []
    at = 0
    while at + size <= len(stream):
        length = int.from_bytes(stream[at : at + size], order)
        if not least <= length <= most:
            return frames, b"", True
        if at + size + length > len(stream):
            break
        frames.append(stream[at + size : at + size + length])
        at += size + length
    return frames, b"", False


def _shake_hands(pieces: Case) -> Heard:
    """Read a stream that begins with vpnkit's handshake."""
    handshake, said = Handshake(_MTU, _MACS), b""
    rest: Case = []
    for piece in pieces:
        if handshake.done:
            rest.append(piece)
            continue
        try:
            with within():
                said += handshake.feed(piece)
        except LinkError:
            return [], said, True
        rest.append(handshake.rest)
    if not handshake.done:
        assert len(said) in (0, HELLO_SIZE)
        return [], said, False
    assert len(said) == HELLO_SIZE + ANSWER_SIZE
    assert not said[HELLO_SIZE + 5] & 1, "a station with a group's address"
    frames, _, wrong = _cut(HYPERKIT, rest)
    return frames, said, wrong


def target(data: bytes) -> None:
    """Read a stream in three ways."""
    first, *pieces = split(data) or [b""]
    dialect = first[0] & 3 if first else 0
    framing = HYPERKIT if dialect == VPNKIT else _DIALECTS[dialect]
    read: Callable[[Case], Heard]
    read = _shake_hands if dialect == VPNKIT else lambda pieces: _cut(framing, pieces)
    whole = b"".join(pieces)[:150_000]
    heard = read([whole])
    if len(whole) < 150_000:
        _compare(heard, read(pieces))
    if len(whole) < 1_000:
        _compare(heard, read([whole[at : at + 1] for at in range(len(whole))]))
    frames, said, wrong = heard
    if dialect != VPNKIT:
        _compare(_read(framing, whole), heard)
        if len(whole) < 20_000:
            for most in (1, 1000):
                _compare(heard, _receive(framing, pieces, most))
    else:
        assert wrong or MAGIC.startswith(whole[:5]) or whole.startswith(b"VMN3T")
        assert said[:HELLO_SIZE] == whole[: len(said)][:HELLO_SIZE]
        if len(said) > HELLO_SIZE and not wrong:
            start = HELLO_SIZE + REQUEST_SIZE
            _compare(_read(framing, whole[start:]), (frames, b"", False))
    _to_a_stack(framing, frames)


def _compare(whole: Heard, cut: Heard) -> None:
    """Assert that cuts make no difference, but to what came with the end of a broken stream."""
    assert cut[1:] == whole[1:]
    if not whole[2]:
        assert cut[0] == whole[0]
    assert all(one == other for one, other in zip(cut[0], whole[0], strict=False))


def _to_a_stack(framing: Framing, frames: list[bytes]) -> None:
    """Let a stack have the frames in batches, as a port does."""
    bench = lab.Bench(lab.ALL if framing.offset else vnet.Offload.NONE)
    views = [memoryview(frame) for frame in frames]
    while views:
        with within():
            taken = bench.stack.receive(bench.port, views[:MAX_FRAMES], bench.now)
        views = views[taken:]


def _stream(dialect: int, *frames: bytes, cuts: int = 1) -> bytes:
    framing = HYPERKIT if dialect == VPNKIT else _DIALECTS[dialect]
    stream = b"".join(framing.length.pack(len(one)) + one for one in frames)
    size = -(-len(stream) // cuts)
    hello = []
    if dialect == VPNKIT:
        uuid = next(iter(_MACS)).encode()
        hello = [
            MAGIC + b"\x16\0\0\0" + b"a" * (HELLO_SIZE - len(MAGIC) - 4),
            (b"\1" + uuid).ljust(REQUEST_SIZE, b"\0"),
        ]
    if dialect == VPNKIT and cuts == 3:
        hello = [b"VMN3X" + hello[0][5:], hello[1]]
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    return join([bytes((dialect,)), *hello, *pieces])


def seeds() -> dict[str, bytes]:
    """Return streams of every dialect."""
    small = lab.echo(), lab.arp(lab.GATEWAY), lab.udp(bytes(100)), lab.tcp(flags=2)
    large = (lab.udp(bytes(9000)), bytes(60), b"")
    found = {}
    for dialect, name in enumerate(("hyperkit", "qemu", "taplink", "vpnkit")):
        head = vnet.PLAIN if name == "taplink" else b""
        for cuts in (1, 7):
            found[f"{name}-{cuts}"] = _stream(dialect, *(head + one for one in small), cuts=cuts)
        found[f"{name}-large"] = _stream(dialect, *(head + one for one in large), cuts=3)
    for dialect, name in enumerate(("hyperkit", "qemu", "taplink")):
        framing = _DIALECTS[dialect]
        for size in (framing.offset - 1, framing.offset, framing.limit, framing.limit + 1):
            if 0 <= size <= 0xFFFF or framing.length.size > 2:
                bad = framing.length.pack(max(size, 0)) + bytes(min(max(size, 0), 70_000))
                pieces = [bad[at : at + 60_000] for at in range(0, len(bad), 60_000)]
                found[f"{name}-{size}"] = join([bytes((dialect,)), *pieces, bad[:4]])
    return found
