"""Which host address a guest's destination means."""

import logging
import socket
from ipaddress import IPv4Address, IPv4Network

import pytest

from gvproxy.flows.destinations import Destinations

NAT = {
    IPv4Address("192.168.127.254"): IPv4Address("127.0.0.1"),
    IPv4Address("169.254.169.254"): IPv4Address("10.1.1.1"),
    IPv4Address("8.8.8.8"): IPv4Address("9.9.9.9"),
}


@pytest.mark.parametrize(
    ("guest", "host"),
    [
        # The table comes first, whatever it names.
        ("192.168.127.254", "127.0.0.1"),
        ("169.254.169.254", "10.1.1.1"),
        ("8.8.8.8", "9.9.9.9"),
        # Closed.
        ("0.0.0.0", None),
        ("0.255.255.255", None),
        ("127.0.0.1", None),
        ("127.255.255.255", None),
        ("169.254.0.0", None),
        ("169.254.255.255", None),
        ("192.168.127.0", None),
        ("192.168.127.1", None),
        ("192.168.127.77", None),
        ("192.168.127.255", None),
        ("224.0.0.1", None),
        ("239.255.255.255", None),
        ("240.0.0.1", None),
        ("255.255.255.255", None),
        # The neighbours of what is closed, and the private networks.
        ("1.0.0.0", "1.0.0.0"),
        ("126.255.255.255", "126.255.255.255"),
        ("128.0.0.0", "128.0.0.0"),
        ("169.253.255.255", "169.253.255.255"),
        ("169.255.0.0", "169.255.0.0"),
        ("192.168.126.255", "192.168.126.255"),
        ("192.168.128.0", "192.168.128.0"),
        ("223.255.255.255", "223.255.255.255"),
        ("10.0.0.1", "10.0.0.1"),
        ("192.168.1.1", "192.168.1.1"),
    ],
)
def test_destination(guest: str, host: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    destinations = Destinations(NAT, IPv4Network("192.168.127.0/24"))
    assert destinations.resolve(socket.inet_aton(guest)) == host
    assert caplog.messages == ([f"{guest} is closed to guests"] if host is None else [])


@pytest.mark.parametrize(
    ("guest", "host"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("169.254.170.2", "169.254.170.2"),
        ("127.0.0.1", None),
        ("192.168.127.77", None),
        ("224.0.0.1", None),
    ],
)
def test_metadata_may_be_opened(guest: str, host: str | None) -> None:
    destinations = Destinations({}, IPv4Network("192.168.127.0/24"), link_local=True)
    assert destinations.resolve(socket.inet_aton(guest)) == host
