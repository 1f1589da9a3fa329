"""A guest, by the engine at the other end of a cable, and the virtual network of its host."""

from collections.abc import Iterator

import pytest
import uvloop

from gvproxy.virtual import VirtualNetwork
from tests.host.flows.guest import Guest
from tests.manual_loop import ManualLoop


@pytest.fixture(scope="session", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()


@pytest.fixture
def loop() -> ManualLoop:
    return ManualLoop()


@pytest.fixture
def guest(loop: ManualLoop) -> Iterator[Guest]:
    guest = Guest(loop)
    yield guest
    guest.close()


@pytest.fixture
def network(guest: Guest, loop: ManualLoop) -> Iterator[VirtualNetwork]:
    network = VirtualNetwork(guest.host, loop.as_loop())
    yield network
    network.close()
    loop.run()
    assert not network._members.transports
    assert not guest.host.connections.listeners
