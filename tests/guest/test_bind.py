"""A lease is put into effect as far as that can be, and the rest when it is renewed."""

import asyncio
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from taplink.endpoint import parse
from vsock_tap import agent
from vsock_tap.agent import Agent
from vsock_tap.config import Config
from vsock_tap.lease import Lease

SERVER = IPv4Address("192.168.127.1")
LEASE = Lease(IPv4Address("192.168.127.2"), 24, SERVER, SERVER, (SERVER,), (), 1500, 3600.0)


class Network:
    def __init__(self, interface: str) -> None:
        pass

    async def set_mtu(self, mtu: int) -> None:
        pass

    async def configure(self, address: object, router: object) -> None:
        pass


class Resolver:
    """Cannot be written the first two times."""

    kept = ""

    def __init__(self) -> None:
        self.times = 0

    def write(self, nameservers: object, search: object) -> None:
        self.times += 1
        if self.times <= 2:
            raise OSError(24, "Too many open files")


def test_name_servers_that_could_not_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resolver = Resolver()
    monkeypatch.setattr(agent, "Network", Network)
    monkeypatch.setattr(agent, "choose", lambda *_: resolver)
    made = Agent(Config(parse(f"unix://{tmp_path}/nobody")))
    made._claimed = True

    async def scenario() -> None:
        for _ in range(5):
            await made._bind(LEASE)

    with caplog.at_level("INFO"):
        asyncio.run(scenario())
    assert resolver.times == 3
    assert caplog.text.count("is not written: Too many open files") == 2
    assert caplog.text.count("names are looked up at 192.168.127.1") == 1
