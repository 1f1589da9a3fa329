"""A connection on which nobody says anything stays up, and its peer is known to be there."""

import socket
import struct

import pytest

from tests.lab.network import Network
from tests.lab.programs import HOST
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]


def milliseconds_since_ack(sock: socket.socket) -> int:
    """Return tcpi_last_ack_recv (struct tcp_info, linux/tcp.h)."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 56)[0])


def test_a_probe_of_the_guest_is_answered(network: Network) -> None:
    """Without an answer to the one probe allowed, the kernel would reset (tcp(7))."""
    with (
        network.host.listen() as listener,
        network.guest.connect(HOST, listener.getsockname()[1]) as guest,
        listener.accept()[0] as host,
    ):
        guest.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            guest.setsockopt(socket.IPPROTO_TCP, option, 1)
        longest = 0

        def answered() -> None:
            nonlocal longest
            now = milliseconds_since_ack(guest)
            if now >= longest:
                longest = now
                raise NotYetError(f"{now} ms since the last acknowledgment")

        until(answered, "a probe is acknowledged", timeout=5)
        host.sendall(b"still here")
        assert guest.recv(16) == b"still here"
