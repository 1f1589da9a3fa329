"""When the agent says that it has no lease: the clock is an argument."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from taplink.endpoint import parse
from vsock_tap.agent import Agent
from vsock_tap.config import Config
from vsock_tap.patience import PATIENCE, PATIENCE_AGAIN, Patience, Unleased

BEGIN = 1000.0


def test_silence_is_told_and_told_again() -> None:
    patience = Patience()
    patience.asking(now=BEGIN)
    assert patience.next_timer() == BEGIN + PATIENCE
    assert patience.timer_fired(now=BEGIN + PATIENCE) == Unleased(PATIENCE, answered=False)
    again = BEGIN + PATIENCE + PATIENCE_AGAIN
    assert patience.next_timer() == again
    assert patience.timer_fired(now=again) == Unleased(PATIENCE + PATIENCE_AGAIN, answered=False)


def test_asking_goes_on_from_when_it_began() -> None:
    patience = Patience()
    patience.asking(now=BEGIN)
    patience.asking(now=BEGIN + PATIENCE - 1)
    assert patience.next_timer() == BEGIN + PATIENCE


def test_a_lease_or_the_end_of_the_link_ends_it() -> None:
    patience = Patience()
    assert patience.next_timer() is None
    patience.asking(now=BEGIN)
    patience.over()
    assert patience.next_timer() is None
    patience.asking(now=BEGIN + 5)
    assert patience.next_timer() == BEGIN + 5 + PATIENCE


def test_a_timer_that_is_early_tells_nothing() -> None:
    patience = Patience()
    patience.asking(now=BEGIN)
    assert patience.timer_fired(now=BEGIN + PATIENCE - 0.001) is None
    assert patience.next_timer() == BEGIN + PATIENCE


def test_a_server_that_answers_is_no_silence() -> None:
    patience = Patience()
    patience.asking(now=BEGIN)
    patience.answered()
    assert patience.timer_fired(now=BEGIN + PATIENCE) == Unleased(PATIENCE, answered=True)
    patience.over()
    patience.asking(now=BEGIN)
    assert patience.timer_fired(now=BEGIN + PATIENCE) == Unleased(PATIENCE, answered=False)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (
            Unleased(10.2, answered=False),
            "no answer to DHCP in 10 s: the other end may be no gvproxy, or has no address left",
        ),
        (Unleased(10.2, answered=True), "no lease in 10 s, though a DHCP server answers"),
    ],
)
def test_the_agent_says_so_once_a_minute_and_tells_systemd(
    event: Unleased,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "vsock_tap")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
        agent = Agent(Config(parse("unix:///host"), state_directory=tmp_path))
        for _ in range(2):
            agent._leases.put_nowait(event)

        async def scenario() -> None:
            task = asyncio.create_task(agent._apply_leases())
            while not agent._leases.empty():
                await asyncio.sleep(0)
            task.cancel()

        asyncio.run(scenario())
        assert manager.recv(200).decode() == f"STATUS={said}"
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", said),
        ("DEBUG", said),
    ]
