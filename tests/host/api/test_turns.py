"""Many guests' calls at once: the loop turns between them."""

import asyncio
from time import sleep

import pytest
import uvloop

from gvproxy.api import turns
from gvproxy.api.turns import Turns

LOOPS = [asyncio.SelectorEventLoop, uvloop.new_event_loop]


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.mark.parametrize("make", LOOPS, ids=["asyncio", "uvloop"])
def test_one_call_in_a_turn_of_the_loop(make, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(turns, "REST", 0.0)
    done: list[int] = []

    async def call(turn: Turns, number: int) -> None:
        async with turn:
            done.append(number)

    async def run() -> None:
        turn, loop = Turns(), asyncio.get_running_loop()
        calls = [loop.create_task(call(turn, number)) for number in range(8)]
        before = 0
        while not all(one.done() for one in calls):
            await asyncio.sleep(0)
            assert len(done) <= before + 1
            before = len(done)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(run())
    assert done == list(range(8))


def test_a_long_call_is_followed_by_a_longer_rest() -> None:
    async def run() -> None:
        turn, loop = Turns(), asyncio.get_running_loop()
        async with turn:
            sleep(0.01)
        left = loop.time()
        async with turn:
            assert loop.time() - left >= 0.01 * (turns.REST - 1)

    asyncio.run(run())


def test_a_call_that_fails_or_is_given_up_holds_nobody() -> None:
    async def run() -> None:
        turn = Turns()
        with pytest.raises(ValueError, match="x"):
            async with turn:
                raise ValueError("x")
        waits = asyncio.ensure_future(turn.__aenter__())
        await asyncio.sleep(0)
        waits.cancel()
        async with asyncio.timeout(5), turn:
            pass

    asyncio.run(run())
