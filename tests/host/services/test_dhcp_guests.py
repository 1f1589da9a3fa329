"""One guest's leases and another's: what it may take, what it leaves, and what is not its own."""

import pytest

from gvproxy.config import DEVICE_MAC
from gvproxy.limits import Limit
from gvproxy.services.dhcp import DECLINE_TIME, LEASE_TIME
from gvproxy.stack.port import Station
from tests.host.stack.bench import Port

from .dhcpclient import (
    DECLINE,
    DISCOVER,
    FIRST,
    GATEWAY,
    INFORM,
    LEASES_OF_ONE,
    RELEASE,
    REQUEST,
    Client,
    ip,
    mac,
    sender,
)


@pytest.fixture
def client() -> Client:
    return Client()


def test_leases_of_a_guest_that_went_make_room() -> None:
    client = Client()
    client.quota.limit = Limit(4, 4)
    gone, other = Port(), Port()
    gone.attached = other.attached = True
    for number in range(4):
        client.sender = Station(mac(number), gone, 0.0)
        client.ask(DISCOVER, number)
    gone.attached = False
    for number in range(10, 13):
        client.sender = Station(mac(number), other, 0.0)
        assert client.ask(DISCOVER, number) is not None
    assert (client.quota.held(gone), client.quota.held(other)) == (0, 3)


def test_a_guest_that_comes_again_and_again_leaves_addresses_to_others(client: Client) -> None:
    """A pool may be smaller than the limit of all leases."""
    for life in range(5):
        port = Port()
        port.attached = True
        client.sender = Station(mac(1), port, 0.0)
        for number in range(LEASES_OF_ONE):
            client.ask(DISCOVER, 1, identifier=b"\xff%d-%d" % (life, number))
        port.attached = False
        client.now += 2
    client.sender = sender(2, port=1)
    assert client.ask(DISCOVER, 2) is not None


# Attacks of one guest on another


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, RELEASE, DECLINE, INFORM])
def test_one_asks_for_oneself_alone(
    client: Client, kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Or one guest would have all addresses, by as many MAC addresses, and end others' leases."""
    address = client.lease(1)
    client.sender = sender(2)
    caplog.clear()
    assert client.ask(kind, 1, wanted=address, ciaddr=address, server=GATEWAY) is None
    assert client.server.counters.spoofed == 1
    assert client.server.leases(now=0)[address] == mac(1).hex(":")
    assert caplog.messages == [
        "DHCP for 02:00:00:00:00:01 from 02:00:00:00:00:02 (guest 0) is refused: "
        "one may ask for oneself alone"
    ]
    client.sender = sender(1)
    assert client.ask(REQUEST, 1, wanted=address) == f"ack {address}"


def test_an_identifier_takes_no_lease_from_one_who_is_there(client: Client) -> None:
    """Clones of one VM have one; and 01 and the MAC address is what everybody's may be."""
    there = {mac(1)}
    client.server.is_there = there.__contains__
    for identifier in (b"\xffone", b"\x01" + mac(1)):
        own = {"identifier": identifier}
        first, second = client.lease(1, **own), client.lease(2, **own)
        assert first != second
        assert client.ask(REQUEST, 2, wanted=first, **own) == "nak"
        for kind, where in ((RELEASE, "ciaddr"), (DECLINE, "wanted")):
            assert client.ask(kind, 2, server=GATEWAY, **{where: first}, **own) is None
        assert client.server.leases(now=0)[first] == mac(1).hex(":")
        for _ in range(2):
            assert client.lease(2, **own) == second, "each keeps its own"
            assert client.lease(1, **own) == first
            there.clear()
        there.add(mac(1))


def test_an_identifier_is_handed_on_once_its_guest_has_gone(client: Client) -> None:
    """It is who one is, whatever MAC address one has now."""
    client.server.is_there = {mac(9)}.__contains__
    first = client.lease(1, identifier=b"\xffone")
    assert client.ask(RELEASE, 2, ciaddr=first, server=GATEWAY, identifier=b"\xffone") is None
    assert client.server.counters.ignored == 1, "but not given back by another"
    assert client.lease(2, identifier=b"\xffone") == first


def test_an_identifier_made_of_anothers_is_another(client: Client) -> None:
    client.server.is_there = lambda address: True
    first = client.lease(1, identifier=b"\xffone")
    clone = client.lease(2, identifier=b"\xffone")
    for made in (b"\xffone" + mac(2), mac(2) + b"\xffone", b"\xffone\0" + mac(2)):
        assert client.lease(3, identifier=made) not in (first, clone)


@pytest.mark.parametrize("how", ["leases", "offers", "declines"])
def test_one_guest_has_not_all_addresses(client: Client, how: str) -> None:
    """Identifiers cost nothing."""
    addresses = set()
    for number in range(LEASES_OF_ONE + 1):
        client.sender = sender(1)
        identifier = b"\xff%d" % number
        offer = client.ask(DISCOVER, 1, identifier=identifier)
        if number == LEASES_OF_ONE:
            assert offer is None
            wanted = "192.168.127.250"
            assert client.ask(REQUEST, 1, wanted=wanted, identifier=identifier) == "nak"
            break
        assert offer is not None
        address = offer.removeprefix("offer ")
        addresses.add(address)
        if how == "leases":
            assert client.ask(REQUEST, 1, wanted=address, identifier=identifier) is not None
        if how == "declines":
            client.ask(DECLINE, 1, wanted=address, server=GATEWAY, identifier=identifier)
    assert len(addresses) == LEASES_OF_ONE
    assert client.server.counters.exhausted == 1
    if how == "leases":
        assert client.ask(REQUEST, 1, wanted=FIRST, identifier=b"\xff0") == f"ack {FIRST}"
    client.sender = sender(2, port=1)
    assert client.ask(DISCOVER, 2) is not None
    client.now = max(DECLINE_TIME, LEASE_TIME)
    client.sender = sender(1)
    assert client.ask(DISCOVER, 1, identifier=b"\xffx") is not None


def test_whose_an_address_is(client: Client) -> None:
    told: list[tuple[bytes, bytes]] = []
    client.server.granted = lambda address, who: told.append((address, who))
    owner = client.server.owner
    assert owner(ip("192.168.127.2"), 0.0) is None, "nobody has asked for that lease"
    client.server.is_there = lambda address: address == DEVICE_MAC
    assert owner(ip("192.168.127.2"), 0.0) == DEVICE_MAC
    client.ask(DISCOVER, 1)
    assert owner(ip(FIRST), 0.0) is None
    client.lease(1)
    assert owner(ip(FIRST), 0.0) == mac(1)
    assert owner(ip(FIRST), LEASE_TIME) is None
    assert told == [(ip(FIRST), mac(1))]
