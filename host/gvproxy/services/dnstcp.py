"""DNS over TCP at the gateway (RFC 7766): local names as over UDP, others from the host's servers.

A connection's queries are answered one after the other, so that each costs one connection to the
outside at the most.
"""

import asyncio

from gvproxy.services import dnsmessage
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnsmessage import Query, Rcode

MAX_CLIENTS = 128
IDLE_TIMEOUT = 10.0
"""Seconds between two queries of a connection (RFC 7766 §6.2.3: a few)."""
SERVER_TIMEOUT = 5.0
"""Seconds a server may take, as resolv.conf(5) has it."""


class DnsTcp:
    """Serves streams of guests; `server` decides about queries."""

    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection, until its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                async with asyncio.timeout(IDLE_TIMEOUT):
                    message = await _receive(reader)
                reply = await self._answer(message)
                if reply is not None:
                    _send(writer, reply)
                    async with asyncio.timeout(IDLE_TIMEOUT):
                        await writer.drain()
        except (EOFError, OSError):
            pass  # the guest has gone, or says nothing more
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """End what is waited for."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, message: bytes) -> bytes | None:
        query = self._server.examine(message)
        if not isinstance(query, Query):
            return query
        for address in self._server.servers(now=asyncio.get_running_loop().time()):
            try:
                async with asyncio.timeout(SERVER_TIMEOUT):
                    return await _ask(address, message)
            except (EOFError, OSError):
                continue
        return dnsmessage.reply(query, Rcode.SERVFAIL)


async def _ask(address: tuple[str, int], message: bytes) -> bytes:
    """Return a server's answer; raises OSError and EOFError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        _send(writer, message)
        reply = await _receive(reader)
    finally:
        writer.close()
    if reply[:2] != message[:2]:
        raise EOFError("the answer is to another query")
    return reply


async def _receive(reader: asyncio.StreamReader) -> bytes:
    """Read a message behind its length (RFC 1035 §4.2.2)."""
    size = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(size)


def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(len(message).to_bytes(2, "big") + message)
