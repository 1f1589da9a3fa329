"""The DNS server in front of stand-in name servers on loopback, with a clock set by hand."""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSRecord

from gvproxy.limits import SEARCH_INTERVAL, Limit, Quota
from gvproxy.services.dns import DnsServer
from gvproxy.services.followed import CHECK_INTERVAL
from gvproxy.services.resolvconf import ResolvConf
from gvproxy.services.resolver import TIMEOUT, Resolver
from tests.host.stack.bench import Port
from tests.lab.limits import no_descriptors
from tests.manual_loop import ManualLoop

from .naming import make_names


class Upstream:
    """A name server that does what the test says."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, port))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]

    def received(self) -> list[tuple[bytes, tuple[str, int]]]:
        found = []
        while True:
            try:
                found.append(self.sock.recvfrom(65535))
            except BlockingIOError:
                return found

    def answer(self, make: Callable[[bytes], bytes]) -> int:
        """Answer all queries that have come, and say how many there were."""
        queries = self.received()
        for query, client in queries:
            self.sock.sendto(make(query), client)
        return len(queries)


class Bench:
    """A DNS server with three name servers behind it."""

    def __init__(self, folder: Path) -> None:
        first = Upstream("127.0.0.1")
        self.upstreams = [first, *(Upstream(f"127.0.0.{n}", first.port) for n in (2, 3))]
        self.loop = ManualLoop()
        self.path = folder / "resolv.conf"
        self.list_servers(1)
        self.replies: list[bytes] = []
        self.make()

    def make(self, limit: int = 4096, **options: int) -> None:
        quota = Quota(Limit(limit, limit))
        conf = ResolvConf(self.path, self.upstreams[0].port)
        self.resolver = Resolver(conf, self.loop.as_loop(), quota=quota, **options)  # type: ignore[arg-type]
        self.server = DnsServer(make_names(), self.resolver)

    def list_servers(self, count: int) -> None:
        lines = [f"nameserver 127.0.0.{number + 1}\n" for number in range(count)]
        self.path.write_text("".join(lines))

    def ask(self, query: bytes) -> None:
        self.server.handle(query, self.replies.append, now=self.loop.now)

    def rcodes(self) -> list[str]:
        return [RCODE[DNSRecord.parse(reply).header.rcode] for reply in self.replies]

    def close(self) -> None:
        self.resolver.close()
        assert not self.loop.readers
        assert not self.loop.timers
        for upstream in self.upstreams:
            upstream.sock.close()


@pytest.fixture(scope="module", autouse=True)
def _what_uvloop_keeps() -> None:
    """Let libuv open the pipe it never closes, before descriptors are counted."""
    uvloop.new_event_loop().close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def question(name: str = "www.Example.com", kind: str = "A", ident: int = 0x1234) -> bytes:
    query = DNSRecord.question(name, kind)
    query.header.id = ident
    return bytes(query.pack())


def respond(query: bytes, rcode: int = RCODE.NOERROR) -> bytes:
    reply = DNSRecord.parse(query).reply()
    reply.header.rcode = rcode
    if rcode == RCODE.NOERROR:
        reply.add_answer(RR(reply.q.qname, QTYPE.A, ttl=77, rdata=A("192.0.2.1")))
    return bytes(reply.pack())


def failing(rcode: int) -> Callable[[bytes], bytes]:
    return lambda query: respond(query, rcode)


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


# Servers that fail


def test_a_silent_server_is_followed_by_the_next(bench: Bench) -> None:
    bench.list_servers(3)
    bench.ask(question())
    bench.loop.advance(TIMEOUT - 0.001)
    assert bench.upstreams[1].received() == []
    bench.loop.advance(0.001)
    assert len(bench.upstreams[1].received()) == 1
    bench.loop.advance(TIMEOUT)
    bench.upstreams[2].answer(respond)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]
    assert bench.resolver.counters.timeouts == 2


def test_all_servers_silent(bench: Bench) -> None:
    bench.list_servers(3)
    bench.ask(question())
    bench.loop.advance(3 * TIMEOUT - 0.001)
    assert bench.replies == []
    bench.loop.advance(0.001)
    assert bench.rcodes() == ["SERVFAIL"]
    assert DNSRecord.parse(bench.replies[0]).header.id == 0x1234
    assert len(bench.resolver) == 0


def test_a_late_answer_is_lost(bench: Bench) -> None:
    bench.list_servers(2)
    bench.ask(question())
    bench.loop.advance(TIMEOUT)
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    assert bench.replies == []
    bench.upstreams[1].answer(respond)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]


def test_a_closed_port_is_known_at_once(bench: Bench) -> None:
    bench.list_servers(2)
    bench.upstreams[0].sock.close()
    bench.ask(question())
    bench.loop.run()
    bench.upstreams[1].answer(respond)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]
    assert bench.resolver.counters.timeouts == 0


def test_all_ports_closed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    bench.list_servers(3)
    for upstream in bench.upstreams:
        upstream.sock.close()
    bench.ask(question())
    bench.loop.run()
    assert bench.rcodes() == ["SERVFAIL"]
    asked = "www.example.com (type 1)"
    assert caplog.messages == [
        *(f"name server 127.0.0.{n}, asked for {asked}: Connection refused" for n in (1, 2, 3)),
        "names are not looked up: name server 127.0.0.3: Connection refused",
        f"no name server has an answer for {asked}",
    ]


@pytest.mark.parametrize("rcode", ["REFUSED", "SERVFAIL", "NOTIMP"])
def test_a_server_that_refuses_is_followed_by_the_next(bench: Bench, rcode: str) -> None:
    bench.list_servers(2)
    bench.ask(question())
    bench.upstreams[0].answer(failing(getattr(RCODE, rcode)))
    bench.loop.run()
    assert bench.replies == []
    bench.upstreams[1].answer(respond)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]


def test_the_last_refusal_is_the_answer(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")
    bench.list_servers(2)
    bench.ask(question())
    bench.upstreams[0].answer(failing(RCODE.REFUSED))
    bench.loop.run()
    bench.loop.advance(TIMEOUT)
    assert bench.rcodes() == ["REFUSED"]
    asked = "www.example.com (type 1)"
    assert caplog.messages == [
        f"name server 127.0.0.1, asked for {asked}: REFUSED",
        f"name server 127.0.0.2, asked for {asked}: no answer",
        f"no name server has an answer for {asked}",
    ]


def test_no_server_at_all(bench: Bench) -> None:
    bench.path.write_text("")
    bench.ask(question())
    assert bench.rcodes() == ["SERVFAIL"]


def test_an_address_without_route_is_passed_over(bench: Bench) -> None:
    bench.path.write_text("nameserver 255.255.255.255\nnameserver 127.0.0.1\n")
    bench.ask(question())
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]


def test_new_servers_are_used_without_a_restart(bench: Bench) -> None:
    bench.ask(question())
    bench.path.write_text("nameserver 127.0.0.2\n")
    bench.loop.advance(1.0)
    bench.ask(question())
    assert [len(upstream.received()) for upstream in bench.upstreams] == [1, 1, 0]
    assert bench.server.servers(now=bench.loop.now) == (("127.0.0.2", bench.upstreams[0].port),)


# Many queries


def test_a_hung_server_delays_its_own_queries_only(bench: Bench) -> None:
    for ident in range(200):  # an unread socket holds 256
        bench.ask(question(f"hung{ident}.example.com", ident=ident))
    hung = bench.upstreams[0].received()
    bench.loop.advance(1.0)
    bench.ask(question("quick.example.com"))
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    assert bench.rcodes() == ["NOERROR"]
    assert len(hung) == len(bench.resolver) == 200
    bench.loop.advance(1.0)
    assert bench.rcodes() == ["NOERROR"] + ["SERVFAIL"] * len(hung)


def test_queries_of_a_guest_that_went_make_room(bench: Bench) -> None:
    bench.make(limit=10)
    for _ in range(5):
        guest = Port()
        guest.attached = True
        for _ in range(8):
            bench.server.handle(question(), bench.replies.append, now=bench.loop.now, owner=guest)
        guest.attached = False
        bench.loop.now += 0.01
    refused = len(bench.replies)
    bench.loop.now += SEARCH_INTERVAL
    bench.server.handle(question(), bench.replies.append, now=bench.loop.now, owner=Port())
    assert len(bench.replies) == refused, "it waits for its answer"
    assert bench.resolver._quota.used == len(bench.resolver)
    bench.resolver.close()


def test_one_guest_leaves_room_for_the_queries_of_others(bench: Bench) -> None:
    bench.make(limit=10)
    greedy = Port()
    greedy.attached = True
    for _ in range(20):
        bench.server.handle(question(), bench.replies.append, now=bench.loop.now, owner=greedy)
    refused = bench.rcodes()
    assert refused == ["SERVFAIL"] * 11
    bench.server.handle(question(), bench.replies.append, now=bench.loop.now, owner=Port())
    assert bench.rcodes() == refused, "it waits for its answer"
    bench.loop.advance(30)
    assert bench.resolver._quota.used == 0


def test_beyond_the_limit_queries_fail_at_once(bench: Bench) -> None:
    bench.make(limit=3)
    for _ in range(5):
        bench.ask(question())
    assert bench.rcodes() == ["SERVFAIL"] * 2
    assert bench.resolver.counters.refused == 2
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    bench.ask(question("other.example.com"))
    assert len(bench.upstreams[0].received()) == 1


def test_what_was_asked_before_is_not_asked_again(bench: Bench) -> None:
    bench.ask(question(ident=1))
    assert bench.upstreams[0].answer(respond) == 1
    bench.loop.run()
    bench.loop.advance(7.0)
    bench.ask(question("WWW.example.com", ident=2))
    first, second = (DNSRecord.parse(reply) for reply in bench.replies)
    assert bench.upstreams[0].received() == []
    assert (second.header.id, str(second.q.qname)) == (2, "WWW.example.com.")
    assert (first.rr[0].ttl, second.rr[0].ttl) == (77, 70)
    bench.loop.advance(70.0)
    bench.ask(question())
    assert len(bench.upstreams[0].received()) == 1


def test_failures_are_asked_again(bench: Bench) -> None:
    for _ in range(2):
        bench.ask(question())
        assert bench.upstreams[0].answer(failing(RCODE.SERVFAIL)) == 1
        bench.loop.run()
    assert bench.rcodes() == ["SERVFAIL"] * 2


def test_other_servers_may_answer_otherwise(bench: Bench) -> None:
    """A VPN comes up, and with it other servers."""
    bench.ask(question())
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    bench.list_servers(2)
    bench.loop.advance(2.0)
    bench.ask(question())
    assert len(bench.upstreams[0].received()) == 1


def test_one_timer_serves_all_and_none_is_left(bench: Bench) -> None:
    for _ in range(20):
        bench.ask(question())
        bench.loop.advance(0.01)
    assert len(bench.loop.timers) == 1
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    assert len(bench.replies) == 20
    bench.loop.advance(TIMEOUT)
    assert bench.loop.timers == []
    assert bench.loop.readers == {}
    assert bench.resolver.counters.timeouts == 0


def test_queries_of_different_times_run_out_in_turn(bench: Bench) -> None:
    bench.ask(question())
    bench.loop.advance(0.5)
    bench.ask(question())
    bench.loop.advance(TIMEOUT - 0.5)
    assert bench.rcodes() == ["SERVFAIL"]
    bench.loop.advance(0.5)
    assert bench.rcodes() == ["SERVFAIL"] * 2


def test_without_descriptors_a_query_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> socket.socket:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("gvproxy.services.resolver.socket.socket", full)
    bench.ask(question())
    assert bench.rcodes() == ["SERVFAIL"]


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_in_a_real_loop(new_loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path) -> None:
    count = 1000

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        upstream = Upstream("127.0.0.1")
        # A name server reads as the queries come; its socket holds some hundred of them.
        loop.add_reader(upstream.sock, upstream.answer, respond)
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 127.0.0.1\n")
        resolver = Resolver(ResolvConf(path, upstream.port), loop, quota=Quota(Limit(4096, 4096)))
        server = DnsServer(make_names(), resolver)
        done = [loop.create_future() for _ in range(count)]
        for ident, future in enumerate(done):
            query = question(f"n{ident}.example.com", ident=ident)
            server.handle(query, future.set_result, now=loop.time())
            if not ident % 100:
                await asyncio.sleep(0)
        replies = await asyncio.gather(*done)
        for ident, reply in enumerate(replies):
            assert reply[:2] == ident.to_bytes(2, "big")
            assert f"n{ident}".encode() in reply
        resolver.close()
        loop.remove_reader(upstream.sock)
        upstream.sock.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


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


def test_no_name_server_is_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Nor anything else, until resolv.conf has one again."""
    bench.list_servers(0)
    for _ in range(3):
        bench.ask(question())
    bench.loop.run()
    assert bench.rcodes() == ["SERVFAIL"] * 3
    why = "the host's resolv.conf has no name server"
    assert caplog.messages == [f"names are not looked up: {why}"]
    bench.list_servers(1)
    bench.loop.advance(CHECK_INTERVAL)
    bench.ask(question())
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    assert bench.rcodes()[3:] == ["NOERROR"]


def test_no_descriptor_for_a_query(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.list_servers(1)
    assert bench.resolver.resolv_conf.servers(bench.loop.now)
    with no_descriptors():
        bench.ask(question())
        bench.ask(question())
    assert bench.rcodes() == ["SERVFAIL"] * 2
    assert caplog.messages == [
        "names are not looked up: name server 127.0.0.1: Too many open files"
    ]
    bench.ask(question())
    bench.upstreams[0].answer(respond)
    bench.loop.run()
    assert bench.rcodes()[2:] == ["NOERROR"]
