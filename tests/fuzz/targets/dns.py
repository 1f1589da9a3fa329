"""DNS from both sides: queries of guests, over UDP and TCP, and answers of the host's servers.

The first message says which; then query and answer take turns.  What a guest is given has its own
question and is no longer than it takes; what is given once more is what a server has answered to
that question, for as long as it may be kept.  Messages are read once more here, by RFC 1035 alone.
"""

import asyncio
from ipaddress import IPv4Address
from itertools import zip_longest
from math import inf
from struct import Struct, pack

from dnslib import RR, DNSRecord

from gvproxy.config import Record, Zone
from gvproxy.limits import Limit, Quota
from gvproxy.services import dnscache, dnsmessage
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnsmessage import HEADER, Query
from gvproxy.services.dnstcp import DnsTcp
from gvproxy.services.zones import Zones
from tests.fuzz.budget import within
from tests.fuzz.cases import join, split
from tests.fuzz.mutation import Repair
from tests.host.services.naming import Guests, make_names

repair: Repair | None = None

_ADDRESS = IPv4Address("192.168.127.254")
_ZONES = Zones(
    [
        Zone("containers.internal.", (Record("gateway", _ADDRESS), Record("host", _ADDRESS))),
        Zone("crc.testing.", (Record("", _ADDRESS, "crc-(.*?)-master-0"), Record("a.b", _ADDRESS))),
        Zone("all.example.", (), _ADDRESS),
    ]
)
_NAMES = make_names(_ZONES, Guests(one="192.168.127.3"))
_ANSWER = Struct("!BB")  # whether it is mended to be one; seconds until the next query
_MENDED = 1
_ANOTHER_ID = 2
_OPT = 41


class Upstream:
    """The host's name servers, which answer with what the input says."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers = answers
        self.now = 1000.0
        self.taken: list[bytes] = []
        """Answers since the last query."""
        self.given: list[tuple[bytes, bytes, float]] = []
        """All queries that were forwarded, with their answers and the times of these."""

    @property
    def resolv_conf(self) -> "Upstream":
        return self

    def servers(self, now: float) -> tuple[tuple[str, int], ...]:
        return (("192.0.2.1", 53),)

    def take(self, query: Query, message: bytes) -> bytes | None:
        """Return what answers a query: as `Resolver` and `DnsTcp` decide."""
        assert not message[2] & 0xF8, "what is no query is forwarded"
        assert _NAMES.answer(query, self.now) is None, "others are asked for a name that is ours"
        if not self.answers:
            return None
        answer = self.answers.pop(0)
        if len(answer) < _ANSWER.size:
            return None
        how, passes = _ANSWER.unpack_from(answer)
        self.now += passes
        answer = answer[_ANSWER.size :]
        if how & _MENDED and len(answer) > HEADER.size:
            ident, flags = query.ident ^ (how & _ANOTHER_ID), answer[2] | 0x80
            rest = answer[HEADER.size + len(query.question) :]
            answer = pack("!HB", ident, flags) + b"%c\0\1" % answer[3] + answer[6:12]
            answer += query.question + rest
        if not dnsmessage.is_answer(answer, query, query.ident):
            return None
        failure = dnsmessage.failure(answer)
        assert (answer[3] & 15 if failure is not None else 0) in (0, 2, 4, 5)
        assert _is_answer(answer, message), "an answer to another question"
        self.taken.append(answer)
        self.given.append((message, answer, self.now))
        return answer

    def forward(
        self, query: Query, message: bytes, answer: object, now: float, owner: object
    ) -> None:
        found = self.take(query, message)
        if found is not None:
            answer(found)  # type: ignore[operator]


def target(data: bytes) -> None:
    """Ask, and answer."""
    first, *messages = split(data) or [b""]
    queries, answers = messages[::2], messages[1::2]
    if first[:1] == b"\1":
        _stream(queries, answers)
    else:
        _datagrams(queries, answers)


def _datagrams(queries: list[bytes], answers: list[bytes]) -> None:
    upstream = Upstream([])
    server = DnsServer(_NAMES, upstream)  # type: ignore[arg-type]
    for query, given in zip_longest(queries, answers, fillvalue=b""):
        upstream.answers = [given]
        said: list[bytes] = []
        query = query[: dnsmessage.MAX_PAYLOAD]
        upstream.taken.clear()
        local, asked = server.counters.local, upstream.now
        with within():
            server.handle(query, said.append, now=asked)
        assert len(said) <= 1
        for one in said:
            _look(query, one)
            if upstream.taken:
                assert one == upstream.taken[-1]
            elif _end(query):
                assert len(one) <= _most(query), "more than the guest takes"
                known = server.counters.local != local or query[2] & 0x78
                assert known or _was_given(query, one, upstream, asked), "nobody has answered so"
        if upstream.answers:  # nobody was asked
            upstream.now += given[1] if len(given) > 1 else 0
        _look_at_cache(server.cache)


def _end(query: bytes) -> int:
    """Return where a query's question ends (RFC 1035 §4.1), 0 where there is not just one."""
    at = HEADER.size
    if len(query) < at or query[2] & 0x80 or query[4:6] != b"\0\1":
        return 0
    while at < len(query) and query[at]:
        at += 1 + query[at] if query[at] < 64 else 1 << 16
    at += 5
    return at if at <= len(query) and at - 4 - HEADER.size <= 255 else 0


def _most(query: bytes) -> int:
    """Return how many bytes a guest takes over UDP (RFC 6891 §6.2.3)."""
    end = _end(query)
    edns = query[6:10] == bytes(4) and query[10:12] != bytes(2)
    if edns and query[end : end + 3] == b"\0\0\x29" and len(query) >= end + 11:
        return min(max(512, int.from_bytes(query[end + 3 : end + 5], "big")), 65507)
    return 512


def _is_answer(answer: bytes, query: bytes) -> bool:
    """Tell whether a message answers a query, of which the id may be another."""
    if len(answer) < HEADER.size or not answer[2] & 0x80:
        return False
    question = query[HEADER.size : _end(query)].lower()
    if answer[4:6] == bytes(2):
        return bool(answer[3] & 15)
    return answer[HEADER.size : HEADER.size + len(question)].lower() == question


def _shape(query: bytes) -> tuple[int, ...] | None:
    """Return what an answer depends on beside the question: bits, EDNS, and DO; None for more."""
    end, bits = _end(query), (query[2] & 1, query[3] & 0x30)
    if len(query) == end:
        return (*bits, 0, 0)
    plain = len(query) == end + 11 and query[end : end + 3] == b"\0\0\x29"
    edns = query[6:10] == bytes(4) and query[10:12] != bytes(2) and plain
    # Its version is 0 (RFC 6891 §6.1.3), and its options have no length.
    return (*bits, 1, query[end + 7] & 0x80) if edns and not query[end + 6] else None


def _was_given(query: bytes, reply: bytes, upstream: Upstream, now: float) -> bool:
    """Tell whether a server has given a reply, whose time is not over, to the same question."""
    end, shape = _end(query), _shape(query)
    found = _records(reply, end)
    for before, answer, when in reversed(upstream.given):
        same = before[HEADER.size : _end(before)].lower() == query[HEADER.size : end].lower()
        if not same or shape is None or shape != _shape(before) or answer[4:6] != b"\0\1":
            continue
        given = _records(answer, end)
        if given is None or found is None or len(given) != len(found) or answer[2] & 2:
            continue
        if answer[3] & 15 not in (0, 3) or (answer[3] ^ reply[3]) & 15:
            continue
        age = now - when
        if age >= _lasts(answer, given, int.from_bytes(query[end - 4 : end - 2], "big")):
            continue
        if all(
            one[:2] == other[:2] and (one[0] == _OPT or other[2] <= one[2] - age + 1)
            for one, other in zip(given, found, strict=True)
        ):
            return True
    return False


def _lasts(answer: bytes, records: list[tuple[int, bytes, int]], kind: int) -> float:
    """Return how long an answer to a question of `kind` is good (RFC 2308 §5, RFC 2181 §8)."""
    lasts: float = min(
        (ttl if ttl < 1 << 31 else 0 for one, _, ttl in records if one != _OPT), default=0
    )
    first, second = (int.from_bytes(answer[at : at + 2], "big") for at in (6, 8))
    if not answer[3] & 15 and any(one[0] == kind for one in records[:first]):
        return lasts
    zones = [one for one in records[first : first + second] if one[0] == 6]
    minimum = min((int.from_bytes(data[-4:], "big") for _, data, _ in zones), default=0)
    return min(lasts, minimum, 60)


def _records(message: bytes, at: int) -> list[tuple[int, bytes, int]] | None:
    """Return type, name with data, and TTL of a message's records; None where they are cut off."""
    count = sum(int.from_bytes(message[place : place + 2], "big") for place in (6, 8, 10))
    records = []
    for _ in range(count):
        start = at
        while at < len(message) and 0 < message[at] < 0xC0:
            at += 1 + message[at]
        at += 2 if message[at : at + 1] >= b"\xc0" else 1
        kind, ttl = (int.from_bytes(message[at + n : at + n + 4], "big") for n in (0, 4))
        end = at + 10 + int.from_bytes(message[at + 8 : at + 10], "big")
        if at + 10 > len(message) or end > len(message):
            return None
        records.append((kind >> 16, message[start : at + 4] + message[at + 8 : end], ttl))
        at = end
    return records


def _look(query: bytes, reply: bytes) -> None:
    """Assert that a guest gets what it asked for."""
    assert reply[:2] == query[:2]
    assert reply[2] & 0x80
    assert not query[2] & 0x80, "an answer is answered"
    assert len(reply) <= 65535
    end = _end(query)
    if not end:
        assert len(reply) == HEADER.size
        assert reply[3] & 15 == 1
        return
    if int.from_bytes(reply[4:6], "big"):
        assert reply[HEADER.size : end].lower() == query[HEADER.size : end].lower()
    else:
        assert reply[3] & 15


def _look_at_cache(cache: dnscache.DnsCache) -> None:
    entries = cache._entries
    assert cache.counters.entries == len(entries)
    kept = sum(dnscache._size(key, entry) for key, entry in entries.items())
    assert cache.counters.bytes == kept <= dnscache.MAX_BYTES
    for entry in entries.values():
        assert 0 < entry.expires - entry.kept < inf
        assert len(entry.rest) <= dnscache.MAX_ANSWER


def _stream(queries: list[bytes], answers: list[bytes]) -> None:
    """Let a guest send all of it over one connection, whose end comes at once."""
    stream = b"".join(queries)
    replies = asyncio.run(_serve(stream, Upstream(answers)))
    count = position = 0
    while position < len(replies):
        size = int.from_bytes(replies[position : position + 2], "big")
        position += 2 + size
        count += 1
    assert position == len(replies), "a reply is not as long as it says"
    assert count <= len(stream) // 2


class Writer:
    """Takes what is written to a guest."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def get_extra_info(self, name: str) -> None:
        """Nothing is known of the guest."""

    async def drain(self) -> None:
        """It is read at once."""

    def close(self) -> None:
        """There is nothing to close."""


async def _serve(stream: bytes, upstream: Upstream) -> bytes:
    server = DnsServer(_NAMES, upstream)  # type: ignore[arg-type]
    tcp, writer = DnsTcp(server, Quota(Limit(64, 64))), Writer()

    async def ask(query: Query, message: bytes, owner: object = None) -> bytes:
        found = upstream.take(query, message)
        return dnsmessage.reply(query, dnsmessage.Rcode.SERVFAIL) if found is None else found

    tcp.ask = ask  # type: ignore[method-assign]
    reader = asyncio.StreamReader()
    reader.feed_data(stream)
    reader.feed_eof()
    await tcp.serve(reader, writer)  # type: ignore[arg-type]
    _look_at_cache(server.cache)
    return writer.data


# Valid traffic

_KEPT = [
    "7 a.example. A -> a.example. 60 IN A 192.0.2.1",
    "8 b.example. AAAA -> b.example. 60 IN CNAME c.example.\nc.example. 30 IN AAAA 2001:db8::1",
    '9 c.example. TXT -> c.example. 10 IN TXT "hello"',
]


def _query(name: str, kind: str = "A", *, edns: bool = False, ident: int = 7) -> bytes:
    record = DNSRecord.question(name, kind)
    record.header.id = ident
    packed = bytes(record.pack())
    if not edns:
        return packed
    return packed[:11] + b"\1" + packed[12:] + pack("!xHHHHH", 41, 1232, 0, 0x8000, 0)


def _answer(query: bytes, *zone: str, rcode: int = 0, passes: int = 0, auth: str = "") -> bytes:
    record = DNSRecord.parse(query)
    reply = record.reply(ra=1, aa=0)
    reply.header.rcode = rcode
    for line in zone:
        reply.add_answer(*_zone(line))
    if auth:
        reply.add_auth(*_zone(auth))
    return _ANSWER.pack(_MENDED, passes) + bytes(reply.pack())


def _zone(text: str) -> list[object]:
    return list(RR.fromZone(text))


def _odd(asked: bytes) -> list[bytes]:
    """Return queries that are amiss in one place, or seldom."""
    queries = [asked[:size] for size in (0, 11, 12, 13, len(asked) - 1)]
    for place, value in ((2, 0x81), (2, 0x29), (5, 0), (5, 2), (7, 1), (9, 1), (11, 1), (12, 0xC0)):
        one = bytearray(asked)
        one[place] = value
        queries.append(bytes(one))
    head = asked[:12]
    names = (
        b"\x40" + b"a" * 64,
        (b"\x3f" + b"a" * 63) * 4,
        b"\xc0\x0c",
        b"\x3f" * 63,
        b"\1a" * 126,
    )
    queries += [head + name + b"\0\0\1\0\1" for name in names]
    extra = asked[:11] + b"\1" + asked[12:]
    opt = b"\0\0\x29"
    sizes = (0, 511, 513, 4096, 65535)
    queries += [extra + opt + pack("!HHHH", size, 0, 0, 0) for size in sizes]
    queries += [extra + opt + pack("!HHHH", 600, version, 0x8000, 0) for version in (1, 0x100)]
    queries += [extra + opt + pack("!HHHH", 4096, 0, 0, 4) + b"\0\x0a\0\0", extra + opt]
    return [*queries, asked + b"more"]


def _dubious(asked: bytes) -> list[bytes]:
    """Return answers that are not to be given, or not to be kept."""
    address = "www.example.com. 60 IN A 192.0.2.1"
    good = _answer(asked, address)[_ANSWER.size :]
    answers = [pack("!BB", _MENDED | _ANOTHER_ID, 0) + good]
    answers += [
        pack("!BB", 0, 0) + good[:size] for size in (0, 5, 11, 12, len(asked), len(good) - 1)
    ]
    changes = ((1, 8), (2, 0x01), (2, 0x83), (3, 0x85), (3, 0x81), (5, 0), (5, 2), (13, 0x78))
    for place, value in (*changes, (7, 2), (7, 0), (len(asked) + 1, 0xFF)):
        one = bytearray(good)
        one[place] = value
        answers.append(pack("!BB", 0, 0) + bytes(one))
    for ttl in (0, 1, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF):
        at = len(good) - 10
        answers.append(pack("!BB", 0, 1) + good[:at] + pack("!L", ttl) + good[at + 4 :])
    soa = "example.com. {} IN SOA ns.example.com. root.example.com. 1 2 3 4 {}"
    kept = address.replace("60", "300")
    known = soa.format(300, 300)
    answers += [_answer(asked, kept, rcode=rcode, auth=known) for rcode in (2, 3, 6)]
    answers += [
        _answer(asked, kept, rcode=3),
        _answer(asked, kept.replace("A 192.0.2.1", "AAAA ::1")),
    ]
    answers += [_answer(asked, kept.replace("A 192.0.2.1", "AAAA ::1"), auth=known)]
    answers += [_answer(asked, soa.format(300, 300), rcode=3)]
    answers += [_answer(asked, rcode=3, auth=f"example.com. 300 IN NS {'a' * 30}.example.")]
    answers += [pack("!BB", 0, 0) + good[: len(good) - cut] for cut in (5, 8, 15)]
    long = "\n".join(f"www.example.com. 60 IN A 192.0.2.{last}" for last in range(1, 60))
    nothing = bytearray(_answer(asked, rcode=3)[_ANSWER.size :])
    nothing[5] = 0  # no question
    answers.append(pack("!BB", 0, 0) + bytes(nothing))
    answers += [_answer(asked, rcode=3, auth=soa.format(*ttls)) for ttls in ((300, 0), (0, 300))]
    return [*answers, _answer(asked, long), _answer(asked), _answer(asked, rcode=3)]


def _long_for_a_few(asked: bytes) -> list[bytes]:
    """Ask for what is longer than 512 bytes, then as if by EDNS, and in odd ways."""
    edns = _query("www.example.com", edns=True)
    end = len(asked)
    queries = [edns, edns[:11] + b"\0" + edns[12:], edns[:7] + b"\1" + edns[8:]]
    queries += [edns[:end] + b"\0\0\x28" + edns[end + 3 :], edns[:end] + b"\1" + edns[end + 1 :]]
    queries += [edns + b"\0", edns[: end + 6] + b"\1" + edns[end + 7 :], asked, asked + b"more"]
    very_long = "\n".join(
        f"www.example.com. 60 IN A 192.0.{last >> 8}.{last & 255}" for last in range(600)
    )
    more = [_query("www.example.com", edns=True, ident=8), _answer(asked, very_long, passes=61)]
    other = _query("opt.example.com", edns=True)
    for query, last in ((other + b"\0", 1), (other, 2), (other + b"\0", 3)):
        more += [query, _answer(other, f"opt.example.com. 60 IN A 192.0.2.{last}")]
    return [part for one in queries for part in (one, _dubious(asked)[-3])] + more * 2


def seeds() -> dict[str, bytes]:
    """Return queries and their answers."""
    local = ["gateway.containers.internal", "one", "crc-x-master-0.crc.testing", "b.crc.testing"]
    local += ["3.127.168.192.in-addr.arpa", "x.all.example", "_gateway", "localhost", "."]
    local += ["1." * 32 + "ip6.arpa", "a" * 63 + "." + "b" * 63 + ".example"]
    asked = _query("www.example.com")
    address = "www.example.com. 60 IN A 192.0.2.1"
    alias = "www.example.com. 60 IN CNAME a.example.com.", "a.example.com. 5 IN A 192.0.2.2"
    soa = "example.com. 300 IN SOA ns.example.com. root.example.com. 1 2 3 4 30"
    exchange = [
        asked,
        _answer(asked, address, passes=10),
        asked,
        _answer(asked, *alias, passes=61),
        _query("www.example.com", edns=True),
        _answer(asked, address, passes=1),
        _query("www.example.com", "MX"),
        _answer(_query("www.example.com", "MX"), auth=soa),
        _query("no.example.com"),
        _answer(_query("no.example.com"), rcode=3, auth=soa),
        asked,
        _answer(asked, rcode=2),
    ]
    kinds = ("A", "AAAA", "PTR", "ANY", "HTTPS", "SOA")
    names = [_query(name, kind) for name in local for kind in kinds]
    framed = [len(one).to_bytes(2, "big") + one for one in exchange[::2] + names[:4]]
    turns = [part for query in framed for part in (query, exchange[1])]
    odd = _odd(asked)
    # Each dubious answer to a name of its own, then the same question again, and a good answer.
    again = []
    for number in range(len(_dubious(asked))):
        one = _query(f"{number:03}.example.com")
        good = _answer(one, f"{number:03}.example.com. 60 IN A 192.0.2.1")
        dubious = _dubious(one)[number]
        more = _ANSWER.pack(0, 61) + dubious[_ANSWER.size :]
        again += [one, dubious, one, good, one, more, one, good]
    return {
        "odd": join([b"\0", *(part for one in odd for part in (one, exchange[1]))]),
        "odd-stream": join(
            [
                b"\1",
                *(part for one in odd for part in (len(one).to_bytes(2, "big") + one, exchange[1])),
            ]
        ),
        "dubious": join([b"\0", *again]),
        "small": join([b"\0", *_long_for_a_few(asked)]),
        "local": join([b"\0", *(part for name in names for part in (name, b""))]),
        "forwarded": join([b"\0", *exchange]),
        "kept": join([b"\0", *exchange[:6] * 3]),
        "stream": join([b"\1", *turns]),
    }
