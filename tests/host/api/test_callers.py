"""Connections to the API: how many, how long, how much; slow clients, idle ones, many at once."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from gvproxy.api import app, callers
from gvproxy.api.callers import Callers

GET = b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n"


class Bench:
    """An application whose /slow answers when `go` is set."""

    def __init__(self, limit: int) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        self.callers = Callers(asyncio.get_running_loop(), limit)
        made = web.Application()
        made.router.add_get("/fast", self._fast)
        made.router.add_get("/slow", self._slow)
        self.callers.serve(made)
        self.runner = app.make_runner(made)
        self._writers: list[asyncio.StreamWriter] = []

    async def _fast(self, request: web.Request) -> web.Response:
        return web.Response(text="fast")

    async def _slow(self, request: web.Request) -> web.Response:
        self.begun += 1
        await self.go.wait()
        return web.Response(text="slow")

    async def call(self, received: bytes = GET) -> asyncio.StreamReader:
        """Connect, with what reception has read of it already; return what is answered."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        assert self.runner.server is not None
        self.callers.adopt(self.runner.server, theirs, received)
        reader, writer = await asyncio.open_connection(sock=ours)
        self._writers.append(writer)
        return reader

    def send(self, number: int, data: bytes) -> None:
        self._writers[number].write(data)

    async def close(self) -> None:
        self.go.set()
        for writer in self._writers:
            writer.close()
        await self.runner.cleanup()
        while self.callers.used:
            await asyncio.sleep(0)
        assert not self.callers._idle
        assert not self.callers._callers


def serve(scenario: Callable[[Bench], Awaitable[None]], limit: int = 3) -> None:
    async def run() -> None:
        bench = Bench(limit)
        await bench.runner.setup()
        try:
            async with asyncio.timeout(20):
                await scenario(bench)
        finally:
            await bench.close()

    asyncio.run(run())


async def answer(reader: asyncio.StreamReader) -> str:
    """Return an answer's status and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    (size,) = [line[16:] for line in head.splitlines() if line.startswith("Content-Length")]
    return f"{head.split()[1]} {(await reader.readexactly(int(size))).decode().strip()}"


def test_the_longest_idle_gives_way() -> None:
    async def scenario(bench: Bench) -> None:
        readers = [await bench.call() for _ in range(3)]
        for reader in readers:
            assert await answer(reader) == "200 fast"
        bench.send(0, GET)  # so the second has waited the longest
        assert await answer(readers[0]) == "200 fast"
        assert await answer(await bench.call()) == "200 fast"
        assert await readers[1].read() == b""
        for number in (0, 2):
            bench.send(number, GET)
            assert await answer(readers[number]) == "200 fast"
        callers = bench.callers
        assert (callers.limit, callers.used, callers.refused) == (3, 3, 1)

    serve(scenario)


def test_where_all_are_busy_a_new_one_is_told_so() -> None:
    async def scenario(bench: Bench) -> None:
        slow = [await bench.call(GET.replace(b"fast", b"slow")) for _ in range(3)]
        while bench.begun < 3:
            await asyncio.sleep(0)
        turned_away = await bench.call()
        assert await answer(turned_away) == "503 there are too many callers"
        assert await turned_away.read() == b""
        assert bench.callers.used == 3
        bench.go.set()
        for reader in slow:
            assert await answer(reader) == "200 slow"
        assert await answer(await bench.call()) == "200 fast"

    serve(scenario)


def test_none_gives_way_before_it_has_its_answer() -> None:
    async def scenario(bench: Bench) -> None:
        pairs = [socket.socketpair() for _ in range(5)]
        assert bench.runner.server is not None
        for ours, theirs in pairs:
            ours.setblocking(False)
            theirs.setblocking(False)
            bench.callers.adopt(bench.runner.server, theirs, GET)
        told = []
        for ours, _ in pairs:
            reader, writer = await asyncio.open_connection(sock=ours)
            told.append(await answer(reader))
            writer.close()
        assert told == ["200 fast"] * 3 + ["503 there are too many callers"] * 2

    serve(scenario)


@pytest.mark.parametrize("sent", [b"", b"GET /fast HT", b"POST /fast HTTP/1.1\r\nX: "])
def test_one_that_has_had_its_answer_is_ended(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much of its next request has come."""
    monkeypatch.setattr(callers, "IDLE_TIMEOUT", 0.05)

    async def scenario(bench: Bench) -> None:
        reader = await bench.call()
        assert await answer(reader) == "200 fast"
        bench.send(0, sent)
        assert await reader.read() == b""

    serve(scenario)


def test_dripping_does_not_make_it_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "IDLE_TIMEOUT", 0.1)

    async def scenario(bench: Bench) -> None:
        reader = await bench.call()
        assert await answer(reader) == "200 fast"
        while not reader.at_eof():
            bench.send(0, b"\r\n")  # aiohttp takes it for the beginning of a request
            try:
                async with asyncio.timeout(0.01):
                    await reader.read()
            except TimeoutError:
                pass
            except ConnectionError:
                break

    serve(scenario)


def test_one_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As guests may come, whose heads are not read before."""
    monkeypatch.setattr(callers, "FIRST_TIMEOUT", 0.05)

    async def scenario(bench: Bench) -> None:
        assert await (await bench.call(b"")).read() == b""

    serve(scenario)


def test_one_that_says_nothing_gives_way() -> None:
    async def scenario(bench: Bench) -> None:
        silent = [await bench.call(b"") for _ in range(3)]
        assert await answer(await bench.call()) == "200 fast"
        assert await silent[0].read() == b""

    serve(scenario)


def test_one_that_is_answered_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "FIRST_TIMEOUT", 0.01)
    monkeypatch.setattr(callers, "IDLE_TIMEOUT", 0.01)

    async def scenario(bench: Bench) -> None:
        reader = await bench.call(GET.replace(b"fast", b"slow"))
        while not bench.begun:
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, bench.go.set)
        assert await answer(reader) == "200 slow"

    serve(scenario)


def test_one_that_does_not_take_its_answers_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "IDLE_TIMEOUT", 0.05)

    async def scenario(bench: Bench) -> None:
        async def large(request: web.Request) -> web.Response:
            return web.Response(body=bytes(50_000_000))

        other = Bench(1)
        made = web.Application()
        made.router.add_get("/fast", large)
        other.callers.serve(made)
        other.runner = app.make_runner(made)
        await other.runner.setup()
        reader = await other.call()
        server = other.runner.server
        assert server is not None
        while not server.connections:
            await asyncio.sleep(0)
        while server.connections:  # nothing is read meanwhile
            await asyncio.sleep(0)
        assert reader
        await other.close()

    serve(scenario)


def test_a_connection_has_so_many_requests() -> None:
    async def scenario(bench: Bench) -> None:
        data = await (await bench.call(GET * 1000)).read()
        assert data.count(b"HTTP/1.1 200 OK\r\n") == callers.MAX_REQUESTS
        assert data.count(b"Connection: close\r\n") == 1

    serve(scenario)


def test_those_that_leave_are_counted_no_longer() -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(10):
            reader = await bench.call(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            assert await answer(reader) == "200 fast"
            assert await reader.read() == b""
        while bench.callers.used:
            await asyncio.sleep(0)
        assert bench.callers.refused == 0

    serve(scenario)
