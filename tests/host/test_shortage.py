"""What the loop is left with: a want is one line a minute, and a bug is a traceback still."""

import asyncio
import errno
import logging
import os
from collections.abc import Callable

import pytest
import uvloop

from gvproxy.shortage import Shortage


def raising(error: Exception) -> Callable[[], None]:
    def callback() -> None:
        raise error

    return callback


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.SelectorEventLoop])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "something was left undone: out of memory"),
        (
            OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
            "something was left undone: Cannot allocate memory",
        ),
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
            "something was left undone: Too many open files",
        ),
        (OSError(errno.EBADF, "bad"), None),
        (ValueError("a bug"), None),
    ],
)
def test_what_a_callback_raises(
    factory: Callable[[], asyncio.AbstractEventLoop],
    error: Exception,
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(Shortage().handle)
        for _ in range(3):
            loop.call_soon(raising(error))
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario())
    if said is not None:
        assert caplog.messages == [said]
    else:
        assert [bool(record.exc_info) for record in caplog.records] == [True] * 3
