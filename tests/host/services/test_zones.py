"""The names answered locally; dnslib makes the queries and reads the replies."""

import json
from ipaddress import IPv4Address, IPv6Address

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSQuestion, DNSRecord

from gvproxy.config import Record, Zone
from gvproxy.errors import BadZoneError
from gvproxy.services import dnsmessage, zonejson
from gvproxy.services.zones import Zones

from .naming import make_names

DEEP = Zone(
    "Example.",
    (Record("a.b.c", IPv4Address("10.0.0.1")), Record("c", IPv4Address("10.0.0.2"))),
)


def ask(
    name: str, kind: str = "A", *, klass: int = 1, edns: bool = False, zones: Zones | None = None
) -> DNSRecord | None:
    query = DNSRecord(q=DNSQuestion(name, getattr(QTYPE, kind), klass))
    if edns:
        query.add_ar(EDNS0(udp_len=4096))
    message = bytes(query.pack())
    reply = make_names(zones).answer(dnsmessage.parse(message), 0.0)
    if reply is None:
        return None
    end = 12 + len(name.rstrip(".")) + 2 + 4
    assert reply[12:end] == message[12:end], "the question is not the client's own"
    answer = DNSRecord.parse(reply)
    assert (answer.header.id, answer.header.qr, answer.header.aa) == (query.header.id, 1, 1)
    assert (answer.header.rd, answer.header.ra) == (1, 1)
    return answer


def addresses(answer: DNSRecord | None) -> list[str]:
    assert answer is not None
    assert answer.header.rcode == RCODE.NOERROR
    return [str(record.rdata) for record in answer.rr]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("gateway.containers.internal", "192.168.127.1"),
        ("host.containers.internal", "192.168.127.254"),
        ("gateway.docker.internal", "192.168.127.1"),
        ("host.docker.internal", "192.168.127.254"),
        ("HOST.Docker.inTERNAL", "192.168.127.254"),
    ],
)
def test_built_in_names(name: str, address: str) -> None:
    answer = ask(name)
    assert addresses(answer) == [address]
    assert answer is not None
    assert answer.rr[0].ttl == 60
    assert addresses(ask(name, "ANY")) == [address]


@pytest.mark.parametrize("kind", ["AAAA", "MX", "TXT", "HTTPS", "SOA"])
def test_other_types_of_a_name_have_no_data(kind: str) -> None:
    assert addresses(ask("host.containers.internal", kind)) == []


def test_the_zone_itself_exists() -> None:
    assert addresses(ask("containers.internal")) == []


def test_another_class_has_no_data() -> None:
    assert addresses(ask("host.containers.internal", klass=3)) == []


@pytest.mark.parametrize("name", ["nobody.containers.internal", "a.host.docker.internal"])
def test_missing_names(name: str) -> None:
    for kind in ("A", "AAAA"):
        answer = ask(name, kind)
        assert answer is not None
        assert answer.header.rcode == RCODE.NXDOMAIN
        assert not answer.rr


@pytest.mark.parametrize(
    "name", ["xcontainers.internal", "internal", "host.containers.internal.example.com", "."]
)
def test_names_outside_are_not_ours(name: str) -> None:
    assert ask(name) is None


def test_names_between_a_name_and_its_zone_exist() -> None:
    zones = Zones([DEEP])
    assert addresses(ask("A.b.C.example", zones=zones)) == ["10.0.0.1"]
    assert addresses(ask("c.example", zones=zones)) == ["10.0.0.2"]
    assert addresses(ask("b.c.example", zones=zones)) == []
    answer = ask("x.b.c.example", zones=zones)
    assert answer is not None
    assert answer.header.rcode == RCODE.NXDOMAIN


def test_the_innermost_zone_answers() -> None:
    inner = Zone("c.example.", (Record("b", IPv4Address("10.0.0.3")),))
    zones = Zones([DEEP, inner])
    assert addresses(ask("b.c.example", zones=zones)) == ["10.0.0.3"]
    assert addresses(ask("c.example", zones=zones)) == []


def test_edns_is_answered_with_edns() -> None:
    plain, extended = ask("host.docker.internal"), ask("host.docker.internal", edns=True)
    assert plain is not None
    assert extended is not None
    assert plain.ar == []
    assert [record.rtype for record in extended.ar] == [QTYPE.OPT]
    assert addresses(extended) == ["192.168.127.254"]


FOUR, SIX = IPv4Address("10.0.0.9"), IPv6Address("fd00::9")
SEVERAL = Zone(
    "crc.testing.",
    (
        Record("api", IPv4Address("10.0.0.2")),
        Record("", IPv4Address("10.0.0.3"), r"crc-(.*?)-master-0"),
        Record("crc-x-master-0", IPv4Address("10.0.0.4")),
        Record("both", SIX),
        Record("both", FOUR),
    ),
)
APPS = Zone("apps-crc.testing.", (Record("own", SIX),), default=FOUR)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("api.crc.testing", "A", ["10.0.0.2"]),
        ("crc-xyz-master-0.crc.testing", "A", ["10.0.0.3"]),
        ("CRC-xyz-MASTER-0.crc.testing", "A", ["10.0.0.3"]),
        ("a.crc-y-master-0.b.crc.testing", "A", ["10.0.0.3"]),
        ("crc-xyz-master-0.crc.testing", "AAAA", []),
        # The first that stands for a name counts.
        ("crc-x-master-0.crc.testing", "A", ["10.0.0.3"]),
        ("both.crc.testing", "A", ["10.0.0.9"]),
        ("both.crc.testing", "AAAA", ["fd00::9"]),
        ("both.crc.testing", "MX", []),
        ("crc.testing", "A", []),
        ("apps-crc.testing", "A", ["10.0.0.9"]),
        ("console.apps-crc.testing", "A", ["10.0.0.9"]),
        ("a.b.apps-crc.testing", "A", ["10.0.0.9"]),
        ("a.b.apps-crc.testing", "AAAA", []),
        ("own.apps-crc.testing", "AAAA", ["fd00::9"]),
        ("own.apps-crc.testing", "A", []),
    ],
)
def test_patterns_and_defaults(name: str, kind: str, found: list[str]) -> None:
    assert addresses(ask(name, kind, zones=Zones([SEVERAL, APPS]))) == found


def test_a_pattern_is_shown_no_more_than_a_name() -> None:
    """Whatever is no letter of a name is written with four, in its place."""
    zones = Zones([Zone("x.", (Record("", FOUR, "."),))])
    for count, found in ((64, [FOUR]), (65, None)):
        relative = (b"\xff" * (count - 1) + b"abc",)
        assert zones.find(relative, (b"x",)) == found


@pytest.mark.parametrize("name", ["crc-master-0.crc.testing", "xapi.crc.testing"])
def test_what_no_pattern_is_found_in_does_not_exist(name: str) -> None:
    answer = ask(name, zones=Zones([SEVERAL]))
    assert answer is not None
    assert answer.header.rcode == RCODE.NXDOMAIN


def test_a_zone_ends_at_a_label() -> None:
    assert ask("xapps-crc.testing", zones=Zones([SEVERAL, APPS])) is None


def test_what_is_added_comes_first() -> None:
    zones = Zones([APPS, SEVERAL])
    zones.add(Zone("CRC.testing", (Record("api", IPv4Address("10.9.9.9")),)))
    assert addresses(ask("api.crc.testing", zones=zones)) == ["10.9.9.9"]
    assert addresses(ask("crc-a-master-0.crc.testing", zones=zones)) == ["10.0.0.3"]
    zones.add(Zone("new."))
    assert [zone.name for zone in zones.all()] == ["apps-crc.testing.", "CRC.testing", "new."]


def test_of_equal_records_one_is_kept() -> None:
    first, second = (Record("b", IPv4Address(f"10.0.0.{n}")) for n in (1, 2))
    zones = Zones([Zone("a.", (first, first))])
    assert zones.all() == [Zone("a.", (first,))]
    for _ in range(3):
        zones.add(Zone("a.", (first, second, first)))
        assert zones.all() == zones.added == [Zone("a.", (first, second))]
    zones.add(Zone("a.", (second,)))
    assert zones.all() == zones.added == [Zone("a.", (second, first))]


def test_there_is_an_end_to_what_can_be_added(monkeypatch: pytest.MonkeyPatch) -> None:
    some = tuple(Record(name, FOUR) for name in "abc")
    first, second = Zone("one.", some), Zone("two.", some[:1])
    size = sum(len(json.dumps(zonejson.encode(zone))) for zone in (first, second))
    monkeypatch.setattr("gvproxy.services.zones.MAX_BYTES", size)
    zones = Zones([])
    zones.add(first)
    for more in (
        Zone("two.", some[:2]),
        Zone("one.", (Record("d", FOUR), Record("e", FOUR), Record("f", FOUR))),
        Zone("t" * 99),
        Zone("one.", (Record("d" * 99, FOUR),)),
        Zone("one.", (Record("", FOUR, "d" * 99),)),
    ):
        with pytest.raises(BadZoneError, match=f"would be more than {size} bytes of JSON"):
            zones.add(more)
        assert zones.all() == zones.added == [first]
        assert zones.find((b"d",), (b"one",)) is None
    zones.add(first)
    zones.add(second)


def test_two_alike_from_the_start_are_one() -> None:
    first, second = (Zone("a.", (Record("b", IPv4Address(f"10.0.0.{n}")),)) for n in (1, 2))
    zones = Zones([first, second])
    assert addresses(ask("b.a", zones=zones)) == ["10.0.0.1"]
    assert len(zones.all()) == 1
