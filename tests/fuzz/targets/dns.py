"""DNS from both sides: queries of guests, over UDP and TCP, and answers of the host's servers.

The first message says which; then query and answer take turns.  What a guest is given has its own
question, and what is kept stays within its limits.
"""

import asyncio
from ipaddress import IPv4Address
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


class Upstream:
    """The host's name servers, which answer with what the input says."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self.now = 1000.0

    @property
    def resolv_conf(self) -> "Upstream":
        return self

    def servers(self, now: float) -> tuple[tuple[str, int], ...]:
        return (("192.0.2.1", 53),)

    def take(self, query: Query, message: bytes) -> bytes | None:
        """Return what answers a query: as `Resolver` and `DnsTcp` decide."""
        if not self._answers:
            return None
        answer = self._answers.pop(0)
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
        assert failure is None or failure in (2, 4, 5)
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
    upstream = Upstream(answers)
    server = DnsServer(_NAMES, upstream)  # type: ignore[arg-type]
    for query in queries:
        said: list[bytes] = []
        with within():
            server.handle(query[: dnsmessage.MAX_PAYLOAD], said.append, now=upstream.now)
        assert len(said) <= 1
        for one in said:
            _look(query, one)
        _look_at_cache(server.cache)


def _look(query: bytes, reply: bytes) -> None:
    """Assert that a guest gets what it asked for."""
    assert reply[:2] == query[:2]
    assert reply[2] & 0x80
    assert len(reply) <= 65535
    try:
        parsed = dnsmessage.parse(query)
    except dnsmessage.MessageError:
        assert len(reply) == HEADER.size
        return
    if int.from_bytes(reply[4:6], "big"):
        end = HEADER.size + len(parsed.question)
        assert reply[HEADER.size : end].lower() == parsed.question.lower()


def _look_at_cache(cache: dnscache.DnsCache) -> None:
    entries = cache._entries
    assert cache.counters.entries == len(entries)
    kept = sum(dnscache._size(key, entry) for key, entry in entries.items())
    assert cache.counters.bytes == kept <= dnscache.MAX_BYTES
    for entry in entries.values():
        assert 0 < entry.expires - entry.kept < inf


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
        reply.add_answer(*_records(line))
    if auth:
        reply.add_auth(*_records(auth))
    return _ANSWER.pack(_MENDED, passes) + bytes(reply.pack())


def _records(text: str) -> list[object]:
    return list(RR.fromZone(text))


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
    return {
        "local": join([b"\0", *(part for name in names for part in (name, b""))]),
        "forwarded": join([b"\0", *exchange]),
        "kept": join([b"\0", *exchange[:6] * 3]),
        "stream": join([b"\1", *turns]),
    }
