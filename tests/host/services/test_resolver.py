"""The host's name servers, asked one after the other: those that fail, and many queries."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop
from dnslib import RCODE, DNSRecord

from gvproxy.limits import SEARCH_INTERVAL, Limit, Quota
from gvproxy.services.dns import DnsServer
from gvproxy.services.followed import CHECK_INTERVAL
from gvproxy.services.resolvconf import ResolvConf
from gvproxy.services.resolver import TIMEOUT, Resolver
from tests.host.stack.bench import Port
from tests.lab.limits import no_descriptors

from .naming import make_names
from .upstream import Bench, Upstream, failing, question, respond


@pytest.fixture(scope="module", autouse=True)
def _what_uvloop_keeps() -> None:
    """Let libuv open the pipe it never closes, before descriptors are counted."""
    uvloop.new_event_loop().close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


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
