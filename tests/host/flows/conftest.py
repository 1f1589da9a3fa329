"""A guest behind flows of the loop by hand, and servers on loopback for it."""

import socket
from collections.abc import Iterator

import pytest
import uvloop

from tests.manual_loop import ManualLoop

from .guest import Guest


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
def server() -> Iterator[socket.socket]:
    """A TCP server; it blocks, for ten seconds at the most."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(10)
        yield sock


@pytest.fixture
def closed_port() -> int:
    """A port of loopback at which nobody listens, for TCP and UDP alike."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])
