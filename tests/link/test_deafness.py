"""Descriptors that have an error behind what was read of them."""

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import uvloop

from taplink import deafness
from taplink.deafness import Deafness

MANY = 600
"""More than are looked at in one go."""


class Reader:
    """Reads a byte at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: Deafness, stack: ExitStack) -> None:
        self.sock, other = map(stack.enter_context, socket.socketpair())
        self.sock.setblocking(False)
        self.sock.send(b"unread")
        other.send(b"12")
        other.close()
        self.data = b""
        self.ended = False
        self._loop = loop
        self._watch = watch
        loop.add_reader(self.sock, self._readable)

    @property
    def polled(self) -> int:
        return -1 if self.ended else self.sock.fileno()

    def poll_again(self) -> None:
        self._loop.remove_reader(self.sock)
        self._loop.add_reader(self.sock, self._readable)

    def _readable(self) -> None:
        try:
            self.data += self.sock.recv(1)
        except OSError:
            self.ended = True
            self._loop.remove_reader(self.sock)
            self._watch.forget(self)
        else:
            self._watch.heard(self)


@pytest.fixture(autouse=True, scope="module")
def _what_uvloop_keeps() -> None:
    """It opens a pipe with the first loop, and keeps it."""
    uvloop.new_event_loop().close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deafness, "INTERVAL", 0.02)


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("fails", [False, True])
def test_each_error_is_heard(
    factory: type[asyncio.AbstractEventLoop],
    stack: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    *,
    fails: bool,
) -> None:
    class Poll:
        def register(self, fd: int, events: int) -> None:
            pass

        def poll(self, timeout: int) -> list[tuple[int, int]]:
            raise OSError("no memory")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        watch = Deafness(loop)
        readers = [Reader(loop, watch, stack) for _ in range(10 if fails else MANY)]
        while not all(reader.ended for reader in readers):
            await asyncio.sleep(0.01)
        assert {reader.data for reader in readers} == {b"12"}
        assert watch._timer is None

    if fails:
        monkeypatch.setattr(select, "poll", Poll)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(scenario(), 20))
