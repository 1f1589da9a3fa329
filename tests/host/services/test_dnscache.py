"""What is kept of the servers' answers, for whom, and for how long."""

import struct
import tracemalloc

import pytest
from dnslib import CNAME, NS, QTYPE, RCODE, RR, SOA, TXT, A, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from gvproxy.services import dnscache, dnsmessage
from gvproxy.services.dnscache import MAX_NEGATIVE_TTL, MAX_TTL, OVERHEAD, DnsCache
from gvproxy.services.dnsmessage import Query

SOA_RECORD = SOA("ns.example", "root.example", (1, 2, 3, 4, 30))


def message(
    name: str = "www.example",
    kind: str = "A",
    ident: int = 1,
    *,
    edns: bytes | None = None,
    dnssec: bool = False,
    flags: int = 0,
) -> bytes:
    """A query; `edns` are the options, None without EDNS."""
    record = DNSRecord.question(name, kind)
    record.header.id = ident
    record.header.bitmap |= flags
    packed = bytes(record.pack())
    if edns is None:
        return packed
    opt = struct.pack("!xHHHHH", QTYPE.OPT, 1232, 0, 0x8000 if dnssec else 0, len(edns)) + edns
    return packed[:11] + b"\1" + packed[12:] + opt


def ask(*arguments: str, **options: object) -> Query:
    return dnsmessage.parse(message(*arguments, **options))  # type: ignore[arg-type]


def answer(query: Query, *records: RR, authority: tuple[RR, ...] = (), rcode: int = 0) -> bytes:
    flags = 0x8180 | rcode
    reply = DNSRecord.parse(message())
    reply.header.bitmap = flags
    reply.rr, reply.auth = list(records), list(authority)
    packed = bytes(reply.pack())
    # The question in the spelling of the query; names in records that point to it stay right.
    size = len(ask().question)
    assert len(query.question) == size
    return packed[:12] + query.question + packed[12 + size :]


def record(ttl: int, address: str = "192.0.2.1", name: str = "www.example") -> RR:
    return RR(name, QTYPE.A, ttl=ttl, rdata=A(address))


def soa(ttl: int) -> RR:
    return RR("example", QTYPE.SOA, ttl=ttl, rdata=SOA_RECORD)


@pytest.fixture
def cache() -> DnsCache:
    return DnsCache()


def test_an_answer_is_given_again_with_what_is_left_of_its_ttls(cache: DnsCache) -> None:
    query = ask()
    kept = answer(query, record(60), record(70, "192.0.2.2"))
    assert cache.find(query, 512, 100.0) is None
    cache.keep(query, kept, 100.0)
    again = cache.find(ask(ident=7), 512, 125.9)
    assert again is not None
    reply = DNSRecord.parse(again)
    assert reply.header.id == 7
    assert [(rr.ttl, str(rr.rdata)) for rr in reply.rr] == [(35, "192.0.2.1"), (45, "192.0.2.2")]
    assert again[12:] != kept[12:]
    assert cache.find(query, 512, 159.9) is not None
    assert cache.find(query, 512, 160.0) is None
    assert (cache.counters.hits, cache.counters.misses, cache.counters.entries) == (2, 2, 0)


def test_an_answer_is_in_the_spelling_of_the_question(cache: DnsCache) -> None:
    cache.keep(ask("www.example"), answer(ask(), record(60)), 0.0)
    again = cache.find(ask("wWw.eXAMple"), 512, 1.0)
    assert again is not None
    assert b"\3wWw\7eXAMple\0" in again
    assert str(DNSRecord.parse(again).rr[0].rname) == "wWw.eXAMple."


def test_what_shapes_an_answer_tells_queries_apart(cache: DnsCache) -> None:
    queries = [
        ask(),
        ask(kind="AAAA"),
        ask(flags=dnsmessage.CD),
        ask(flags=dnsmessage.AD),
        ask(edns=b""),
        ask(edns=b"", dnssec=True),
    ]
    for number, query in enumerate(queries):
        for other in queries[number:]:
            assert cache.find(other, 512, 0.0) is None
        one = RR("www.example", query.kind, ttl=60, rdata=TXT(str(number)))
        cache.keep(query, answer(query, one), 0.0)
    for number, query in enumerate(queries):
        again = cache.find(query, 512, 0.0)
        assert again is not None
        assert b"%d" % number in again[-2:]


@pytest.mark.parametrize(
    "query",
    [
        ask(edns=b"\0\x0a\0\x08COOKIES!"),
        dnsmessage.parse(message() + b"trailing"),
        dnsmessage.parse(message()[:11] + b"\1" + message()[12:] + b"\0\0\xfa\0\xff"),
    ],
)
def test_queries_with_more_in_them_are_passed_on(cache: DnsCache, query: Query) -> None:
    assert not query.cacheable
    cache.keep(ask(), answer(ask(), record(60)), 0.0)
    cache.keep(query, answer(query, record(60)), 0.0)
    assert cache.find(query, 512, 0.0) is None
    assert cache.counters.entries == 1


def test_an_answer_that_is_too_long_for_the_client(cache: DnsCache) -> None:
    query = ask()
    kept = answer(query, *(record(60, f"192.0.2.{n}") for n in range(100)))
    cache.keep(query, kept, 0.0)
    assert cache.find(query, len(kept) - 1, 0.0) is None
    assert cache.find(query, len(kept), 0.0) == kept


def test_the_authority_is_not_ours(cache: DnsCache) -> None:
    kept = bytearray(answer(ask(), record(60)))
    kept[2] |= 0x04
    cache.keep(ask(), bytes(kept), 0.0)
    again = cache.find(ask(), 512, 0.0)
    assert again is not None
    assert not DNSRecord.parse(again).header.aa


@pytest.mark.parametrize(
    ("records", "authority", "rcode", "seconds"),
    [
        ([record(60)], (), 0, 60),
        ([record(60), record(20, "192.0.2.2")], (), 0, 20),
        ([record(60)], (RR("example", QTYPE.NS, ttl=10, rdata=NS("ns.example")),), 0, 10),
        ([record(0)], (), 0, 0),
        ([record(1 << 31)], (), 0, 0),
        ([record(MAX_TTL + 1)], (), 0, MAX_TTL),
        # Negative answers: RFC 2308
        ([], (soa(40),), RCODE.NXDOMAIN, 30),
        ([], (soa(20),), RCODE.NXDOMAIN, 20),
        ([], (soa(40),), RCODE.NOERROR, 30),
        ([], (soa(0),), RCODE.NOERROR, 0),
        ([], (), RCODE.NXDOMAIN, 0),
        ([], (), RCODE.NOERROR, 0),
        ([], (RR("example", QTYPE.NS, ttl=60, rdata=NS("ns.example")),), 0, 0),  # a referral
        (
            [RR("www.example", QTYPE.CNAME, ttl=25, rdata=CNAME("nobody.example"))],
            (soa(40),),
            RCODE.NXDOMAIN,
            25,
        ),
        ([RR("www.example", QTYPE.CNAME, ttl=25, rdata=CNAME("x.example"))], (), 0, 0),
        # Failures
        ([record(60)], (), RCODE.SERVFAIL, 0),
        ([record(60)], (soa(40),), RCODE.REFUSED, 0),
    ],
)
def test_how_long_an_answer_is_kept(
    cache: DnsCache, records: list[RR], authority: tuple[RR, ...], rcode: int, seconds: int
) -> None:
    query = ask()
    cache.keep(query, answer(query, *records, authority=authority, rcode=rcode), 1000.0)
    if seconds:
        assert cache.find(query, 512, 1000.0 + seconds - 0.1) is not None
    assert cache.find(query, 512, 1000.0 + seconds) is None


def test_a_name_that_does_not_exist_may_do_so_soon(cache: DnsCache) -> None:
    forever = SOA("ns.example", "root.example", (1, 2, 3, 4, 86400))
    authority = (RR("example", QTYPE.SOA, ttl=86400, rdata=forever),)
    cache.keep(ask(), answer(ask(), authority=authority, rcode=RCODE.NXDOMAIN), 0.0)
    assert cache.find(ask(), 512, MAX_NEGATIVE_TTL - 0.1) is not None
    assert cache.find(ask(), 512, MAX_NEGATIVE_TTL) is None


def test_truncated_answers_are_not_kept(cache: DnsCache) -> None:
    kept = bytearray(answer(ask(), record(60)))
    kept[2] |= 0x02
    cache.keep(ask(), bytes(kept), 0.0)
    assert not cache.counters.entries


def test_answers_unused_for_longest_make_room() -> None:
    queries = [ask(name) for name in ("aaa.example", "bbb.example", "ccc.example")]
    answers = [answer(query, record(60)) for query in queries]
    size = len(answers[0]) - 12 + 2 + OVERHEAD  # two bytes are the place of a TTL
    cache = DnsCache(max_bytes=2 * size)
    for query, kept in zip(queries[:2], answers[:2], strict=True):
        cache.keep(query, kept, 0.0)
    cache.keep(queries[1], answers[1], 0.0)
    assert cache.find(queries[0], 512, 0.0) is not None
    cache.keep(queries[2], answers[2], 0.0)
    assert [cache.find(query, 512, 0.0) is not None for query in queries] == [True, False, True]
    assert (cache.counters.entries, cache.counters.bytes) == (2, 2 * size)
    cache.clear()
    assert (cache.counters.entries, cache.counters.bytes) == (0, 0)
    assert cache.find(queries[0], 512, 0.0) is None


@pytest.mark.parametrize("records", [1, 40, 400])
def test_the_bytes_counted_are_those_of_memory(records: int) -> None:
    """Records can be tiny, so that their TTLs weigh more than they do."""
    tiny = struct.pack("!HHHIH", 0xC00C, QTYPE.NULL, 1, 60, 0)
    counts = struct.pack("!HHHH", 1, records, 0, 0)
    queries = [ask(f"w{number:02}.example", "NULL") for number in range(100)]
    cache = DnsCache()
    tracemalloc.start()
    try:
        for query in queries:
            cache.keep(query, b"\0\1\x81\x80" + counts + query.question + tiny * records, 0.0)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.counters.entries == len(queries)
    assert cache.counters.bytes / 1.5 < taken < cache.counters.bytes * 1.5


def test_an_answer_that_nobody_asks_for_twice(cache: DnsCache) -> None:
    query = ask(kind="TXT")
    for size, kept in ((dnscache.MAX_ANSWER, 1), (dnscache.MAX_ANSWER + 1, 0)):
        head = answer(query)[:7] + b"\1" + answer(query)[8:]
        length = size - len(head) - 12
        record = struct.pack("!HHHIH", 0xC00C, QTYPE.TXT, 1, 60, length) + bytes(length)
        cache.clear()
        cache.keep(query, head + record, 0.0)
        assert cache.counters.entries == kept


def test_an_answer_cut_off_anywhere_is_not_kept(cache: DnsCache) -> None:
    query = ask()
    whole = answer(query, record(60), authority=(soa(60),))
    for size in range(len(whole)):
        cache.keep(query, whole[:size], 0.0)
    assert not cache.counters.entries
    cache.keep(query, whole, 0.0)
    assert cache.counters.entries == 1


@given(st.binary(max_size=200), st.integers(0, 0xFFFF), st.integers(0, 300))
def test_whatever_a_server_says(noise: bytes, counts: int, place: int) -> None:
    cache, query = DnsCache(), ask()
    whole = bytearray(answer(query, record(60), authority=(soa(60),)))
    whole[6:8] = counts.to_bytes(2, "big")
    whole[12 + len(query.question) + place :] = noise
    cache.keep(query, bytes(whole), 0.0)
    found = cache.find(query, 65535, 1.0)
    assert found is None or len(found) == len(whole)


def test_queries_say_what_their_clients_take() -> None:
    assert ask().limit == 512
    assert ask(edns=b"").limit == 1232
    assert not ask(edns=b"").dnssec
    assert ask(edns=b"", dnssec=True).dnssec
    small = bytearray(message(edns=b""))
    small[-8:-6] = b"\0\1"
    assert dnsmessage.parse(bytes(small)).limit == 512
    assert dnscache.MAX_BYTES == 4 << 20
