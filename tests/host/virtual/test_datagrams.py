"""UDP ports of the gateway's, for protocols."""

import asyncio
import errno

import pytest

from gvproxy.virtual import VirtualNetwork
from gvproxy.virtual.datagrams import MAX_PAYLOAD, VirtualDatagramTransport
from tests.host.flows.guest import GATEWAY, GUEST, Guest
from tests.manual_loop import ManualLoop

from .recorder import Recorder, watched

ADDRESS, PORT = "192.168.127.1", 5353
DEVICE = "192.168.127.2"


class Endpoint(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.transport: VirtualDatagramTransport
        self.got: list[tuple[bytes, tuple[str, int]]] = []
        self.errors: list[int | None] = []
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, VirtualDatagramTransport)
        self.transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        assert not Recorder.in_batch
        assert type(data) is bytes
        self.got.append((data, source))

    def error_received(self, error: Exception) -> None:
        assert isinstance(error, OSError)
        self.errors.append(error.errno)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.append(error)


@pytest.fixture
def endpoint(guest: Guest, network: VirtualNetwork) -> Endpoint:
    opened = network.create_datagram_endpoint(Endpoint, ADDRESS, PORT)
    transport, protocol = guest.loop.complete(opened)
    assert protocol.transport is transport
    return protocol


def test_both_ways(guest: Guest, endpoint: Endpoint) -> None:
    got = guest.bind(7000)
    with watched(guest.host):
        guest.send_to(GATEWAY, PORT, b"question", 7000)
        guest.loop.run()
    assert endpoint.got == [(b"question", (DEVICE, 7000))]
    endpoint.transport.sendto(bytearray(b"answer"), (DEVICE, 7000))
    guest.loop.run()
    assert got == [(GATEWAY, PORT, b"answer")]
    assert endpoint.transport.get_extra_info("sockname") == (ADDRESS, PORT)


def test_a_guest_that_has_to_be_found(guest: Guest, endpoint: Endpoint) -> None:
    got = guest.bind(7000)
    station = guest.host.neighbours._stations.pop(GUEST)
    endpoint.transport.sendto(b"where are you?", (DEVICE, 7000))
    guest.loop.run()
    guest.host.neighbours.learn(GUEST, station, guest.loop.now)
    guest.loop.run()
    assert got == [(GATEWAY, PORT, b"where are you?")]


@pytest.mark.parametrize(
    ("payload", "address", "number"),
    [
        (b"x", "9.9.9.9", errno.EHOSTUNREACH),
        (b"x", ADDRESS, errno.EHOSTUNREACH),
        (bytes(MAX_PAYLOAD + 1), DEVICE, errno.EMSGSIZE),
        (bytes(MAX_PAYLOAD), DEVICE, None),
    ],
)
def test_what_cannot_be_sent(
    guest: Guest, endpoint: Endpoint, payload: bytes, address: str, number: int | None
) -> None:
    got = guest.bind(7000)
    endpoint.transport.sendto(payload, (address, 7000))
    guest.loop.run()
    assert (endpoint.errors, len(got)) == (([number], 0) if number else ([], 1))


def test_what_is_no_datagram(endpoint: Endpoint) -> None:
    with pytest.raises(TypeError, match="not str"):
        endpoint.transport.sendto("text", (DEVICE, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="address"):
        endpoint.transport.sendto(b"to nobody")


@pytest.mark.parametrize("end", ["close", "abort", "network"])
def test_its_end(guest: Guest, network: VirtualNetwork, endpoint: Endpoint, end: str) -> None:
    guest.send_to(GATEWAY, PORT, b"on its way", 7000)
    while len(guest.loop.soon) != 1 or not guest.host.counters.udp_in:
        guest.loop.turn()
    (network.close if end == "network" else getattr(endpoint.transport, end))()
    assert endpoint.transport.is_closing()
    endpoint.transport.close()
    endpoint.transport.sendto(b"too late", (DEVICE, 7000))
    guest.loop.run()
    assert (endpoint.got, endpoint.lost) == ([], [None])
    assert (GATEWAY, PORT) not in guest.host.udp.handlers


@pytest.mark.parametrize(
    ("address", "number"), [(ADDRESS, errno.EADDRINUSE), (DEVICE, errno.EADDRNOTAVAIL)]
)
def test_an_address_that_is_not_free(
    network: VirtualNetwork, loop: ManualLoop, endpoint: Endpoint, address: str, number: int
) -> None:
    with pytest.raises(OSError, match=address) as caught:
        loop.complete(network.create_datagram_endpoint(Endpoint, address, PORT))
    assert caught.value.errno == number


def test_any_port(guest: Guest, network: VirtualNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gvproxy.virtual.network.EPHEMERAL", range(40000, 40006))
    monkeypatch.setattr("gvproxy.virtual.network.MAX_ENDPOINTS", 3)
    transports = [network.bind(Endpoint()) for _ in range(3)]
    names = {transport.get_extra_info("sockname") for transport in transports}
    assert len(names) == 3
    assert names < {(ADDRESS, 40000 + n) for n in range(6)}
    with pytest.raises(OSError, match="Address already in use"):
        network.bind(Endpoint())
    transports[1].close()
    network.bind(Endpoint())
