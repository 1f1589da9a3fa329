"""Streams: asyncio's own readers and writers at both ends of what is virtual."""

import asyncio
import hashlib

from gvproxy.tcp.connection import RECEIVE_BUFFER
from gvproxy.virtual import VirtualNetwork
from tests.host.flows.guest import GATEWAY, GUEST, Guest, Socket

PORT = 80
LARGE = bytes(range(251)) * 16384


def test_a_large_transfer_each_way(guest: Guest, network: VirtualNetwork) -> None:
    far = Socket(guest)
    guest.stack.connections.listeners[GUEST, PORT] = far.accept

    async def exchange() -> str:
        reader, writer = await network.open_connection("192.168.127.2", PORT)
        await asyncio_turn(guest)
        far.send(LARGE)
        far.shutdown()
        for start in range(0, len(LARGE), 10_000):
            writer.write(LARGE[start : start + 10_000])
            await writer.drain()
        writer.write_eof()
        digest = hashlib.sha256()
        while data := await reader.read(100_000):
            digest.update(data)
        writer.close()
        await writer.wait_closed()
        return digest.hexdigest()

    got = guest.loop.complete(exchange())
    assert got == hashlib.sha256(LARGE).hexdigest()
    assert far.data == LARGE
    assert far.told == ["established", "eof", "DONE"]


async def asyncio_turn(guest: Guest) -> None:
    """Let the guest see that the connection is made."""
    turn = guest.loop.create_future()
    guest.loop.call_soon(turn.set_result, None)
    await turn


def test_a_stream_that_nobody_reads_holds_the_guest_up(
    guest: Guest, network: VirtualNetwork
) -> None:
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    start = network.start_server(
        lambda *pair: streams.append(pair),
        "192.168.127.1",
        PORT,
        limit=1000,
    )
    guest.loop.complete(start)
    far = guest.connect(GATEWAY, PORT)
    guest.loop.run()
    far.send(LARGE)
    for _ in range(20):
        guest.tick(1)
    assert far.connection.out.end - far.connection.snd_una > len(LARGE) - 2 * RECEIVE_BUFFER
    ((reader, writer),) = streams

    async def read() -> bytes:
        return await reader.readexactly(len(LARGE))

    task = guest.loop.start(read())
    guest.loop.run()
    for _ in range(20):
        guest.tick(1)
    assert task.result() == LARGE
    writer.close()


def test_a_drain_fails_when_the_guest_resets(guest: Guest, network: VirtualNetwork) -> None:
    far = Socket(guest, reads=False)
    guest.stack.connections.listeners[GUEST, PORT] = far.accept

    async def write() -> str:
        _, writer = await network.open_connection("192.168.127.2", PORT)
        writer.write(LARGE)
        try:
            await writer.drain()
        except ConnectionResetError as error:
            return f"reset: {error.strerror}"
        return "sent"

    task = guest.loop.start(write())
    guest.loop.run()
    assert not task.done()
    far.reset()
    guest.loop.run()
    assert task.result() == "reset: Connection reset by peer"
