"""Who is said to be at the other end of a guest's connection."""

import socket

import pytest

from gvproxy.ports.guests import peer_of


class Connection(socket.socket):
    """A socket of which another system tells the family and the peer."""

    told: tuple[object, ...]

    @property
    def family(self) -> int:  # type: ignore[override]
        return 34

    def getpeername(self) -> tuple[object, ...]:
        return self.told


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ((3, 1024), "cid 3"),
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "::1:80"),
        (
            ("0cd1f6b4-5cfb-4a8b-a0cf-3f1b1dd4d9a5", "00000400-facb-11e6-bd58-64006a7986d3"),
            "vm 0cd1f6b4-5cfb-4a8b-a0cf-3f1b1dd4d9a5",
        ),
    ],
)
def test_the_peer(address: tuple[object, ...], peer: str) -> None:
    with Connection() as sock:
        sock.told = address
        assert peer_of(sock) == peer
