"""Listeners of hypervisors' dialects: what is said of those that other machines reach."""

import socket
from unittest.mock import create_autospec

import pytest

from gvproxy.listening import Dialect
from gvproxy.ports.guests import Guests
from gvproxy.ports.interfaces import Interfaces
from tests.manual_loop import ManualLoop


@pytest.mark.parametrize("dialect", [Dialect.QEMU, Dialect.VPNKIT])
@pytest.mark.parametrize(
    ("family", "address", "told"),
    [
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET6, "::", True),
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET, "127.9.9.9", False),
        (socket.AF_INET6, "::1", False),
        (socket.AF_UNIX, "", False),
    ],
)
def test_a_listener_that_other_machines_reach(
    dialect: Dialect,
    family: socket.AddressFamily,
    address: str,
    told: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    interfaces = Interfaces(ManualLoop().as_loop(), create_autospec(Guests), 1500, {})
    sock = socket.socket(family)  # which is never told to listen
    if address:
        sock.bind((address, 0))
    interfaces.serve(dialect, sock, "tcp://here")
    interfaces.close()
    text = (
        f"tcp://here (-listen-{dialect}) takes guests of other machines, and asks for no token: "
        "who reaches it reaches what guests do; 127.0.0.1 takes those of this one"
    )
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == ([("WARNING", text)] if told else [])
