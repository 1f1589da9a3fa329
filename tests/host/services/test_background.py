"""Calls in threads of their own: what they return, and that nobody waits for those that hang."""

import asyncio
import threading

import pytest

from gvproxy.services import background
from gvproxy.services.background import MAX_CALLS, TooManyError, call


def test_what_a_call_returns_and_raises() -> None:
    async def scenario() -> None:
        assert await call(lambda: threading.current_thread().daemon) is True
        with pytest.raises(ZeroDivisionError):
            await call(lambda: 1 // 0)

    asyncio.run(scenario())


def test_calls_that_hang_keep_neither_others_waiting_nor_the_loop() -> None:
    hang = threading.Event()

    async def scenario() -> None:
        hanging = [asyncio.create_task(call(hang.wait)) for _ in range(MAX_CALLS - 1)]
        await asyncio.sleep(0)
        assert await call(lambda: 7) == 7
        hanging.append(asyncio.create_task(call(hang.wait)))
        await asyncio.sleep(0)
        with pytest.raises(TooManyError, match=f"{MAX_CALLS} calls are under way"):
            await call(lambda: 7)
        for task in hanging:
            task.cancel()

    asyncio.run(scenario())
    ended = [thread for thread in threading.enumerate() if thread.name == "gvproxy-call"]
    assert len(ended) == MAX_CALLS
    hang.set()
    for thread in ended:
        thread.join(10)
    assert background._free.acquire(blocking=False), "their places are free again"
    background._free.release()
