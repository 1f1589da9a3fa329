"""A guest's UDP, pings and look-ups, with the kernel and dig at its end."""

import contextlib
import json
import random
import socket

import pytest

from gvproxy.flows import runs
from tests.lab import dns
from tests.lab.network import OUTSIDE, UNREACHABLE, Network, World, make_guest
from tests.lab.programs import GATEWAY, HOST, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]

DATAGRAM = socket.SOCK_DGRAM


def server(network: Network) -> socket.socket:
    """Make a UDP socket on the host's loopback."""
    sock = network.host.open_socket(DATAGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.mark.parametrize("size", [0, 1, 1472, 1473, 8000, 60000])
def test_datagrams_of_any_size_there_and_back(network: Network, size: int) -> None:
    with server(network) as host, network.guest.open_socket(DATAGRAM) as guest:
        guest.sendto(bytes(size), (HOST, host.getsockname()[1]))
        data, sender = host.recvfrom(65535)
        assert len(data) == size
        host.sendto(b"x" * size, sender)
        data, sender = guest.recvfrom(65535)
        assert data == b"x" * size
        assert sender == (HOST, host.getsockname()[1])


@pytest.mark.parametrize(("count", "size"), [(14_000, 1400), (13_001, 1000), (640, 10)])
def test_datagrams_of_one_call_there_and_back(network: Network, count: int, size: int) -> None:
    """UDP_SEGMENT, as QUIC's servers have it, at both ends; each datagram is one of its own."""
    payload = random.Random(count).randbytes(count)
    sizes = [len(payload[at : at + size]) for at in range(0, count, size)]
    with server(network) as host, network.guest.open_socket(DATAGRAM) as guest:
        address = HOST, host.getsockname()[1]
        for _ in range(3):  # from the third on it is a flow that is known
            runs.send(guest, [memoryview(payload)], size, address)
            there = [host.recvfrom(65535) for _ in sizes]
            assert b"".join(data for data, _ in there) == payload
            assert [len(data) for data, _ in there] == sizes
            runs.send(host, [memoryview(payload)], size, there[0][1])
            back = [guest.recv(65535) for _ in sizes]
            assert b"".join(back) == payload
            assert [len(data) for data in back] == sizes


def test_one_socket_of_the_guest_is_one_of_the_host(network: Network) -> None:
    with (
        server(network) as one,
        server(network) as other,
        network.guest.open_socket(DATAGRAM) as guest,
    ):
        senders = []
        for host in (one, other):
            guest.sendto(b"x", (HOST, host.getsockname()[1]))
            senders.append(host.recvfrom(1)[1])
        assert senders[0] == senders[1]
        # Filtered by address, not by port: RFC 4787, address-dependent filtering.
        with server(network) as third:
            third.sendto(b"y", senders[0])
            assert guest.recvfrom(16) == (b"y", (HOST, third.getsockname()[1]))


def test_whom_the_guest_has_not_sent_to_does_not_get_in(network: Network) -> None:
    with (
        server(network) as host,
        network.outside.open_socket(DATAGRAM) as stranger,
        network.guest.open_socket(DATAGRAM) as guest,
    ):
        guest.sendto(b"x", (HOST, host.getsockname()[1]))
        _, sender = host.recvfrom(1)
        stranger.sendto(b"intruder", ("10.77.0.1", sender[1]))
        host.sendto(b"expected", sender)
        assert guest.recvfrom(16)[0] == b"expected"


@pytest.mark.parametrize("address", [HOST, OUTSIDE])
def test_a_closed_port_refuses_each_time(network: Network, address: str) -> None:
    with network.guest.open_socket(DATAGRAM) as guest:
        guest.connect((address, 9))
        for _ in range(3):
            guest.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                guest.recv(1)


def test_a_closed_port_of_the_gateway_refuses(network: Network) -> None:
    with network.guest.open_socket(DATAGRAM) as guest:
        guest.connect((GATEWAY, 9))
        guest.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            guest.recv(1)


@pytest.mark.parametrize("address", [GATEWAY, HOST, OUTSIDE])
@pytest.mark.parametrize("size", [0, 56, 4000])
def test_pings_are_answered(network: Network, address: str, size: int) -> None:
    output = network.guest.run("ping", "-n", "-c", "2", "-i", "0.01", "-s", str(size), address)
    assert f"bytes from {address}" in output
    assert "2 received" in output


def test_a_ping_to_the_unreachable_is_told(network: Network) -> None:
    done = network.guest.try_run("ping", "-n", "-c", "1", "-w", "5", UNREACHABLE)
    assert "Destination Host Unreachable" in done.stdout


def dig(network: Network, *arguments: str) -> str:
    """Ask the name server in the guest's resolv.conf."""
    return network.guest.run("dig", "+tries=1", "+timeout=5", *arguments)


def test_names_of_the_network(network: Network) -> None:
    assert dig(network, "+short", "host.containers.internal").strip() == HOST
    assert dig(network, "+short", "GATEWAY.docker.INTERNAL").strip() == GATEWAY
    assert "status: NXDOMAIN" in dig(network, "absent.containers.internal")
    nodata = dig(network, "host.containers.internal", "AAAA")
    assert "status: NOERROR" in nodata
    assert "ANSWER: 0" in nodata


def test_names_of_the_world_come_as_the_host_has_them(network: Network) -> None:
    answer = dig(network, dns.NAME)
    assert dns.ADDRESS in answer
    assert f"\t{dns.TTL}\t" in answer
    assert "2001:db8::7" in dig(network, "+short", dns.NAME, "AAAA")
    assert "status: NXDOMAIN" in dig(network, "absent.outside.test")


def test_what_was_asked_before_is_kept(network: Network) -> None:
    before = network.gvproxy.get("/stats")["Details"]["DNSCache"]["Hits"]
    for kind in ("UDP", "TCP", "UDP"):
        flags = ["+tcp"] if kind == "TCP" else []
        assert dns.ADDRESS in dig(network, *flags, "+nocookie", "kept.outside.test")
    assert network.gvproxy.get("/stats")["Details"]["DNSCache"]["Hits"] == before + 2


def test_an_answer_too_long_for_a_datagram_comes_over_tcp(network: Network) -> None:
    assert dig(network, "+short", "+noedns", "long.outside.test", "TXT").count("x" * 250) == 12


def test_names_over_tcp(network: Network) -> None:
    queries = ("host.containers.internal", "+qr", dns.NAME, "MX", "absent.outside.test")
    answers = dig(network, "+tcp", "+keepopen", *queries)
    assert HOST in answers
    assert "mail.outside.test" in answers
    assert "status: NXDOMAIN" in answers
    network.gvproxy.wait_until_unused()


def test_leases_and_stations_are_shown(network: Network) -> None:
    macs = network.gvproxy.get("/leases")
    assert macs == {"192.168.127.1": "5a:94:ef:e4:0c:dd", "192.168.127.2": "5a:94:ef:e4:0c:ee"}
    assert list(network.gvproxy.get("/cam")) == ["5a:94:ef:e4:0c:ee"]
    assert json.dumps(network.gvproxy.get("/services/forwarder/all")) == "[]"


def test_more_ports_than_descriptors_leave_room_for_others(world: World) -> None:
    prlimit = ("prlimit", "--nofile=128:128")
    gvproxy = Gvproxy(world.folder, world.host, before=prlimit)
    with (
        make_guest(world, gvproxy) as (guest, _),
        world.host.listen() as listener,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(300):
            sock = stack.enter_context(guest.open_socket(DATAGRAM))
            sock.sendto(b"x", (HOST, 9))
        assert gvproxy.get("/cam")
        with guest.connect(HOST, listener.getsockname()[1]):
            listener.accept()[0].close()
    gvproxy.process.stop()
