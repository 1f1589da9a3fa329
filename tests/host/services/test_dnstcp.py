"""DNS over TCP: several queries of a connection, servers that fail, and its end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from dnslib import RCODE, RR, A, DNSRecord

from gvproxy.config import configure
from gvproxy.services import dnstcp
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnstcp import DnsTcp

Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


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


def run(path: Path, scenario: Callable[[Client], Awaitable[None]], *answerers: Answerer) -> None:
    """Let a client talk to the server, which has these servers behind it."""

    async def live() -> None:
        outside = [await asyncio.start_server(one, "127.0.0.1", 0) for one in answerers]
        server = DnsServer(configure().zones, None)  # type: ignore[arg-type]
        addresses = tuple(one.sockets[0].getsockname() for one in outside)
        server.servers = lambda *, now: addresses  # type: ignore[method-assign]
        tcp = DnsTcp(server)
        async with await asyncio.start_unix_server(tcp.serve, path), asyncio.timeout(20):
            client = Client(*await asyncio.open_unix_connection(path))
            await scenario(client)
            await tcp.close()
            client.writer.close()
        for one in outside:
            one.close()
        assert not tcp._tasks

    asyncio.run(live())


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
        reply.add_answer(RR(asked.q.qname, rdata=A(f"10.0.0.{number}")))
    data = reply.pack()
    writer.write(len(data).to_bytes(2, "big") + data)
    writer.close()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(2)
    writer.close()


async def says_something_else(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(2)
    writer.write(b"\0\x0c" + bytes(12))
    writer.close()


async def stays_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def test_queries_of_one_connection_are_answered_in_turn(tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        client.send(
            query("host.containers.internal", 1),
            query("www.test", 2),
            query("x.docker.internal", 3),
        )
        local, forwarded, absent = [await client.receive() for _ in range(3)]
        assert [one.header.id for one in (local, forwarded, absent)] == [1, 2, 3]
        assert str(local.rr[0].rdata) == "192.168.127.254"
        assert len(forwarded.rr) == 200
        assert absent.header.rcode == RCODE.NXDOMAIN

    run(tmp_path / "s", scenario, answers)


@pytest.mark.parametrize("bad", [hangs_up, says_something_else, stays_silent])
def test_a_server_that_fails_is_followed_by_the_next(
    tmp_path: Path, bad: Answerer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bad is stays_silent:
        monkeypatch.setattr(dnstcp, "SERVER_TIMEOUT", 0.05)

    async def scenario(client: Client) -> None:
        client.send(query("www.test"))
        assert len((await client.receive()).rr) == 200

    run(tmp_path / "s", scenario, bad, answers)


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
