"""A guest behind a byte stream: framing, partial sends, bounds, and the end."""

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator

import pytest
import uvloop

from gvproxy.ports import stream
from gvproxy.ports.fairness import FIRST_FRAMES, MAX_PAUSE, TURN
from gvproxy.ports.guestport import HIGH_WATER, LIMIT, LOW_WATER, PortCounters
from gvproxy.ports.stream import StreamPort
from taplink import vnet
from taplink.framing import HYPERKIT, TAPLINK, Framing
from taplink.vnet import Offload
from tests.host.ports.costs import Costs
from tests.manual_loop import ManualLoop


class FakeStack:
    """Records what a port tells it."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.batches = 0
        self.most = sys.maxsize
        """Frames that it takes at once."""
        self.told: list[str] = []
        self.on_receive: Callable[[], None] = lambda: None

    def attach(self, port: StreamPort) -> None:
        port.number = 3
        self.told.append("attach")

    def detach(self, port: StreamPort, now: float) -> None:
        self.told.append("detach")

    def port_ready(self, port: StreamPort, now: float) -> None:
        assert not port.congested
        self.told.append("ready")

    def receive(self, port: StreamPort, frames: list[memoryview], now: float) -> int:
        self.batches += 1
        taken = frames[: self.most]
        self.frames += map(bytes, taken)
        self.on_receive()
        return len(taken)


class Bench:
    def __init__(self, framing: Framing = HYPERKIT, *, small: bool = False) -> None:
        self.loop = ManualLoop()
        self.stack = FakeStack()
        self.reasons: list[str] = []
        self.framing = framing
        sock, self.guest = socket.socketpair()
        if small:
            for end in (sock, self.guest):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        sock.setblocking(False)
        self.guest.setblocking(False)
        self.sock = sock
        offload = Offload.CSUM if framing.offset else Offload.NONE
        self.port = StreamPort(
            sock,
            framing,
            offload,
            self.stack,  # type: ignore[arg-type]
            self.loop.as_loop(),
            lambda port, reason: self.reasons.append(reason),
        )

    def start(self, rest: bytes = b"") -> "Bench":
        self.port.start(rest)
        return self

    def pack(self, *frames: bytes) -> bytes:
        """Write frames as a guest does."""
        meta = bytes(self.framing.offset)
        return b"".join(
            self.framing.length.pack(len(meta) + len(frame)) + meta + frame for frame in frames
        )

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                piece = self.guest.recv(1 << 20)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    def read_all(self) -> bytes:
        """Read until the port has nothing left."""
        data = b""
        while True:
            self.loop.run()
            piece = self.read()
            if not piece and not self.port._queue:
                return data
            data += piece

    def close(self) -> None:
        self.port.close("the test is over")
        self.guest.close()
        self.loop.run()
        assert self.loop.idle
        assert self.sock.fileno() == -1
        assert self.stack.told.count("detach") == 1
        assert len(self.reasons) == 1


@pytest.fixture(params=[HYPERKIT, TAPLINK], ids=["hyperkit", "taplink"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(request.param).start()
    yield bench
    bench.close()


@pytest.fixture
def slow() -> Iterator[Bench]:
    """One whose socket takes less than a frame at once, sometimes."""
    bench = Bench(small=True).start()
    yield bench
    bench.close()


# In


def test_frames_come_in_as_one_batch(bench: Bench) -> None:
    meta = bytes(bench.framing.offset)
    bench.guest.send(bench.pack(b"one", b"", b"three" * 100))
    bench.loop.until(lambda: bench.stack.batches)
    assert bench.stack.frames == [meta + b"one", meta, meta + b"three" * 100]
    assert bench.stack.batches == 1
    counters = bench.port.counters
    assert (counters.frames_in, counters.bytes_in) == (3, 503)


def test_what_the_stack_does_not_take_comes_again(bench: Bench) -> None:
    bench.stack.most = 2
    meta = bytes(bench.framing.offset)
    frames = [b"%d" % number * (number + 1) for number in range(5)]
    bench.guest.send(bench.pack(*frames) + b"\0")
    bench.loop.turn()
    assert bench.stack.frames == [meta + frame for frame in frames[:2]]
    bench.loop.run()
    assert bench.stack.frames == [meta + frame for frame in frames]
    assert bench.stack.batches == 3
    counters = bench.port.counters
    assert (counters.frames_in, counters.bytes_in) == (5, 15)


def test_what_the_stack_does_not_take_of_what_came_with_the_request() -> None:
    bench = Bench()
    bench.stack.most = 2
    frames = [b"1", b"22", b"333"]
    bench.start(bench.pack(*frames))
    bench.loop.run()
    assert bench.stack.frames == frames
    bench.close()


def test_frames_come_in_byte_by_byte(bench: Bench) -> None:
    for byte in bench.pack(b"one", b"two"):
        bench.guest.send(bytes((byte,)))
        bench.loop.run()
    meta = bytes(bench.framing.offset)
    assert bench.stack.frames == [meta + b"one", meta + b"two"]


def test_costly_frames_come_in_pieces_with_others_between(bench: Bench) -> None:
    costs = Costs(bench.port, bench.stack, 100e-6)
    frames = [b"%04d" % number for number in range(1000)]
    bench.guest.send(bench.pack(*frames))
    bench.loop.turn()
    assert len(bench.stack.frames) == FIRST_FRAMES
    bench.loop.turn()
    assert len(bench.stack.frames) == FIRST_FRAMES + int(TURN / 100e-6)
    bench.loop.run()
    meta = bytes(bench.framing.offset)
    assert bench.stack.frames == [meta + frame for frame in frames]
    assert costs.longest[1:] == pytest.approx([TURN] * len(costs.longest[1:]), abs=TURN)
    assert bench.port.counters.pauses == 0, "nobody else is there"


def test_costly_frames_wait_while_others_are_busy(bench: Bench) -> None:
    costs = Costs(bench.port, bench.stack, 100e-6)
    costs.others_move(bench.loop)
    frames = [b"%04d" % number for number in range(1000)]
    bench.guest.send(bench.pack(*frames))
    bench.loop.run()
    taken = len(bench.stack.frames)
    assert taken == FIRST_FRAMES
    assert bench.port.paused
    assert bench.sock.fileno() not in bench.loop.readers
    bench.loop.advance(MAX_PAUSE)
    assert taken < len(bench.stack.frames) < 1000
    while len(bench.stack.frames) < 1000:
        bench.loop.advance(MAX_PAUSE)
    bench.guest.send(bench.pack(b"last"))
    bench.loop.advance(1.0)
    bench.loop.run()
    assert bench.stack.frames[-1].endswith(b"last")
    assert bench.port.counters.pauses > 1


def test_who_acknowledges_bulk_data_does_not_wait(bench: Bench) -> None:
    """What comes for a guest between its batches is worth the time they take, too."""
    costs = Costs(bench.port, bench.stack, 100e-6)
    costs.others_move(bench.loop)
    for _ in range(20):
        bench.port.send(vnet.PLAIN, bytes(20_000))
        bench.loop.turn()
        bench.guest.send(bench.pack(*[b"ack"] * 3))
        bench.loop.turn()
        bench.read_all()
    assert bench.port.counters.pauses == 0


def test_one_that_waits_can_be_closed(bench: Bench) -> None:
    Costs(bench.port, bench.stack, 100e-6).others_move(bench.loop)
    bench.guest.send(bench.pack(*[b""] * 1000))
    bench.loop.run()
    assert bench.port.paused
    bench.port.close("the guest has to go")
    bench.loop.advance(1.0)
    assert len(bench.stack.frames) == FIRST_FRAMES


@pytest.mark.parametrize("framing", [HYPERKIT, TAPLINK])
def test_frames_behind_the_head_come_first(framing: Framing) -> None:
    bench = Bench(framing)
    data = bench.pack(b"one", b"two")
    bench.guest.send(data[-3:])
    bench.start(data[:-3])
    meta = bytes(framing.offset)
    assert bench.stack.frames == [meta + b"one"]
    bench.loop.until(lambda: len(bench.stack.frames) == 2)
    assert bench.stack.frames[1] == meta + b"two"
    bench.close()


def test_garbage_behind_the_head_ends_the_link() -> None:
    bench = Bench(TAPLINK).start(b"\xff" * 10)
    assert bench.stack.told == ["attach", "detach"]
    assert "out of step" in bench.reasons[0]
    bench.close()


def test_an_impossible_length_ends_the_link() -> None:
    bench = Bench(TAPLINK).start()
    bench.guest.send(b"\0\0\0\x05hello")
    bench.loop.until(lambda: bench.reasons)
    assert "a frame of 5 bytes" in bench.reasons[0]
    bench.close()


def test_the_guests_end_closes_the_port(bench: Bench) -> None:
    bench.guest.close()
    bench.loop.until(lambda: bench.reasons)
    assert bench.reasons == ["the guest has closed its end"]
    bench.port.close("again")
    assert bench.stack.told == ["attach", "detach"]


def test_a_reset_closes_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        bench = Bench()
        bench.sock.close()
        bench.sock, _ = server.accept()
    bench.sock.setblocking(False)
    reasons = bench.reasons
    bench.port = StreamPort(
        bench.sock,
        HYPERKIT,
        Offload.NONE,
        bench.stack,  # type: ignore[arg-type]
        bench.loop.as_loop(),
        lambda port, reason: reasons.append(reason),
    )
    bench.start()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    bench.loop.until(lambda: bench.reasons)
    assert bench.reasons == ["Connection reset by peer"]
    bench.close()


def test_closing_while_it_receives(bench: Bench) -> None:
    """The daemon ends, or a handler closes the port its frame came from."""
    bench.stack.on_receive = lambda: bench.port.close("in the middle")
    bench.port.send(vnet.PLAIN, b"queued")
    bench.guest.send(bench.pack(b"one", b"two"))
    bench.loop.until(lambda: bench.reasons)
    assert bench.reasons == ["in the middle"]
    assert len(bench.stack.frames) == 2
    bench.port.send(vnet.PLAIN, b"too late")
    assert bench.port.counters.dropped == 1
    bench.loop.run()


# Out


def test_a_frame_goes_out_with_the_next_turn(bench: Bench) -> None:
    bench.port.send(vnet.PLAIN, b"head", b"payload")
    bench.port.send(vnet.PLAIN, b"alone")
    bench.port.send(vnet.PLAIN, b"head", memoryview(b""))
    assert bench.read() == b""
    assert len(bench.loop.soon) == 1, "one flush for all"
    bench.loop.run()
    assert bench.read() == bench.pack(b"headpayload", b"alone", b"head")
    counters = bench.port.counters
    assert (counters.frames_out, counters.bytes_out, counters.dropped) == (3, 20, 0)
    assert bench.port._size == 0


def test_what_is_urgent_leaves_in_the_middle_of_a_batch(bench: Bench) -> None:
    read = []

    def receive() -> None:
        bench.port.send(vnet.PLAIN, b"urgent")
        bench.port.flush()
        read.append(bench.read())

    bench.stack.on_receive = receive
    bench.guest.send(bench.pack(b"one"))
    bench.loop.until(lambda: read)
    assert read == [bench.pack(b"urgent")]
    bench.close()
    bench.port.flush()


def test_a_long_queue_leaves_in_the_middle_of_a_batch() -> None:
    """So that the guest reads while more is made."""
    bench = Bench(HYPERKIT).start()
    frame = bytes(1500)
    count = stream.EARLY // len(bench.pack(frame))
    read = []

    def receive() -> None:
        for _ in range(count):
            bench.port.send(vnet.PLAIN, frame)
        read.append(bench.read())
        bench.port.send(vnet.PLAIN, frame)
        read.append(bench.read())
        bench.port.send(vnet.PLAIN, frame)

    bench.stack.on_receive = receive
    bench.guest.send(bench.pack(b"one"))
    bench.loop.until(lambda: read)
    read.append(bench.read())
    assert [len(data) // len(bench.pack(frame)) for data in read] == [0, count + 1, 1]
    bench.close()


def test_nobody_hears_of_a_long_queue_before_the_next_turn() -> None:
    """Whoever sends is in the midst of it."""
    bench = Bench(HYPERKIT).start()
    bench.port.congested = True
    for _ in range(3):
        bench.port.send(vnet.PLAIN, bytes(60_000))
    assert bench.read()
    assert "ready" not in bench.stack.told
    bench.loop.run()
    assert bench.stack.told.count("ready") == 1
    bench.loop.readers.clear()
    bench.guest.close()
    for _ in range(5):
        bench.port.send(vnet.PLAIN, bytes(60_000))
    assert bench.reasons == []
    bench.loop.until(lambda: bench.reasons)
    assert bench.reasons == ["the guest has closed its end"]
    bench.close()


def test_a_virtio_header_goes_out_with_its_frame() -> None:
    bench = Bench(TAPLINK).start()
    meta = vnet.HEADER.pack(1, 1, 66, 1448, 34, 16, 0)
    bench.port.send(meta, b"head", b"payload")
    bench.loop.run()
    assert bench.read() == b"\0\0\0\x17" + meta + b"headpayload"
    bench.close()


def test_answers_leave_at_the_end_of_the_batch(bench: Bench) -> None:
    """In the same turn, not one later."""
    bench.stack.on_receive = lambda: bench.port.send(vnet.PLAIN, b"answer")
    bench.guest.send(bench.pack(b"question"))
    bench.loop.turn()
    assert bench.read() == bench.pack(b"answer")
    assert not bench.loop.soon


def test_counters_add_up() -> None:
    total = PortCounters(1, 2, 3, 4, 5)
    total.add(PortCounters(10, 20, 30, 40, 50))
    assert total == PortCounters(11, 22, 33, 44, 55)


def test_a_slow_guest_gets_everything_in_order(slow: Bench) -> None:
    """However little the socket takes at once."""
    frames = [bytes((n % 256,)) * (n * 37 % 9000 + 1) for n in range(300)]
    for number, frame in enumerate(frames):
        slow.port.send(vnet.PLAIN, frame[: number % 40 + 1], frame[number % 40 + 1 :])
    slow.loop.run()
    assert slow.loop.writers, "it waits for the socket"
    assert slow.read_all() == slow.pack(*frames)
    assert not slow.loop.writers
    assert slow.port._size == 0
    slow.port.send(vnet.PLAIN, b"and it goes on")
    slow.loop.run()
    assert slow.read() == slow.pack(b"and it goes on")


def test_more_frames_than_fit_one_call(bench: Bench) -> None:
    frames = [b"%d" % n for n in range(stream.MAX_BUFFERS * 2 + 10)]
    for frame in frames:
        bench.port.send(vnet.PLAIN, frame)
    assert bench.read_all() == bench.pack(*frames)


def test_a_frame_the_dialect_has_no_length_for_is_dropped(bench: Bench) -> None:
    """A guest with offloads may send what 16 bits of hyperkit cannot count."""
    largest = bench.framing.limit - bench.framing.offset
    for size in (largest + 1, largest, 60):
        bench.port.send(vnet.PLAIN, bytes(size))
    assert (bench.port.counters.dropped, bench.port.counters.frames_out) == (1, 2)
    assert bench.read_all() == bench.pack(bytes(largest), bytes(60))


def fill(bench: Bench, size: int) -> int:
    """Queue frames until the port has `size` bytes; return their number."""
    count = 0
    while bench.port._size <= size and not bench.port.counters.dropped:
        bench.port.send(vnet.PLAIN, b"h" * 54, bytes(60_000))
        count += 1
    return count


def test_congestion_comes_and_goes(slow: Bench) -> None:
    slow.loop.run()
    fill(slow, HIGH_WATER - 60_100)
    assert not slow.port.congested
    fill(slow, HIGH_WATER)
    assert slow.port.congested
    slow.loop.run()
    while slow.port._size >= LOW_WATER:
        assert slow.port.congested
        assert "ready" not in slow.stack.told
        assert slow.read()
        slow.loop.turn()
    assert not slow.port.congested
    assert slow.stack.told.count("ready") == 1
    slow.read_all()
    assert slow.stack.told.count("ready") == 1


@pytest.mark.parametrize("limit", [1, 15, 16])
def test_congestion_of_the_smallest_queue_goes_too(slow: Bench, limit: int) -> None:
    slow.port.bound_queue(limit)
    slow.port.send(vnet.PLAIN, bytes(60))
    assert slow.port.congested
    slow.loop.run()
    assert not slow.port.congested
    assert slow.stack.told.count("ready") == 1


def test_what_is_sent_on_being_ready_leaves_too(slow: Bench) -> None:
    def ready(port: StreamPort, now: float) -> None:
        port.send(vnet.PLAIN, b"waited")

    slow.stack.port_ready = ready  # type: ignore[method-assign]
    fill(slow, HIGH_WATER)
    assert slow.read_all().endswith(b"waited")
    assert not slow.loop.writers


def test_a_full_queue_drops_and_counts(slow: Bench) -> None:
    slow.port.send(vnet.PLAIN, bytes(60_000))
    slow.loop.run()
    fill(slow, LIMIT)
    kept, size = slow.port.counters.frames_out, slow.port._size
    assert size <= LIMIT + 60_100
    for _ in range(3):
        slow.port.send(vnet.PLAIN, b"too much")
    assert (slow.port.counters.frames_out, slow.port.counters.dropped) == (kept, 3)
    assert slow.port._size == size
    assert len(slow.read_all()) > LIMIT
    slow.port.send(vnet.PLAIN, b"room again")
    assert slow.port.counters.frames_out == kept + 1


def test_a_guest_that_leaves_while_the_port_waits(slow: Bench) -> None:
    fill(slow, HIGH_WATER)
    slow.loop.run()
    assert slow.loop.writers
    slow.guest.close()
    slow.loop.until(lambda: slow.reasons)
    assert slow.loop.idle
    assert (slow.port._queue, slow.port._size, slow.port.congested) == ([], 0, False)


def test_a_guest_that_is_gone_when_the_queue_leaves(bench: Bench) -> None:
    """What it said before is heard."""
    bench.loop.readers.clear()
    said = [f"frame {number}".encode() for number in range(100)]
    bench.guest.sendall(bench.pack(*said))
    bench.guest.close()
    bench.port.send(vnet.PLAIN, b"anyone?")
    bench.loop.until(lambda: bench.reasons)
    assert bench.reasons == ["the guest has closed its end"]
    assert [frame[bench.framing.offset :] for frame in bench.stack.frames] == said


def real_port(sock: socket.socket, stack: FakeStack, gone: asyncio.Future[str]) -> StreamPort:
    """Make a port on the loop that runs; `gone` gets the reason when its guest has gone."""
    return StreamPort(
        sock,
        HYPERKIT,
        Offload.NONE,
        stack,  # type: ignore[arg-type]
        asyncio.get_running_loop(),
        lambda port, reason: gone.set_result(reason),
    )


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_on_a_real_loop(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        stack, gone = FakeStack(), loop.create_future()
        sock, guest = socket.socketpair()
        sock.setblocking(False)
        guest.setblocking(False)
        port = real_port(sock, stack, gone)
        stack.on_receive = lambda: port.send(vnet.PLAIN, bytes(stack.frames[-1]), bytes(50_000))
        port.start(b"\x03\0one")
        frames, size = 100, 100 * 50_005
        received = asyncio.create_task(_read(loop, guest, size))
        for _ in range(frames - 1):
            await loop.sock_sendall(guest, b"\x03\0two")
            count = port.counters.frames_in
            while port.counters.frames_in == count:
                await asyncio.sleep(0)
        assert len(await received) == size
        guest.close()
        assert await gone == "the guest has closed its end"

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_a_guest_that_dies_with_unread_frames(
    factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Its end is an error to us, behind what it has sent."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        stack, gone = FakeStack(), loop.create_future()
        sock, guest = socket.socketpair()
        sock.setblocking(False)
        sock.send(b"unread")
        real_port(sock, stack, gone).start()
        guest.sendall(b"\x03\0one")
        guest.close()
        assert await gone == "Connection reset by peer"
        assert [bytes(frame) for frame in stack.frames] == [b"one"]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(scenario(), 20))


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await loop.sock_recv(sock, 1 << 16)
    return bytes(data)
