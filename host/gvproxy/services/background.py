"""Calls that may block for long, such as the host's resolver: each in a thread of its own.

Not in the loop's executor: it has few threads, so that a handful of calls which hang would keep all
others waiting, and a loop waits for them at its end.
"""

import asyncio
import errno
from collections.abc import Callable
from contextlib import suppress
from threading import BoundedSemaphore, Thread
from typing import TypeVar

T = TypeVar("T")

MAX_CALLS = 64
_free = BoundedSemaphore(MAX_CALLS)


class TooManyError(OSError):
    """There are MAX_CALLS under way, among them those that nobody waits for any more."""


async def call(work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises; raises OSError, TooManyError among them.

    Where this is cancelled `work` goes on, and its result is dropped; so it is when the process
    ends.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    if not _free.acquire(blocking=False):
        raise TooManyError(f"{MAX_CALLS} calls are under way")

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():  # cancelled
            return
        if error is None:
            outcome.set_result(result)  # type: ignore[arg-type]
        else:
            outcome.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:
            error = caught
        finally:
            _free.release()
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    try:
        Thread(target=run, name="gvproxy-call", daemon=True).start()
    except RuntimeError as error:  # no memory, or no process more for the user
        _free.release()
        raise OSError(errno.EAGAIN, "no thread can be started") from error
    return await outcome
