"""The agent's end where something fails that never should: in this process, with no real tap."""

import asyncio
import contextlib
import os
import signal
import threading
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace

import pytest

from taplink.endpoint import parse
from taplink.tap import Tap
from vsock_tap import agent
from vsock_tap.agent import Agent
from vsock_tap.config import Config
from vsock_tap.resolvconf import ResolvConf


def test_resolv_conf_is_restored_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, state = tmp_path / "resolv.conf", tmp_path / "state"
    path.write_text("original\n")

    class Network:
        def __init__(self, interface: str) -> None:
            pass

        async def set_up(self, mac: str, mtu: int) -> None:
            ResolvConf(path, state).write([IPv4Address("10.0.0.1")], [])
            os.kill(os.getpid(), signal.SIGTERM)

        async def clear(self) -> None:
            raise RuntimeError("a surprise")

    monkeypatch.setattr(agent, "Network", Network)
    tap = contextlib.nullcontext(Tap(-1, "tap0", vnet_hdr=True))
    monkeypatch.setattr(agent, "open_tap", lambda name, preexisting: tap)
    config = Config(parse(f"unix://{tmp_path}/nobody"), resolv_conf=path, state_directory=state)
    with pytest.raises(RuntimeError, match="a surprise"):
        asyncio.run(Agent(config).run())
    assert path.read_text() == "original\n"


def test_resolv_conf_is_left_to_the_agent_that_looks_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, state = tmp_path / "resolv.conf", tmp_path / "state"
    path.write_text("original\n")
    first = ResolvConf(path, state)
    assert first.claim()
    first.write([IPv4Address("10.0.0.1")], [])
    before = path.read_text()

    class Network:
        def __init__(self, interface: str) -> None:
            pass

        async def set_up(self, mac: str, mtu: int) -> None:
            assert path.read_text() == before
            os.kill(os.getpid(), signal.SIGTERM)

        async def clear(self) -> None:
            pass

    monkeypatch.setattr(agent, "Network", Network)
    tap = contextlib.nullcontext(Tap(-1, "tap1", vnet_hdr=True))
    monkeypatch.setattr(agent, "open_tap", lambda name, preexisting: tap)
    config = Config(parse(f"unix://{tmp_path}/nobody"), resolv_conf=path, state_directory=state)
    with caplog.at_level("INFO"):
        asyncio.run(Agent(config).run())
    assert path.read_text() == before
    assert caplog.text.count(f"{path} is looked after by another agent") == 1
    assert first.restore()
    first.release()
    assert path.read_text() == "original\n"
    assert not state.exists()


def test_names_are_taken_back_after_they_were_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM while a slow disk, or a slow resolvconf, takes the name servers."""
    told: list[str] = []
    begun, finish = threading.Event(), threading.Event()

    class Slow:
        kept = ""

        def claim(self) -> bool:
            return True

        def write(self, nameservers: object, search: object) -> None:
            begun.set()
            assert finish.wait(30)
            told.append("write")

        def restore(self) -> bool:
            told.append("restore")
            return True

        def release(self) -> None:
            told.append("release")

    monkeypatch.setattr(agent, "choose", lambda *_: Slow())
    config = Config(parse(f"unix://{tmp_path}/nobody"))
    lease = SimpleNamespace(nameservers=[IPv4Address("10.0.0.1")], search=[])

    async def scenario() -> None:
        it = Agent(config)
        await it._claim_resolver()
        told.clear()
        telling = asyncio.create_task(it._tell_resolver(lease))  # type: ignore[arg-type]
        await asyncio.to_thread(begun.wait, 30)
        telling.cancel()
        ending = asyncio.create_task(it._clean_up())
        for _ in range(10):
            await asyncio.sleep(0)
        assert told == []
        finish.set()
        await ending
        assert told == ["write", "restore", "release"]

    asyncio.run(scenario())
