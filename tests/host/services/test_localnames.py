"""Names of guests, of hosts(5), and of addresses, with dnslib as the client."""

import os
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
from dnslib import QTYPE, RCODE, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from gvproxy.config import Record, Zone
from gvproxy.services import dnsmessage
from gvproxy.services.followed import CHECK_INTERVAL
from gvproxy.services.hosts import HostsFile
from gvproxy.services.localnames import LocalNames
from gvproxy.services.zones import Zones

from .naming import HOST, Guests, make_names

GUESTS = Guests(web="192.168.127.3", gateway="192.168.127.4")


def ask(names: LocalNames, name: str, kind: str = "A", klass: int = 1) -> str | list[str] | None:
    """Return the RCODE's name or the records' data; None for what is not answered here."""
    message = bytes(DNSRecord(q=DNSQuestion(name, getattr(QTYPE, kind), klass)).pack())
    reply = names.answer(dnsmessage.parse(message), 0.0)
    if reply is None:
        return None
    answer = DNSRecord.parse(reply)
    assert answer.header.aa
    assert all(
        record.ttl == 60 and str(record.rname) == str(answer.q.qname) for record in answer.rr
    )
    if answer.header.rcode != RCODE.NOERROR:
        assert not answer.rr
        return str(RCODE[answer.header.rcode])
    return [str(record.rdata) for record in answer.rr]


# Guests and the gateway


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("web", "A", ["192.168.127.3"]),
        ("WEB", "A", ["192.168.127.3"]),
        ("web", "AAAA", []),
        ("web.containers.internal", "A", ["192.168.127.3"]),
        ("web.docker.internal", "A", ["192.168.127.3"]),
        ("web.docker.internal", "MX", []),
        ("_gateway", "A", ["192.168.127.1"]),
        ("_gateway.containers.internal", "A", ["192.168.127.1"]),
        ("web.web.docker.internal", "A", "NXDOMAIN"),
        ("nobody.docker.internal", "A", "NXDOMAIN"),
        ("nobody", "A", None),
        ("web.example", "A", None),
        # A zone's own names are no guest's, whatever it calls itself.
        ("gateway.containers.internal", "A", ["192.168.127.1"]),
        ("gateway", "A", None),
    ],
)
def test_guests(name: str, kind: str, found: object) -> None:
    assert ask(make_names(guests=GUESTS), name, kind) == found


def test_a_zone_with_a_default_has_all_names_itself() -> None:
    zones = Zones([Zone("apps.", default=IPv4Address("10.0.0.9"))])
    assert ask(make_names(zones, GUESTS), "web.apps") == ["10.0.0.9"]


def test_a_name_that_a_zone_is_given_is_no_longer_a_guests() -> None:
    zones = Zones([Zone("a."), Zone("b.")])
    names = make_names(zones, GUESTS)
    assert ask(names, "web.a") == ["192.168.127.3"]
    zones.add(Zone("b.", (Record("WEB", IPv4Address("10.0.0.1")), Record("x.y", HOST))))
    assert ask(names, "web.a") == "NXDOMAIN"
    assert ask(names, "web.b") == ["10.0.0.1"]
    assert ask(names, "web") is None
    assert names.addresses("web", 0.0) is None


# Addresses


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.168.127.1", ["gateway.containers.internal."]),
        ("192.168.127.254", ["host.containers.internal."]),
        ("192.168.127.3", ["web.containers.internal."]),
        ("192.168.127.4", "NXDOMAIN"),  # it calls itself gateway
        ("192.168.127.9", "NXDOMAIN"),
        ("192.168.128.3", None),
        ("8.8.8.8", None),
        ("fd00::1", None),
    ],
)
def test_addresses(address: str, found: object) -> None:
    names = make_names(guests=GUESTS)
    assert ask(names, ip_address(address).reverse_pointer, "PTR") == found


def test_addresses_of_zones_come_first_and_may_be_anybodys() -> None:
    zones = Zones(
        [
            Zone("b.", (Record("", IPv4Address("192.168.127.3"), "x"),)),
            Zone(
                "a.",
                (
                    Record("www", IPv4Address("10.0.0.1")),
                    Record("c.d", IPv6Address("fd00::1")),
                    Record("server", IPv4Address("192.168.127.3")),
                ),
            ),
        ]
    )
    names = make_names(zones, GUESTS)
    assert ask(names, "1.0.0.10.in-addr.arpa", "PTR") == ["www.a."]
    assert ask(names, IPv6Address("fd00::1").reverse_pointer.upper(), "PTR") == ["c.d.a."]
    assert ask(names, "3.127.168.192.in-addr.arpa", "PTR") == ["server.a."]


@pytest.mark.parametrize(
    ("zones", "found"),
    [
        (["a", "b"], ["web.a."]),
        (["default", "b"], ["web.b."]),
        (["default"], ["web."]),
        (["pattern", "b"], ["web.b."]),
        (["web", "b"], "NXDOMAIN"),
    ],
)
def test_the_name_of_a_guest_leads_to_it(zones: list[str], found: object) -> None:
    elsewhere = IPv4Address("10.0.0.9")
    records = {"pattern": (Record("", elsewhere, "^w"),), "web": (Record("web", elsewhere),)}
    made = [
        Zone(f"{name}.", records.get(name, ()), elsewhere if name == "default" else None)
        for name in zones
    ]
    names = make_names(Zones(made), GUESTS)
    assert ask(names, "3.127.168.192.in-addr.arpa", "PTR") == found


def test_without_zones_a_guest_has_its_name_alone() -> None:
    names = make_names(Zones([]), GUESTS)
    assert ask(names, "3.127.168.192.in-addr.arpa", "PTR") == ["web."]
    assert ask(names, "1.127.168.192.in-addr.arpa", "PTR") == ["_gateway."]
    assert ask(names, "web") == ["192.168.127.3"]


def test_other_types_and_classes_of_an_address_have_no_data() -> None:
    names = make_names()
    for kind, klass in (("A", 1), ("SOA", 1), ("PTR", 3)):
        assert ask(names, "1.127.168.192.in-addr.arpa", kind, klass) == []
    assert ask(names, "1.127.168.192.in-addr.arpa", "ANY") == ["gateway.containers.internal."]


@pytest.mark.parametrize(
    "name",
    [
        "127.168.192.in-addr.arpa",
        "x.1.127.168.192.in-addr.arpa",
        "01.127.168.192.in-addr.arpa",
        "256.127.168.192.in-addr.arpa",
        "in-addr.arpa",
        "arpa",
        "1.127.168.192.in-addr.example",
        "_." * 32 + "ip6.arpa",
        "1." * 31 + "ip6.arpa",
        "11." * 16 + "1." * 16 + "ip6.arpa",
    ],
)
def test_names_below_arpa_that_are_no_address(name: str) -> None:
    assert ask(make_names(), name, "PTR") is None


@pytest.mark.parametrize(
    ("name", "zone", "size"),
    [
        ("x" * 64, "a", 0),
        (".".join(["n" * 61, *["n" * 63] * 2]), "z" * 63, 255),
        (".".join(["n" * 62, *["n" * 63] * 2]), "z" * 63, 0),
        ("é" * 30, ".".join(["é" * 31] * 4), 0),
    ],
)
def test_a_name_that_cannot_be_written_is_none(name: str, zone: str, size: int) -> None:
    names = make_names(Zones([Zone(f"{zone}.", (Record(name, IPv4Address("192.168.127.3")),))]))
    message = bytes(DNSRecord.question("3.127.168.192.in-addr.arpa", "PTR").pack())
    reply = names.answer(dnsmessage.parse(message), 0.0)
    assert reply is not None
    assert reply[3] & dnsmessage.RCODE_MASK == (RCODE.NOERROR if size else RCODE.NXDOMAIN)
    assert len(reply) - len(message) == (12 + size if size else 0)


# The host's hosts(5)

HOSTS = """\
127.0.0.1   localhost dev.example  # ours
127.0.1.1   Laptop laptop.lan
::1         localhost ip6-localhost ip6-loopback dev.example v6only.example x.localhost
ff02::1     ip6-allnodes
0.0.0.0     ads.example
10.0.0.1    nas nas.lan. .
10.0.0.2    nas
fd00::1     nas
fe80::1%lo0 zone.example
nonsense    nobody.example
10.0.0.3
# 10.0.0.4  nobody.example
10.0.0.5    x.containers.internal web
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text(HOSTS)
    return path


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("nas", "A", ["10.0.0.1", "10.0.0.2"]),
        ("NAS.lan", "A", ["10.0.0.1"]),
        ("nas", "AAAA", ["fd00::1"]),
        ("nas", "ANY", ["10.0.0.1", "10.0.0.2", "fd00::1"]),
        ("nas.lan", "AAAA", []),
        ("nas.lan", "HTTPS", []),
        ("nas.lan", "MX", None),
        ("ads.example", "A", ["0.0.0.0"]),
        ("dev.example", "A", [str(HOST)]),
        ("dev.example", "AAAA", []),
        ("v6only.example", "A", [str(HOST)]),
        ("laptop", "A", [str(HOST)]),
        ("laptop.lan", "A", [str(HOST)]),
        ("localhost", "A", None),
        ("x.localhost", "A", None),
        ("ip6-localhost", "A", None),
        ("ip6-allnodes", "AAAA", None),
        ("zone.example", "AAAA", None),
        ("nobody.example", "A", None),
        # Zones have authority, and guests are nearer.
        ("x.containers.internal", "A", "NXDOMAIN"),
        ("web", "A", ["192.168.127.3"]),
    ],
)
def test_names_of_the_hosts_file(path: Path, name: str, kind: str, found: object) -> None:
    assert ask(make_names(guests=GUESTS, hosts=path), name, kind) == found


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("10.0.0.1", ["nas."]),
        ("fd00::1", ["nas."]),
        ("127.0.0.1", None),
        ("127.0.1.1", None),
        ("10.0.0.3", None),
    ],
)
def test_addresses_of_the_hosts_file(path: Path, address: str, found: object) -> None:
    assert ask(make_names(hosts=path), ip_address(address).reverse_pointer, "PTR") == found


def test_a_loopback_that_guests_do_not_reach(path: Path) -> None:
    hosts = HostsFile(None, path)
    assert hosts.addresses("dev.example", 0.0) is None
    assert hosts.addresses("nas", 0.0) is not None


def test_a_change_is_seen_within_a_second_of_asking(path: Path) -> None:
    hosts = HostsFile(HOST, path)
    assert hosts.addresses("nas.lan", 0.0)
    path.write_text("10.9.9.9 new.example\n")
    os.utime(path, ns=(1, 1))
    assert hosts.addresses("nas.lan", CHECK_INTERVAL / 2)
    assert hosts.addresses("nas.lan", CHECK_INTERVAL) is None
    assert hosts.addresses("new.example", CHECK_INTERVAL) == (IPv4Address("10.9.9.9"),)
    path.unlink()
    assert hosts.addresses("new.example", 2 * CHECK_INTERVAL) is None


@given(st.binary())
def test_whatever_is_in_the_file(data: bytes) -> None:
    hosts = HostsFile(HOST, Path("/nonexistent"))
    hosts._read(data.decode(errors="replace"))
    hosts._read("10.0.0.1 " + data.decode(errors="replace"))


def test_what_the_forwarder_looks_up(path: Path) -> None:
    names = make_names(guests=GUESTS, hosts=path)
    assert names.addresses("web", 0.0) == [IPv4Address("192.168.127.3")]
    assert names.addresses("Web.Docker.internal.", 0.0) == [IPv4Address("192.168.127.3")]
    assert names.addresses("nobody.docker.internal", 0.0) == []
    found = names.addresses("nas", 0.0)
    assert found == tuple(ip_address(a) for a in ("10.0.0.1", "10.0.0.2", "fd00::1"))
    assert names.addresses("www.example", 0.0) is None
