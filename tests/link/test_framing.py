"""Frames cut from a stream: every dialect, fed whole, byte by byte, and out of step."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taplink import vnet
from taplink.framing import HYPERKIT, MAX_FRAME, QEMU, TAPLINK, FrameReader, Framing, LinkError

DIALECTS = [HYPERKIT, QEMU, TAPLINK]


def framed(framing: Framing, *frames: bytes) -> bytes:
    return b"".join(framing.length.pack(len(frame)) + frame for frame in frames)


def some(framing: Framing) -> list[bytes]:
    """Frames of many lengths, the shortest and the longest among them."""
    lengths = (framing.offset, framing.offset + 1, 60, 1514, framing.limit)
    return [bytes([number]) * length for number, length in enumerate(lengths)]


@pytest.mark.parametrize("framing", DIALECTS, ids=lambda framing: framing.name)
def test_whole_and_bytewise(framing: Framing) -> None:
    frames = some(framing)
    stream = framed(framing, *frames)
    assert [bytes(frame) for frame in FrameReader(framing).feed(stream)] == frames
    reader, got = FrameReader(framing, framing.length.size + framing.limit), []
    for at in range(len(stream)):
        got += [bytes(frame) for frame in reader.feed(stream[at : at + 1])]
    assert got == frames


@given(frames=st.lists(st.binary(max_size=200), max_size=20), data=st.data())
def test_any_cuts(frames: list[bytes], data: st.DataObject) -> None:
    stream, reader, got = framed(QEMU, *frames), FrameReader(QEMU), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += [bytes(frame) for frame in reader.feed(stream[:cut])]
        stream = stream[cut:]
    assert got == frames


@pytest.mark.parametrize(
    ("framing", "length"),
    [
        (QEMU, MAX_FRAME + 1),
        (QEMU, 0xFFFFFFFF),
        (TAPLINK, vnet.SIZE - 1),
        (TAPLINK, 0),
        (TAPLINK, vnet.SIZE + MAX_FRAME + 1),
    ],
)
def test_an_impossible_length(framing: Framing, length: int) -> None:
    with pytest.raises(LinkError, match=str(length)):
        FrameReader(framing).feed(framing.length.pack(length))


def test_lengths_on_the_wire() -> None:
    assert HYPERKIT.length.pack(0x1234) == b"\x34\x12"
    assert QEMU.length.pack(0x1234) == b"\x00\x00\x12\x34"
    assert TAPLINK.length.pack(0x1234) == b"\x00\x00\x12\x34"


def test_receive() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        reader = FrameReader(TAPLINK)
        with pytest.raises(BlockingIOError):
            reader.receive(near)
        frame = vnet.PLAIN + b"frame"
        far.send(framed(TAPLINK, frame, frame)[:-1])
        assert [bytes(view) for view in reader.receive(near)] == [frame]
        far.send(b"e")
        assert [bytes(view) for view in reader.receive(near)] == [frame]
        far.close()
        with pytest.raises(EOFError):
            reader.receive(near)


def test_one_receive_takes_many_frames() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.send(framed(HYPERKIT, b"x", b"y", b"z"))
        assert len(FrameReader(HYPERKIT).receive(near)) == 3


def test_what_is_too_much_at_once_is_handed_out_without_reading() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        reader, frames = FrameReader(HYPERKIT), [bytes([number]) for number in range(5)]
        far.send(framed(HYPERKIT, *frames) + b"\1")
        got = []
        for count, more in ((2, True), (4, True), (5, False)):
            got += [bytes(frame) for frame in reader.receive(near, 2)]
            assert (len(got), reader.more) == (count, more)
        assert got == frames
        far.send(b"\0x")
        assert [bytes(frame) for frame in reader.receive(near, 2)] == [b"x"]


@pytest.mark.parametrize("framing", [HYPERKIT, QEMU, TAPLINK])
def test_what_was_put_back_is_handed_out_again(framing: Framing) -> None:
    reader = FrameReader(framing)
    frames = [bytes(framing.offset) + bytes([number]) * number for number in range(5)]
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.send(framed(framing, *frames))
        got = reader.receive(near)
        reader.put_back([])
        assert not reader.more
        reader.put_back(got[2:])
        assert reader.more
        got = reader.receive(near)
        assert [bytes(frame) for frame in got] == frames[2:]
        with pytest.raises(BlockingIOError):
            reader.receive(near)
