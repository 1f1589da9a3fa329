"""The relay between a link and a tap; the tap is a SEQPACKET socket, whose reads and writes are
messages as a tap's are frames, or a real one where the kernel's own answers matter."""

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass

import pytest
import uvloop

from taplink import vnet
from taplink.framing import HYPERKIT, TAPLINK, FrameReader, Framing, LinkError
from taplink.tap import Tap, open_tap
from taplink.upgrade import Agreed
from taplink.vnet import Offload
from tests.lab.namespace import Namespace
from vsock_tap.errors import AgentError
from vsock_tap.relay import Relay

COMBINATIONS = [
    pytest.param(TAPLINK, True, id="taplink"),
    pytest.param(HYPERKIT, True, id="hyperkit"),
    pytest.param(TAPLINK, False, id="taplink-plain-tap"),
    pytest.param(HYPERKIT, False, id="hyperkit-plain-tap"),
]
GSO = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, 54, 1448, 34, 16, 0)


def nothing(frame: memoryview) -> bool:
    raise AssertionError("the relay asks although it does not watch")


@dataclass
class Bench:
    """A relay and the far ends of its tap and its link."""

    relay: Relay
    framing: Framing
    vnet_hdr: bool
    tap: socket.socket
    link: socket.socket
    loop: asyncio.AbstractEventLoop

    def __post_init__(self) -> None:
        self._reader = FrameReader(self.framing)
        self._frames: list[bytes] = []

    def on_link(self, frame: bytes, header: bytes = vnet.PLAIN) -> bytes:
        """Return a frame as it stands on the link."""
        data = header + frame if self.framing.offset else frame
        return self.framing.length.pack(len(data)) + data

    def on_tap(self, frame: bytes, header: bytes = vnet.PLAIN) -> bytes:
        """Return a frame as the tap reads or writes it."""
        return header + frame if self.vnet_hdr else frame

    async def from_link(self) -> bytes:
        """Return the next frame of the link, with its header."""
        while not self._frames:
            data = await self.loop.sock_recv(self.link, 65536)
            if not data:
                raise EOFError
            self._frames = [bytes(view) for view in self._reader.feed(data)]
        return self._frames.pop(0)

    async def from_tap(self) -> bytes:
        """Return the next frame written to the tap, with its header."""
        return await self.loop.sock_recv(self.tap, 70000)


@contextlib.asynccontextmanager
async def bench(
    framing: Framing,
    vnet_hdr: bool = True,
    intercept: Callable[[memoryview], bool] = nothing,
    rest: bytes = b"",
    before: Callable[[socket.socket], object] | None = None,
) -> AsyncIterator[Bench]:
    """Start a relay; `before` is called with the tap's far end before it starts."""
    near_tap, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near_link, link = socket.socketpair()
    with near_tap, tap, near_link, link:
        for sock in (near_tap, tap, near_link, link):
            sock.setblocking(False)
        if before is not None:
            before(tap)
        agreed = Agreed(framing, Offload.NONE, rest)
        relay = Relay(Tap(near_tap.fileno(), "tap0", vnet_hdr), near_link, agreed, intercept)
        relay.start()
        loop = asyncio.get_running_loop()
        try:
            yield Bench(relay, framing, vnet_hdr, tap, link, loop)
        finally:
            relay.stop()
            with contextlib.suppress(Exception):
                await relay.ended()


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[None, None, None]], None]]:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        yield runner.run


Run = Callable[[Coroutine[None, None, None]], None]


@pytest.mark.parametrize(("framing", "vnet_hdr"), COMBINATIONS)
def test_frames_to_the_link(run: Run, framing: Framing, vnet_hdr: bool) -> None:
    async def scenario() -> None:
        async with bench(framing, vnet_hdr) as it:
            frames = [
                bytes([number]) * length for number, length in enumerate((14, 60, 1514, 65000))
            ]
            for frame in frames:
                it.tap.send(it.on_tap(frame))
            for frame in frames:
                header = vnet.PLAIN if framing.offset else b""
                assert await it.from_link() == header + frame
            it.relay.stop()
            assert it.relay.counters.to_link == len(frames)

    run(scenario())


@pytest.mark.parametrize(("framing", "vnet_hdr"), COMBINATIONS)
def test_frames_to_the_tap(run: Run, framing: Framing, vnet_hdr: bool) -> None:
    async def scenario() -> None:
        async with bench(framing, vnet_hdr) as it:
            frames = [
                bytes([number]) * length for number, length in enumerate((14, 60, 1514, 65000))
            ]
            await it.loop.sock_sendall(it.link, b"".join(map(it.on_link, frames)))
            for frame in frames:
                assert await it.from_tap() == it.on_tap(frame)
            assert it.relay.counters.to_tap == len(frames)

    run(scenario())


def test_offloads_travel_with_the_frame(run: Run) -> None:
    async def scenario() -> None:
        async with bench(TAPLINK) as it:
            it.tap.send(GSO + b"up")
            assert await it.from_link() == GSO + b"up"
            it.link.send(it.on_link(b"down", GSO))
            assert await it.from_tap() == GSO + b"down"

    run(scenario())


def test_unfinished_frames_do_not_go_to_an_old_host(run: Run) -> None:
    async def scenario() -> None:
        async with bench(HYPERKIT) as it:
            it.tap.send(GSO + b"unfinished")
            it.tap.send(vnet.HEADER.pack(vnet.F_NEEDS_CSUM, 0, 0, 0, 34, 6, 0) + b"unfinished")
            it.tap.send(vnet.HEADER.pack(vnet.F_DATA_VALID, 0, 0, 0, 0, 0, 0) + b"verified")
            assert await it.from_link() == b"verified"

    run(scenario())


def test_what_waited_in_the_tap_is_stale(run: Run) -> None:
    async def scenario() -> None:
        async with bench(TAPLINK, before=lambda tap: tap.send(GSO + b"old")) as it:
            it.tap.send(vnet.PLAIN + b"new")
            assert await it.from_link() == vnet.PLAIN + b"new"

    run(scenario())


def test_what_followed_the_handshake_comes_first(run: Run) -> None:
    async def scenario() -> None:
        first = HYPERKIT.length.pack(5) + b"first" + HYPERKIT.length.pack(6) + b"sec"
        async with bench(HYPERKIT, rest=first) as it:
            it.link.send(b"ond" + it.on_link(b"third"))
            for frame in (b"first", b"second", b"third"):
                assert await it.from_tap() == it.on_tap(frame)

    run(scenario())


def test_nothing_is_lost_or_reordered_when_the_link_is_slow(run: Run) -> None:
    def fill(tap: socket.socket, number: int) -> int:
        with contextlib.suppress(BlockingIOError):
            while True:
                tap.send(vnet.PLAIN + number.to_bytes(4, "big") + bytes(4000))
                number += 1
        return number

    async def scenario() -> None:
        async with bench(TAPLINK) as it:
            filled, read = 0, 0
            for _ in range(20):
                # Until neither the link, nor the buffer, nor the tap's queue takes any more.
                while (more := fill(it.tap, filled)) > filled:
                    filled = more
                    await turns()
                while read < filled - 10:
                    frame = await it.from_link()
                    assert int.from_bytes(frame[12:16], "big") == read
                    read += 1
            while read < filled:
                assert int.from_bytes((await it.from_link())[12:16], "big") == read
                read += 1
            assert filled > 500

    run(scenario())


async def turns() -> None:
    """Let the loop poll its descriptors and run what is ready, a few times."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("framing", [TAPLINK, HYPERKIT])
def test_a_frame_of_the_agents_own(run: Run, framing: Framing) -> None:
    async def scenario() -> None:
        async with bench(framing) as it:
            it.relay.inject(b"own")
            assert await it.from_link() == (vnet.PLAIN if framing.offset else b"") + b"own"
            await it.relay.flushed()

    run(scenario())


def test_a_frame_of_the_agents_own_behind_what_waits(run: Run) -> None:
    async def scenario() -> None:
        async with bench(TAPLINK) as it:
            for _ in range(300):
                it.relay.inject(b"big" * 3000)
            it.relay.inject(b"own")
            flushed = asyncio.create_task(it.relay.flushed())
            await turns()
            assert not flushed.done()
            for _ in range(300):
                assert len(await it.from_link()) == 9012
            assert (await it.from_link())[12:] == b"own"
            await flushed

    run(scenario())


@pytest.mark.parametrize("framing", [TAPLINK, HYPERKIT])
def test_intercepted_frames_do_not_reach_the_tap(run: Run, framing: Framing) -> None:
    seen = []

    def intercept(frame: memoryview) -> bool:
        seen.append(bytes(frame))
        return bytes(frame) == b"mine"

    async def scenario() -> None:
        async with bench(framing, intercept=intercept) as it:
            large = b"mine" * 1000
            it.link.send(it.on_link(b"unseen"))
            assert await it.from_tap() == it.on_tap(b"unseen")
            it.relay.watch(True)
            for frame in (b"mine", b"other", large):
                it.link.send(it.on_link(frame))
            assert await it.from_tap() == it.on_tap(b"other")
            assert await it.from_tap() == it.on_tap(large)
            it.relay.watch(False)
            it.link.send(it.on_link(b"mine"))
            assert await it.from_tap() == it.on_tap(b"mine")

    run(scenario())
    assert seen == [b"mine", b"other"]


def test_the_ends_of_a_link(run: Run) -> None:
    async def scenario() -> None:
        async with bench(TAPLINK) as it:
            it.link.close()
            with pytest.raises(EOFError):
                await it.relay.ended()
        async with bench(TAPLINK) as it:
            it.link.send(TAPLINK.length.pack(3))
            with pytest.raises(LinkError):
                await it.relay.ended()
        async with bench(TAPLINK, rest=TAPLINK.length.pack(3)) as it:
            with pytest.raises(LinkError):
                await it.relay.ended()
        async with bench(TAPLINK) as it:
            it.tap.send(vnet.PLAIN + b"unread")
            await turns()
            it.link.close()  # with unread data: a reset
            with pytest.raises(ConnectionResetError):
                await it.relay.ended()
        async with bench(TAPLINK) as it:
            it.link.close()
            it.relay.inject(b"x")
            with pytest.raises((BrokenPipeError, EOFError)):
                await it.relay.ended()

    run(scenario())


def test_what_the_host_said_before_it_closed_is_heard(run: Run) -> None:
    """A daemon that ends resets its connections; a frame of ours may meet the closed link first."""

    async def scenario() -> None:
        async with bench(TAPLINK) as it:
            frames = [f"reset {number}".encode() for number in range(100)]
            it.link.send(b"".join(map(it.on_link, frames)))
            it.link.close()
            it.relay.inject(b"x")
            with pytest.raises((BrokenPipeError, EOFError)):
                await it.relay.ended()
            for frame in frames:
                assert await it.from_tap() == vnet.PLAIN + frame

    run(scenario())


def test_a_host_that_dies_with_unread_frames(run: Run) -> None:
    """Its end is an error to the agent, behind what it has sent."""

    async def scenario() -> None:
        async with bench(HYPERKIT) as it:
            it.tap.send(it.on_tap(b"nobody reads this"))
            while not it.relay.counters.to_link and not select.select([it.link], [], [], 0)[0]:
                await asyncio.sleep(0)
            it.link.send(it.on_link(b"the last frame"))
            it.link.close()
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(it.relay.ended(), 10)
            assert await it.from_tap() == it.on_tap(b"the last frame")

    run(scenario())


def test_stop_is_an_end_without_error(run: Run) -> None:
    async def scenario() -> None:
        async with bench(TAPLINK) as it:
            it.relay.stop()
            await it.relay.ended()
            await it.relay.flushed()
            it.tap.send(vnet.PLAIN + b"x")
            await turns()
            with pytest.raises(BlockingIOError):
                it.link.recv(1)

    run(scenario())


@pytest.mark.root
def test_what_a_real_tap_refuses_is_counted(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def scenario(machine: Namespace, tap: Tap) -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            relay = Relay(tap, near, Agreed(TAPLINK, Offload.NONE, b""), nothing)
            relay.start()
            frame = b"\xff" * 12 + b"\x88\xb5" + bytes(46)
            good = TAPLINK.length.pack(len(frame) + 12) + vnet.PLAIN + frame
            short = TAPLINK.length.pack(12 + 3) + vnet.PLAIN + b"abc"
            empty = TAPLINK.length.pack(12) + vnet.PLAIN
            broken = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, 0, 0, 0, 5000, 6, 0)
            broken = TAPLINK.length.pack(len(frame) + 12) + broken + frame
            far.send(good)
            while not relay.counters.dropped:
                await turns()
            await asyncio.to_thread(machine.run, "ip", "link", "set", tap.name, "up")
            far.send(short + empty + broken + good)
            while not relay.counters.to_tap:
                await turns()
            assert (relay.counters.dropped, relay.counters.to_tap) == (4, 1)
            relay.stop()
            await relay.ended()

    with Namespace("machine", tmp_path_factory.mktemp("relay")) as machine:
        with machine.entered():
            tap = open_tap("tap0")
        with tap:
            run(scenario(machine, tap))


@pytest.mark.root
def test_a_tap_that_is_removed_ends_the_agent(
    run: Run, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def scenario(machine: Namespace, tap: Tap) -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            relay = Relay(tap, near, Agreed(TAPLINK, Offload.NONE, b""), nothing)
            relay.start()
            await asyncio.to_thread(machine.run, "ip", "link", "del", tap.name)
            async with asyncio.timeout(10):
                with pytest.raises(AgentError, match="tap0: the interface is gone"):
                    await relay.ended()

    with Namespace("machine", tmp_path_factory.mktemp("relay")) as machine:
        with machine.entered():
            tap = open_tap("tap0")
        with tap:
            run(scenario(machine, tap))
