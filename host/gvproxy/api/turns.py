"""When a guest's call is done: one at a time, and rests between them for all else that goes on.

Guests may have many connections, and what all of them ask for at once would be done in one turn of
the loop.
"""

import asyncio
from time import perf_counter
from types import TracebackType

REST = 4.0
"""How long the next call waits, as a multiple of what this one took: a fifth of the loop is left to
calls."""


class Turns:
    """An asynchronous context that one caller is in at a time, in the order they came."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._began = 0.0

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        self._began = perf_counter()  # the loop's clock stands still during a turn

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        rest = (perf_counter() - self._began) * REST
        # Kept for a turn at least: whoever finds it free goes on in this one.
        asyncio.get_running_loop().call_later(rest, self._lock.release)
