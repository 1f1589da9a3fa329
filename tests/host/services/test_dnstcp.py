"""DNS over TCP: several queries of a connection, servers that fail, and its end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from dnslib import RCODE, RR, A, DNSRecord

from gvproxy.limits import Limit, Limits, Quota
from gvproxy.services import dnstcp
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnstcp import DnsTcp

from .naming import make_names

Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LIMIT = Limits().dns_queries


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *messages: bytes) -> None:
        self.writer.write(b"".join(len(m).to_bytes(2, "big") + m for m in messages))

    async def receive(self) -> DNSRecord:
        size = int.from_bytes(await self.reader.readexactly(2), "big")
        return DNSRecord.parse(await self.reader.readexactly(size))

    async def ended(self) -> bool:
        return await self.reader.read() == b""


def run(
    path: Path,
    scenario: Callable[[Client], Awaitable[None]],
    *answerers: Answerer,
    limit: Limit = LIMIT,
) -> None:
    """Let a client talk to the server, which has these servers behind it."""

    failed: list[dict[str, object]] = []

    async def live() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        outside = [await asyncio.start_server(one, "127.0.0.1", 0) for one in answerers]
        server = DnsServer(make_names(), None)  # type: ignore[arg-type]
        addresses = tuple(one.sockets[0].getsockname() for one in outside)
        server.servers = lambda *, now: addresses  # type: ignore[method-assign]
        tcp = DnsTcp(server, Quota(limit))
        async with await asyncio.start_unix_server(tcp.serve, path), asyncio.timeout(20):
            client = Client(*await asyncio.open_unix_connection(path))
            await scenario(client)
            await tcp.close()
            client.writer.close()
        for one in outside:
            one.close()
        assert not tcp._tasks

    asyncio.run(live())
    assert not failed


def query(name: str, ident: int = 7) -> bytes:
    record = DNSRecord.question(name)
    record.header.id = ident
    return bytes(record.pack())


async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that answers what it is asked with more than a datagram holds."""
    size = int.from_bytes(await reader.readexactly(2), "big")
    asked = DNSRecord.parse(await reader.readexactly(size))
    reply = asked.reply()
    for number in range(200):
        reply.add_answer(RR(asked.q.qname, ttl=60, rdata=A(f"10.0.0.{number}")))
    data = reply.pack()
    writer.write(len(data).to_bytes(2, "big") + data)
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(2)
    writer.close()


def says(make: Callable[[bytes], bytes]) -> Answerer:
    """Make a server that answers with whatever is made of the query."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        data = make(await reader.readexactly(size))
        writer.write(len(data).to_bytes(2, "big") + data)
        writer.close()

    return answer


def fails(rcode: int) -> Answerer:
    def reply(message: bytes) -> bytes:
        failed = DNSRecord.parse(message).reply()
        failed.header.rcode = rcode
        return bytes(failed.pack())

    return says(reply)


async def stays_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def test_queries_of_one_connection_are_answered_as_soon_as_each_is(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        await answers(reader, writer)

    async def scenario(client: Client) -> None:
        client.send(query("www.test", 2), query("host.containers.internal", 1))
        local = await client.receive()
        assert local.header.id == 1
        assert str(local.rr[0].rdata) == "192.168.127.254"
        client.send(query("x.docker.internal", 3))
        absent = await client.receive()
        assert (absent.header.id, absent.header.rcode) == (3, RCODE.NXDOMAIN)
        release.set()
        forwarded = await client.receive()
        assert (forwarded.header.id, len(forwarded.rr)) == (2, 200)

    run(tmp_path / "s", scenario, slowly)


def test_a_server_that_hangs_delays_its_own_queries(tmp_path: Path) -> None:
    """Those of other connections, and of its own, go on."""

    async def partly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        message = await reader.readexactly(size)
        if b"hang" in message:
            await reader.read()
            writer.close()
            return
        reply = bytes(DNSRecord.parse(message).reply().pack())
        writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()

    async def scenario(client: Client) -> None:
        client.send(*(query(f"hang{number}.test", number) for number in range(20)))
        client.send(*(query(f"go{number}.test", 100 + number) for number in range(20)))
        idents = {(await client.receive()).header.id for _ in range(20)}
        assert idents == set(range(100, 120))

    run(tmp_path / "s", scenario, partly)


def test_too_many_queries_of_a_connection_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dnstcp, "MAX_PIPELINED", 2)
    asked = 0
    release = asyncio.Event()

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await release.wait()
        await answers(reader, writer)

    async def scenario(client: Client) -> None:
        client.send(*(query(f"www{number}.test", number) for number in range(5)))
        while asked < 2:
            await asyncio.sleep(0)
        client.send(query("host.docker.internal", 9))
        release.set()
        idents = [(await client.receive()).header.id for _ in range(6)]
        assert sorted(idents) == [0, 1, 2, 3, 4, 9]
        assert idents.index(9) > 0

    run(tmp_path / "s", scenario, counts)


def test_too_many_queries_of_all_fail(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(query("one.test", 1), query("two.test", 2))
        replies = [await client.receive() for _ in range(2)]
        assert [(one.header.id, one.header.rcode) for one in replies] == [
            (2, RCODE.SERVFAIL),
            (1, RCODE.NOERROR),
        ]
        client.send(query("three.test", 3))
        assert (await client.receive()).header.rcode == RCODE.NOERROR

    run(tmp_path / "s", scenario, answers, limit=Limit(1, 1))


def test_a_client_that_ends_its_direction_gets_its_answers(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(query("one.test", 1), query("two.test", 2))
        client.writer.write_eof()
        assert {(await client.receive()).header.id for _ in range(2)} == {1, 2}
        assert await client.ended()

    run(tmp_path / "s", scenario, answers)


def test_what_was_asked_before_is_not_asked_again(tmp_path: Path) -> None:
    asked = 0

    async def counts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await answers(reader, writer)

    async def scenario(client: Client) -> None:
        for ident in range(3):
            client.send(query("www.test", ident))
            reply = await client.receive()
            assert (reply.header.id, len(reply.rr)) == (ident, 200)
        assert asked == 1

    run(tmp_path / "s", scenario, counts)


@pytest.mark.parametrize(
    "bad",
    [
        hangs_up,
        stays_silent,
        says(lambda message: message),
        says(lambda message: message[:2]),
        says(lambda message: b""),
        says(lambda message: message[:2] + b"\x81\x80" + bytes(8)),
        says(lambda message: bytes(DNSRecord.parse(query("www.other")).reply().pack())),
        says(lambda message: bytes(DNSRecord.parse(query("www.test", 8)).reply().pack())),
        fails(RCODE.SERVFAIL),
        fails(RCODE.REFUSED),
        fails(RCODE.NOTIMP),
    ],
)
def test_a_server_that_fails_is_followed_by_the_next(
    tmp_path: Path, bad: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bad is stays_silent:
        monkeypatch.setattr(dnstcp, "SERVER_TIMEOUT", 0.05)

    async def scenario(client: Client) -> None:
        client.send(query("www.test"))
        assert len((await client.receive()).rr) == 200

    run(tmp_path / "s", scenario, bad, answers)


def test_the_last_refusal_is_the_answer(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(query("www.test", 9))
        reply = await client.receive()
        assert (reply.header.id, reply.header.rcode) == (9, RCODE.REFUSED)

    run(tmp_path / "s", scenario, fails(RCODE.NOTIMP), fails(RCODE.REFUSED), hangs_up)


def test_a_name_that_does_not_exist_is_an_answer(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(query("www.test"))
        assert (await client.receive()).header.rcode == RCODE.NXDOMAIN

    run(tmp_path / "s", scenario, fails(RCODE.NXDOMAIN), answers)


@pytest.mark.parametrize("servers", [[], [hangs_up]])
def test_where_none_answers_that_is_said(tmp_path: Path, servers: list[Answerer]) -> None:
    async def scenario(client: Client) -> None:
        client.send(query("www.test", 9))
        reply = await client.receive()
        assert (reply.header.id, reply.header.rcode) == (9, RCODE.SERVFAIL)

    run(tmp_path / "s", scenario, *servers)


@pytest.mark.parametrize("message", [b"", b"abc", bytes(11)])
def test_what_is_no_message_is_passed_over(tmp_path: Path, message: bytes) -> None:
    async def scenario(client: Client) -> None:
        client.send(message, query("host.docker.internal", 2))
        assert (await client.receive()).header.id == 2

    run(tmp_path / "s", scenario)


def test_a_malformed_query_is_told_so(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(query("www.test")[:-1])
        assert (await client.receive()).header.rcode == RCODE.FORMERR

    run(tmp_path / "s", scenario)


def test_who_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dnstcp, "IDLE_TIMEOUT", 0.02)

    async def scenario(client: Client) -> None:
        client.writer.write(b"\0\x0cab")
        assert await client.ended()

    run(tmp_path / "s", scenario)


def test_the_end_does_not_wait_for_a_server(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    async def scenario(client: Client) -> None:
        client.send(query("www.test"))
        await asked.wait()

    run(tmp_path / "s", scenario, never)


def test_many_queries_at_once_leave_the_loop_to_others(tmp_path: Path) -> None:
    """A segment has room for thousands of them."""
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def scenario(client: Client) -> None:
        running = asyncio.create_task(others())
        client.send(*(query("gateway.containers.internal", number) for number in range(500)))
        for number in range(500):
            assert (await client.receive()).header.id == number
        running.cancel()

    run(tmp_path / "dns", scenario)
    assert turns >= 500
