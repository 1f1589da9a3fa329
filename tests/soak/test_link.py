"""The cable between an agent and a daemon: handshake and frames pass, and can be made to stop."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.cable import CONNECT
from tests.lab.dialects import HYPERKIT, Stream
from tests.lab.impairment import Impairment
from tests.lab.network import temporary_folder
from tests.lab.process import Process
from tests.soak import link
from tests.soak.place import ROOT

REQUEST = b"POST /connect HTTP/1.1\r\nHost: gvproxy\r\nUpgrade: taplink/1\r\n\r\n"
ARP = bytes(12) + b"\x08\x06" + bytes(28)
IPV4 = bytes(12) + b"\x08\x00" + bytes(28)


@contextmanager
def cable(folder: Path, *, plain: bool) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Lay one; yields the agent's socket and the daemon's, which are connected."""
    target, listen = folder / "target", folder / "listen"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as agent:
        listener.bind(str(target))
        listener.listen()
        argv = link.command(listen, target, folder / "control", seed=(1 << 32) - 1, plain=plain)
        process = Process("cable", argv, folder / "cable.log", {"PYTHONPATH": str(ROOT)})
        try:
            process.wait_for("ready")
            agent.settimeout(10)
            agent.connect(str(listen))
            host, _ = listener.accept()
            with host:
                host.settimeout(10)
                yield agent, host
        finally:
            process.kill()


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part
        data += part
    return data


def test_the_handshake_passes_as_it_is() -> None:
    with temporary_folder() as folder, cable(folder, plain=False) as (agent, host):
        agent.sendall(REQUEST)
        assert read(host, len(REQUEST)) == REQUEST
        answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
        frame = (len(ARP) + 12).to_bytes(4, "big") + bytes(12) + ARP
        host.sendall(answer + frame)
        assert read(agent, len(answer) + len(frame)) == answer + frame
        agent.sendall(frame)
        assert read(host, len(frame)) == frame
        agent.shutdown(socket.SHUT_WR)
        assert host.recv(1) == b""


def test_a_daemon_that_is_not_told_of_taplink() -> None:
    with temporary_folder() as folder, cable(folder, plain=True) as (agent, host):
        agent.sendall(REQUEST)
        assert b"upgrade" not in read(host, len(CONNECT)).lower()
        one, other = Stream(agent, HYPERKIT), Stream(host, HYPERKIT)
        one.send(IPV4)
        assert other.receive() == IPV4
        other.send(IPV4)
        assert one.receive() == IPV4


def test_it_can_be_made_worse_and_good_again() -> None:
    with temporary_folder() as folder, cable(folder, plain=True) as (agent, host):
        agent.sendall(REQUEST)
        read(host, len(CONNECT))
        one, other = Stream(agent, HYPERKIT), Stream(host, HYPERKIT)
        one.send(IPV4)
        assert other.receive() == IPV4
        link.impair(folder / "control", Impairment(loss=1.0))
        # ARP always passes; it tells when the cable has heard.
        sent = 0
        while True:
            one.send(IPV4, ARP)
            sent += 1
            if other.receive() == ARP:
                break
            assert other.receive() == ARP
            assert sent < 10_000
        link.impair(folder / "control", Impairment())
        while True:
            one.send(IPV4, ARP)
            if other.receive() == IPV4:
                break
