"""What guests ask, and what they are told, with stand-in name servers behind."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from dnslib import EDNS0, RCODE, DNSRecord

from gvproxy.services.dns import DnsServer

from .naming import make_names
from .upstream import Bench, failing, question, respond


@pytest.fixture(scope="module", autouse=True)
def _what_uvloop_keeps() -> None:
    """Let libuv open the pipe it never closes, before descriptors are counted."""
    uvloop.new_event_loop().close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_local_names_never_leave(bench: Bench) -> None:
    bench.ask(question("host.containers.internal"))
    bench.ask(question("nobody.containers.internal"))
    assert bench.rcodes() == ["NOERROR", "NXDOMAIN"]
    assert bench.upstreams[0].received() == []
    assert bench.server.counters.local == 2


@pytest.mark.parametrize(
    ("addresses", "udp_size", "given"),
    [(30, None, 30), (31, None, 0), (31, 1232, 31), (4096, 65535, 0)],
)
def test_local_answers_too_long_for_a_datagram_are_truncated(
    bench: Bench, tmp_path: Path, addresses: int, udp_size: int | None, given: int
) -> None:
    """A name of hosts(5) has as many addresses as it likes."""
    path = tmp_path / "hosts"
    path.write_text("".join(f"10.0.{n >> 8}.{n & 255} x.example\n" for n in range(addresses)))
    server = DnsServer(make_names(hosts=path), bench.resolver)
    query = DNSRecord.question("x.example")
    if udp_size is not None:
        query.add_ar(EDNS0(udp_len=udp_size))
    reply = server.examine(bytes(query.pack()), now=0.0)
    assert isinstance(reply, bytes)
    answer = DNSRecord.parse(reply)
    assert (len(answer.rr), answer.header.tc, answer.header.aa) == (given, not given, 1)
    reply = server.examine(bytes(query.pack()), now=0.0, stream=True)
    assert isinstance(reply, bytes)
    assert len(DNSRecord.parse(reply).rr) == (addresses if addresses < 4096 else 0)


def test_a_query_is_passed_on_as_it_is(bench: Bench) -> None:
    record = DNSRecord.question("_sip._TCP.example.com", "NAPTR")
    record.add_ar(EDNS0(flags="do", udp_len=4096))
    query = bytes(record.pack())
    bench.ask(query)
    ((received, client),) = bench.upstreams[0].received()
    assert received[2:] == query[2:]
    # More than the client's EDNS size, and with bytes behind it: the server's answer all the same.
    answer = received[:2] + b"\x81\x83" + query[4:] + bytes(range(256)) * 20
    bench.upstreams[0].sock.sendto(answer, client)
    bench.loop.run()
    assert bench.replies == [query[:2] + answer[2:]]
    assert bench.resolver.counters.answered == 1


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN", "FORMERR", "YXDOMAIN"])
def test_rcode_and_ttl_are_the_servers(bench: Bench, rcode: str) -> None:
    bench.list_servers(2)
    bench.ask(question())
    bench.upstreams[0].answer(failing(getattr(RCODE, rcode)))
    bench.loop.run()
    assert bench.rcodes() == [rcode]
    reply = DNSRecord.parse(bench.replies[0])
    assert reply.header.id == 0x1234
    assert [record.ttl for record in reply.rr] == ([77] if rcode == "NOERROR" else [])
    assert bench.upstreams[1].received() == []


def test_each_query_has_an_id_and_a_port_of_its_own(bench: Bench) -> None:
    for _ in range(50):
        bench.ask(question())
    received = bench.upstreams[0].received()
    assert len({client for _, client in received}) == 50
    assert len({query[:2] for query, _ in received}) > 40


def test_answers_come_in_any_order(bench: Bench) -> None:
    names = [f"host{number}.example.com" for number in range(5)]
    for ident, name in enumerate(names):
        bench.ask(question(name, ident=ident))
    for query, client in reversed(bench.upstreams[0].received()):
        bench.upstreams[0].sock.sendto(respond(query), client)
    bench.loop.run()
    replies = {DNSRecord.parse(reply).header.id: DNSRecord.parse(reply) for reply in bench.replies}
    assert {ident: str(reply.q.qname) for ident, reply in replies.items()} == {
        ident: f"{name}." for ident, name in enumerate(names)
    }


def wrong_id(query: bytes) -> bytes:
    return bytes((query[0] ^ 1,)) + respond(query)[1:]


def wrong_name(query: bytes) -> bytes:
    return respond(query).replace(b"Example", b"Examp1e", 1)


def wrong_type(query: bytes) -> bytes:
    other = DNSRecord.question("www.Example.com", "AAAA")
    other.header.id = int.from_bytes(query[:2], "big")
    return respond(bytes(other.pack()))


def without_question(query: bytes) -> bytes:
    return query[:2] + b"\x81\x80" + bytes(8)


def no_response(query: bytes) -> bytes:
    return query


def cut_off(query: bytes) -> bytes:
    return respond(query)[:20]


@pytest.mark.parametrize(
    "forge", [wrong_id, wrong_name, wrong_type, without_question, no_response, cut_off]
)
def test_what_answers_another_question_is_ignored(
    bench: Bench, forge: Callable[[bytes], bytes]
) -> None:
    bench.ask(question())
    ((query, client),) = bench.upstreams[0].received()
    bench.upstreams[0].sock.sendto(forge(query), client)
    bench.upstreams[0].sock.sendto(b"", client)
    bench.loop.run()
    assert bench.replies == []
    assert bench.resolver.counters.mismatched == 2
    bench.upstreams[0].sock.sendto(respond(query), client)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]


def test_only_the_server_asked_can_answer(bench: Bench) -> None:
    bench.ask(question())
    ((query, client),) = bench.upstreams[0].received()
    bench.upstreams[1].sock.sendto(respond(query), client)
    bench.loop.run()
    assert bench.replies == []
    assert bench.resolver.counters.mismatched == 0, "the kernel lets nobody else through"


def test_a_server_may_spell_the_name_its_way(bench: Bench) -> None:
    bench.ask(question("wWw.eXample.com"))
    bench.upstreams[0].answer(lambda query: respond(query).replace(b"eXample", b"example"))
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]


def test_an_error_without_the_question_is_an_answer(bench: Bench) -> None:
    bench.ask(question())
    bench.upstreams[0].answer(lambda query: query[:2] + b"\x80\x01" + bytes(8))
    bench.loop.run()
    assert bench.rcodes() == ["FORMERR"]


# Malformed input


def header(flags: int, questions: int, ident: int = 7) -> bytes:
    return b"".join(n.to_bytes(2, "big") for n in (ident, flags, questions, 0, 0, 0))


@pytest.mark.parametrize(
    ("message", "rcode"),
    [
        (b"", None),
        (question()[:11], None),
        (respond(question()), None),
        (header(0x0100, 0), "FORMERR"),
        (header(0x0100, 2) + question()[12:], "FORMERR"),
        (header(0x0100, 1), "FORMERR"),
        (header(0x0100, 1) + b"\xc0\x0c\0\x01\0\x01", "FORMERR"),
        (header(0x0100, 1) + b"\x40" + b"a" * 64 + b"\0\0\x01\0\x01", "FORMERR"),
        (header(0x0100, 1) + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\x01\0\x01", "FORMERR"),
        (header(0x0100, 1) + b"\x01a" * 40000, "FORMERR"),
        (header(0x2900, 1) + question()[12:], "NOTIMP"),
    ],
)
def test_malformed_queries(bench: Bench, message: bytes, rcode: str | None) -> None:
    bench.ask(message)
    assert bench.upstreams[0].received() == []
    assert bench.rcodes() == ([] if rcode is None else [rcode])
    for reply in bench.replies:
        head = DNSRecord.parse(reply).header
        assert (head.id, head.qr, head.opcode) == (7, 1, message[2] >> 3 & 15)


def test_every_truncation_of_a_query(bench: Bench) -> None:
    query = question("host.containers.internal")
    for length in range(len(query)):
        bench.ask(query[:length])
    assert bench.server.counters.malformed == len(query)
    assert bench.rcodes() == ["FORMERR"] * (len(query) - 12)


def test_random_bytes(bench: Bench) -> None:
    rng = random.Random(4712)
    valid = question("host.containers.internal")
    for _ in range(3000):
        bench.ask(rng.randbytes(rng.randrange(100)))
        data = bytearray(valid)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        bench.ask(bytes(data))
    assert bench.server.counters.malformed > 1000


def test_names_that_are_no_text_are_passed_on(bench: Bench) -> None:
    query = header(0x0100, 1) + b"\x04\xff.\xfe\0\0" + b"\0\x01\0\x01"
    bench.ask(query)
    ((received, _),) = bench.upstreams[0].received()
    assert received[2:] == query[2:]
