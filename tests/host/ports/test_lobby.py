"""Connections that take their time, where they may; `test_reception` has the others."""

import socket

from gvproxy.ports.lobby import Lobby, Next
from tests.manual_loop import ManualLoop


def test_without_a_timeout_a_connection_may_be_silent() -> None:
    loop = ManualLoop()
    lobby = Lobby(loop.as_loop(), timeout=None)
    said: list[bytes] = []

    def feed(data: bytes) -> Next:
        return lambda: said.append(data)

    here, there = socket.socketpair()
    with here, there:
        there.setblocking(False)
        lobby.enter(there, "here", feed)
        assert not loop.timers
        loop.run()
        here.send(b"at last")
        loop.until(lambda: said)
        assert said == [b"at last"]
        assert loop.idle
