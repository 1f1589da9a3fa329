"""A protocol that writes down what it is told, and never inside a batch of the stack's."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from gvproxy.stack.stack import Stack
from gvproxy.virtual.transport import VirtualTransport


@contextmanager
def watched(stack: Stack) -> Iterator[None]:
    """Let recorders fail that are called while the stack is at work."""
    receive, run_timers = stack.receive, stack.run_timers

    def guard(call):  # type: ignore[no-untyped-def]
        def guarded(*arguments: object) -> None:
            Recorder.in_batch = True
            try:
                call(*arguments)
            finally:
                Recorder.in_batch = False

        return guarded

    stack.receive = guard(receive)  # type: ignore[method-assign]
    stack.run_timers = guard(run_timers)  # type: ignore[method-assign]
    yield
    stack.receive, stack.run_timers = receive, run_timers  # type: ignore[method-assign]


class Recorder(asyncio.Protocol):
    in_batch = False

    def __init__(self, *, keep_open: bool = False) -> None:
        self.transport: VirtualTransport
        self.told: list[str] = []
        self.data = b""
        self.pieces: list[int] = []
        self.lost: list[Exception | None] = []
        self.keep_open = keep_open

    def _note(self, what: str) -> None:
        assert not self.in_batch, f"{what} in the midst of a batch"
        self.told.append(what)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, VirtualTransport)
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        self._note("data")
        self.data += data
        self.pieces.append(len(data))

    def eof_received(self) -> bool:
        self._note("eof")
        return self.keep_open

    def pause_writing(self) -> None:
        self.told.append("pause")  # the only one that comes from within `write`

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self._note("lost")
        self.lost.append(error)
