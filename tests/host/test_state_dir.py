"""Daemons one after another, and what the later one still knows."""

import asyncio
import errno
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gvproxy.config import Config, Forward, Record, Zone, configure
from gvproxy.daemon import Daemon
from gvproxy.errors import StartError
from gvproxy.services import keeper, state, zonejson
from tests.host.stack.bench import OTHER_MAC as MAC

GUEST = "192.168.127.3"
REQUEST = (
    b"\x01\x01\x06\0" + bytes(24) + MAC + bytes(202) + b"\x63\x82\x53\x63\x35\x01\x03"
    + b"\x32\x04" + IPv4Address(GUEST).packed + b"\x0c\x02vm\xff"
)  # fmt: skip
RELEASE = (
    b"\x01\x01\x06\0" + bytes(8) + IPv4Address(GUEST).packed + bytes(12) + MAC + bytes(202)
    + b"\x63\x82\x53\x63\x35\x01\x07\x36\x04" + IPv4Address("192.168.127.1").packed + b"\xff"
)  # fmt: skip
ZONE = Zone("example.", (Record("www", IPv4Address("192.168.127.9")),))
Scenario = Callable[[Daemon], Awaitable[None]]


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


def settings(folder: Path, **other: object) -> Config:
    fields = {"listen": [f"unix://{folder}.sock"], "ssh_port": -1, "state_dir": str(folder)}
    return configure(**(fields | other))  # type: ignore[arg-type]


def run(config: Config, *steps: Callable[[Daemon], Awaitable[object]]) -> None:
    """Start a daemon, have the steps done, and end it as SIGTERM does."""

    async def live() -> None:
        daemon = Daemon(config, asyncio.get_running_loop())
        try:
            async with asyncio.timeout(20):
                await daemon.start()
                for step in steps:
                    await step(daemon)
        finally:
            await daemon.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def expose(local: str, remote: str = f"{GUEST}:80", protocol: str = "tcp") -> Scenario:
    async def step(daemon: Daemon) -> None:
        await daemon.forwarder.expose(local, remote, protocol)

    return step


async def tell_all(daemon: Daemon) -> None:
    """Have a lease given and a zone added."""
    daemon._dhcp.handle(REQUEST, now=daemon._loop.time())
    daemon.zones.add(ZONE)


def check(
    forwards: list[tuple[str, str, str]], *, leased: bool = True, zones: bool = True
) -> Scenario:
    async def step(daemon: Daemon) -> None:
        now = daemon._loop.time()
        found = [(one["protocol"], one["local"], one["remote"]) for one in daemon.forwarder.all()]
        assert sorted(found) == sorted(forwards)
        assert (daemon.leases().get(GUEST) == MAC.hex(":")) is leased
        assert (daemon._dhcp.address_of("vm", now=now) is not None) is leased
        assert (ZONE in daemon.zones.all()) is zones
        for lease in daemon._dhcp.bound(now):
            assert now < lease.expires <= now + 3600  # however the clocks differ

    return step


def saved(folder: Path) -> dict[str, list[Any]]:
    tree: dict[str, list[Any]] = json.loads((folder / state.FILE).read_text())
    return tree


def test_the_next_daemon_has_what_the_last_one_was_told(folder: Path) -> None:
    tcp, udp, path = free_port(), free_port(), str(folder) + ".web"
    run(
        settings(folder),
        tell_all,
        expose(f"127.0.0.1:{tcp}"),
        expose(f"127.0.0.1:{udp}", f"{GUEST}:53", "udp"),
        expose(path, f"tcp://{GUEST}:80", "unix"),
    )
    published = [
        ("tcp", f"127.0.0.1:{tcp}", f"{GUEST}:80"),
        ("udp", f"127.0.0.1:{udp}", f"{GUEST}:53"),
        ("unix", path, f"tcp://{GUEST}:80"),
    ]
    first = saved(folder)
    expires = first["leases"][0].pop("expires")
    for _ in range(2):
        run(settings(folder), check(published))
        now = saved(folder)
        assert abs(now["leases"][0].pop("expires") - expires) <= 1
        assert now == first


def test_a_daemon_that_is_killed_has_saved_what_it_was_told_a_second_ago(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SAVE_DELAY", 0.0)
    port = free_port()

    async def until_saved(daemon: Daemon) -> None:
        while not (folder / state.FILE).exists() or not all(
            saved(folder)[part] for part in ("leases", "forwards", "zones")
        ):
            await asyncio.sleep(0)
        assert daemon._keeper is not None
        monkeypatch.setattr(daemon._keeper._file, "save", lambda text: None)

    run(settings(folder), tell_all, expose(f"127.0.0.1:{port}"), until_saved)
    run(settings(folder), check([("tcp", f"127.0.0.1:{port}", f"{GUEST}:80")]))


YEAR = 365 * 24 * 3600.0


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
@pytest.mark.parametrize("running", [True, False])
def test_a_clock_that_is_set_anew(
    folder: Path, jump: float, running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a daemon runs, a lease is as long as it was; one of an earlier daemon's is its guest's
    own all the same, and no longer than any.
    """
    now = time.time

    def set_clock() -> None:
        monkeypatch.setattr(keeper.time, "time", lambda: now() + jump)

    async def jump_meanwhile(daemon: Daemon) -> None:
        if running:
            set_clock()
            daemon.zones.add(replace(ZONE, name="later."))
        (lease,) = daemon._dhcp.bound(daemon._loop.time())
        assert 3590 < lease.expires - daemon._loop.time() < 3600.1

    async def others(daemon: Daemon) -> None:
        other = bytes.fromhex("5a94efe40cfa")
        discover = REQUEST.replace(MAC, other).replace(b"\x35\x01\x03", b"\x35\x01\x01")
        discover = discover.replace(b"\x32\x04" + IPv4Address(GUEST).packed, b"")
        for message, expected in ((discover, False), (REQUEST, True)):
            reply = daemon._dhcp.handle(message, now=daemon._loop.time())
            assert reply is not None
            assert (reply.payload[16:20] == IPv4Address(GUEST).packed) is expected

    run(settings(folder), tell_all, jump_meanwhile)
    set_clock()
    in_force = running or jump < 0
    run(settings(folder), check([], leased=in_force), others, check([]))
    run(settings(folder), check([]))


def test_what_is_taken_back_stays_away(folder: Path) -> None:
    port = free_port()
    run(settings(folder), tell_all, expose(f"127.0.0.1:{port}"))

    async def take_back(daemon: Daemon) -> None:
        await daemon.forwarder.unexpose(f"127.0.0.1:{port}")
        daemon._dhcp.handle(RELEASE, now=daemon._loop.time())

    run(settings(folder), take_back)
    run(settings(folder), check([], leased=False))


def test_the_configuration_s_own_is_not_kept(folder: Path) -> None:
    port = free_port()
    forward = Forward(f"127.0.0.1:{port}", f"{GUEST}:80")
    run(settings(folder, forwards=[forward]))
    run(settings(folder), check([], leased=False, zones=False))


def test_the_configuration_comes_first(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    run(settings(folder), expose(f"127.0.0.1:{port}"))
    forward = Forward(f"127.0.0.1:{port}", "192.168.127.9:80")
    config = settings(folder, forwards=[forward])
    expected = [("tcp", f"127.0.0.1:{port}", "192.168.127.9:80")]
    run(config, check(expected, leased=False, zones=False))
    assert "not published again" not in caplog.text


def test_what_cannot_be_had_any_more_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "gvproxy")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        other = free_port()
    run(settings(folder), tell_all, expose(f"127.0.0.1:{port}"), expose(f"127.0.0.1:{other}"))
    with socket.create_server(("127.0.0.1", port)):
        expected = [("tcp", f"127.0.0.1:{other}", f"{GUEST}:80")]
        run(settings(folder), check(expected))
    assert f"tcp 127.0.0.1:{port} is not published again: " in caplog.text
    caplog.clear()
    run(settings(folder, subnet="10.0.0.0/24"), check([], leased=False))
    assert f"{GUEST} is no longer an address for {MAC.hex(':')}" in caplog.text
    assert f"tcp 127.0.0.1:{other} is not published again: " in caplog.text


def test_a_zone_there_is_no_room_for_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(settings(folder), tell_all)
    other = Zone("other.", ZONE.records)
    size = len(json.dumps(zonejson.encode(other)))
    monkeypatch.setattr("gvproxy.services.zones.MAX_BYTES", size)
    run(settings(folder, zones=[other]), check([], zones=False))
    assert f"the zone example. is not given back: all zones together would be more than {size}" in (
        caplog.text
    )


def failing_starts() -> list[dict[str, object]]:
    nowhere = "/nonexistent/gvproxy"
    taken = [Forward(f"127.0.0.1:{free_port()}", f"{GUEST}:{n}") for n in (1, 2)]
    return [
        {"forwards": [taken[0], replace(taken[1], local=taken[0].local)]},
        {"listen": [f"unix://{nowhere}"], "subnet": "10.5.0.0/24"},
        {"listen_qemu": f"unix://{nowhere}"},
        {"pcap": nowhere},
        {"pid_file": nowhere},
        {"listen_fd": [1000]},
    ]


@pytest.mark.parametrize("fault", failing_starts(), ids=lambda fault: next(iter(fault)))
def test_a_start_that_fails_loses_nothing(folder: Path, fault: dict[str, object]) -> None:
    run(settings(folder), tell_all, expose(f"127.0.0.1:{free_port()}"))
    before = (folder / state.FILE).read_bytes()
    with pytest.raises(StartError):
        run(settings(folder, **fault))
    assert (folder / state.FILE).read_bytes() == before


def test_the_configuration_s_listeners_come_first(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, path = free_port(), f"{folder}.web"
    run(
        settings(folder),
        expose(f"127.0.0.1:{port}"),
        expose(path, f"tcp://{GUEST}:80", "unix"),
    )
    config = settings(folder, listen=[f"tcp://127.0.0.1:{port}", f"unix://{path}"])
    run(config, check([], leased=False, zones=False))
    assert f"tcp 127.0.0.1:{port} is not published again: " in caplog.text
    assert f"unix {path} is not published again: " in caplog.text
    assert not Path(path).exists()


def test_a_second_daemon_does_not_take_the_folder(folder: Path) -> None:
    async def second(daemon: Daemon) -> None:
        other = Daemon(settings(folder, listen=[f"unix://{folder}.other"]), daemon._loop)
        with pytest.raises(StartError, match="is another gvproxy's"):
            await other.start()
        await other.close()
        await tell_all(daemon)

    run(settings(folder), second)
    run(settings(folder), check([]))


def test_a_full_disk_is_said_once_and_tried_again(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "SAVE_DELAY", 0.0)
    monkeypatch.setattr(keeper, "RETRY_DELAY", 0.0)
    tries = 0

    async def fill(daemon: Daemon) -> None:
        assert daemon._keeper is not None
        file = daemon._keeper._file
        save = file.save

        def fail(text: bytes) -> None:
            nonlocal tries
            tries += 1
            if tries < 5:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save(text)

        monkeypatch.setattr(file, "save", fail)
        await tell_all(daemon)
        while tries < 5 or not (folder / state.FILE).exists():
            await asyncio.sleep(0)

    run(settings(folder), fill)
    assert caplog.text.count("-state-dir: the state is not saved: No space left on device") == 1
    run(settings(folder), check([]))
