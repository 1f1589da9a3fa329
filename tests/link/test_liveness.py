"""A link whose machine is gone without a word ends, and which ones are looked after."""

import asyncio
import socket

import pytest

from gvproxy.ports.guests import Guests
from taplink.endpoint import connect, listen, parse
from taplink.liveness import IDLE, INTERVAL, PROBES, end_when_dead
from tests.host.stack.bench import Bench
from tests.manual_loop import ManualLoop

_SET = {
    socket.TCP_KEEPIDLE: IDLE,
    socket.TCP_KEEPINTVL: INTERVAL,
    socket.TCP_KEEPCNT: PROBES,
    socket.TCP_USER_TIMEOUT: 25_000,
}


class Far(socket.socket):
    """A connection whose peer is said to be at another machine's address."""

    peer: tuple[object, ...] = ("192.0.2.1", 1024)

    def getpeername(self) -> tuple[object, ...]:
        return self.peer


def looked_after(sock: socket.socket) -> bool:
    values = {option: sock.getsockopt(socket.IPPROTO_TCP, option) for option in _SET}
    on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert on == (values == _SET), values
    return on


@pytest.mark.parametrize(
    ("family", "peer", "expected"),
    [
        (socket.AF_INET, ("192.0.2.1", 1), True),
        (socket.AF_INET6, ("2001:db8::1", 1, 0, 0), True),
        (socket.AF_INET6, ("fe80::1%eth0", 1, 0, 2), True),
        (socket.AF_INET6, ("::ffff:192.0.2.1", 1, 0, 0), True),
        (socket.AF_INET, ("127.0.0.1", 1), False),
        (socket.AF_INET, ("127.1.2.3", 1), False),
        (socket.AF_INET6, ("::1", 1, 0, 0), False),
        (socket.AF_INET6, ("::ffff:127.0.0.1", 1, 0, 0), False),
    ],
)
def test_only_other_machines(
    family: socket.AddressFamily, peer: tuple[object, ...], expected: bool
) -> None:
    with Far(family, socket.SOCK_STREAM) as sock:
        sock.peer = peer
        end_when_dead(sock)
        assert looked_after(sock) is expected


def test_of_others_nothing_is_set() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as gone:
        end_when_dead(one)
        end_when_dead(gone)
        assert not looked_after(gone)


@pytest.mark.parametrize("here", [False, True])
def test_a_guest(here: bool) -> None:
    loop = ManualLoop()
    guests = Guests(Bench().stack, loop.as_loop(), lambda port: None)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        accepted, address = server.accept()
        sock = Far(fileno=accepted.detach())
        sock.setblocking(False)
        sock.peer = address if here else Far.peer
        assert not looked_after(sock)
        guests.attach_stream(sock)
        assert looked_after(sock) is not here
        guests.close()


def test_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with listen(parse("tcp://127.0.0.1:0")) as listener:
            port = listener.getsockname()[1]
            with await connect(parse(f"tcp://127.0.0.1:{port}"), 5) as near:
                assert not looked_after(near)
            monkeypatch.setattr("socket.socket", Far)
            with await connect(parse(f"tcp://127.0.0.1:{port}"), 5) as near:
                assert looked_after(near)

    asyncio.run(scenario())
