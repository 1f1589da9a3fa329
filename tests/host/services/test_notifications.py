"""What the listener of -notification hears, and that nobody waits for one who does not listen."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gvproxy.services import notifications
from gvproxy.services.notifications import MAX_TOLD, Event, Notifications, Presence


class Listener:
    """Accepts, and keeps every line with the number of the connection it came over."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._count = 0

    async def start(self, path: Path) -> asyncio.Server:
        return await asyncio.start_unix_server(self._accepted, path)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        number = self._count
        async for line in reader:
            self.heard.put_nowait((number, line))
        writer.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_each_is_a_line_over_a_connection_of_its_own(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, listener = tmp_path / "n.sock", Listener()
        async with await listener.start(path):
            sender = Notifications(path)
            sender.send(Event.READY)
            sender.send(Event.ESTABLISHED, "5a:94:ef:e4:0c:ee")
            sender.send(Event.CLOSED, "5a:94:ef:e4:0c:ee")
            heard = [await listener.heard.get() for _ in range(3)]
            await sender.close()
        assert heard[0] == (1, b'{"notification_type":"ready"}\n')
        assert [(number, json.loads(line)) for number, line in heard[1:]] == [
            (
                2,
                {
                    "notification_type": "connection_established",
                    "mac_address": "5a:94:ef:e4:0c:ee",
                },
            ),
            (3, {"notification_type": "connection_closed", "mac_address": "5a:94:ef:e4:0c:ee"}),
        ]

    run(scenario)


def test_a_listener_that_comes_late_hears_what_follows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        path, listener = tmp_path / "n.sock", Listener()
        sender = Notifications(path)
        sender.send(Event.READY)
        await sender.close()
        async with await listener.start(path):
            sender.send(Event.HYPERVISOR_ERROR)
            heard = await listener.heard.get()
            await sender.close()
        assert heard == (1, b'{"notification_type":"hypervisor_error"}\n')

    run(scenario)
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.INFO] == [
        f"-notification {tmp_path / 'n.sock'}: No such file or directory"
    ]


def test_one_that_does_not_accept_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backlog full, connecting waits; the end of the daemon does not."""
    monkeypatch.setattr(notifications, "LAST_PATIENCE", 0.01)

    async def scenario() -> None:
        sender = Notifications(tmp_path / "n.sock")
        told = asyncio.Event()

        async def never(line: bytes) -> None:
            told.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(sender, "_tell", never)
        for _ in range(notifications.MAX_WAITING + 10):
            sender.send(Event.READY)
        assert len(sender._waiting) == notifications.MAX_WAITING
        await told.wait()
        await sender.close()
        assert sender._task is not None
        assert sender._task.cancelled()

    run(scenario)


@dataclass
class FakePort:
    number: int


def test_a_guest_comes_once_and_goes_with_its_port() -> None:
    told: list[tuple[str, str]] = []
    presence = Presence(lambda event, mac: told.append((event, mac)))
    one, other = FakePort(0), FakePort(1)

    def appeared(mac: bytes, port: FakePort) -> None:
        presence.appeared(mac, port)  # type: ignore[arg-type]

    def closed(port: FakePort) -> None:
        presence.closed(port)  # type: ignore[arg-type]

    appeared(b"\2" * 6, one)
    appeared(b"\2" * 6, one)  # its station had aged
    appeared(b"\4" * 6, one)
    appeared(b"\2" * 6, other)  # it has moved
    assert told == [
        ("connection_established", "02:02:02:02:02:02"),
        ("connection_established", "04:04:04:04:04:04"),
    ]
    told.clear()
    closed(one)
    assert told == [("connection_closed", "04:04:04:04:04:04")]
    closed(other)
    assert told[1:] == [("connection_closed", "02:02:02:02:02:02")]
    appeared(b"\2" * 6, one)
    assert told[2:] == [("connection_established", "02:02:02:02:02:02")]


def test_a_flood_of_addresses_is_not_told_of() -> None:
    told: list[str] = []
    presence = Presence(lambda event, mac: told.append(mac))
    for number in range(MAX_TOLD + 100):
        presence.appeared(number.to_bytes(6, "big"), FakePort(0))  # type: ignore[arg-type]
    assert len(told) == MAX_TOLD
