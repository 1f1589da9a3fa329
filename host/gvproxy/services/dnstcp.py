"""DNS over TCP at the gateway (RFC 7766): local names as over UDP, others from the host's servers.

The queries of a connection are answered as soon as each is, whatever their order (§7).  What is to
be forwarded takes a connection to the outside each; they count as queries over UDP do, and what is
too many fails at once: a server that hangs delays its own queries.
"""

import asyncio

from gvproxy.limits import Owner, Quota
from gvproxy.services import dnsmessage
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnsmessage import Query, Rcode

MAX_PIPELINED = 32
"""Queries of one connection that wait; the next is read when one has its answer."""
IDLE_TIMEOUT = 10.0
"""Seconds without a query, and without one that waits (RFC 7766 §6.2.3: a few)."""
SERVER_TIMEOUT = 5.0
"""Seconds a server may take, as resolv.conf(5) has it."""


class DnsTcp:
    """Serves streams of guests; `server` decides about queries."""

    def __init__(self, server: DnsServer, quota: Quota) -> None:
        """`quota` is of queries that are being forwarded."""
        self.server = server
        self._quota = quota
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection, until its end."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except asyncio.CancelledError:
            # By `close`, asyncio's streams take it for a failure (Python 3.11): a traceback each.
            if not self._closing:
                raise
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Client(self, reader, writer).serve()
        except* (EOFError, OSError):
            pass  # the guest has gone, or says nothing more

    async def close(self) -> None:
        """End what is waited for."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, query: Query, message: bytes, owner: Owner = None) -> bytes:
        """Return the answer of the first of the host's servers that has one, else a failure."""
        last = dnsmessage.reply(query, Rcode.SERVFAIL)
        if not self._quota.take(owner):
            return last
        try:
            for address in self.server.servers(now=asyncio.get_running_loop().time()):
                try:
                    async with asyncio.timeout(SERVER_TIMEOUT):
                        reply = await _ask(address, message)
                except (EOFError, OSError):
                    continue
                if not dnsmessage.is_answer(reply, query, query.ident):
                    continue
                if dnsmessage.failure(reply) is None:
                    return reply
                last = reply
        finally:
            self._quota.give(owner)
        return last


class _Client:
    """One connection of a guest's."""

    def __init__(
        self, owner: DnsTcp, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._owner = owner
        self._reader = reader
        self._writer = writer
        self._slots = asyncio.Semaphore(MAX_PIPELINED)
        self._waiting = 0

    async def serve(self) -> None:
        """Answer what is known at once, and have tasks wait for the rest.

        Raises a group of OSError and EOFError when the connection is over.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            while (message := await self._receive()) is not None:
                now = loop.time()
                decided = self._owner.server.examine(message, now=now, stream=True)
                if isinstance(decided, Query):
                    await self._slots.acquire()
                    tasks.create_task(self._forward(decided, message, now))
                elif decided is not None:
                    await _send(self._writer, decided)
                # What has come would be answered in one turn of the loop, of all connections.
                await asyncio.sleep(0)

    async def _forward(self, query: Query, message: bytes, now: float) -> None:
        self._waiting += 1
        try:
            guest = self._writer.get_extra_info("guest")
            reply = await self._owner.ask(query, message, guest)
            self._owner.server.cache.keep(query, reply, now)
            await _send(self._writer, reply)
        finally:
            self._waiting -= 1
            self._slots.release()

    async def _receive(self) -> bytes | None:
        """Return the next query, None at the end; raises TimeoutError when nobody waits."""
        head = b""
        while not head:
            try:
                async with asyncio.timeout(IDLE_TIMEOUT):
                    head = await self._reader.read(1)
            except TimeoutError:
                if not self._waiting:
                    raise
            else:
                if not head:
                    return None
        async with asyncio.timeout(IDLE_TIMEOUT):
            head += await self._reader.readexactly(1)
            return await self._reader.readexactly(int.from_bytes(head, "big"))


async def _ask(address: tuple[str, int], message: bytes) -> bytes:
    """Return a server's answer; raises OSError and EOFError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        await _send(writer, message)
        size = int.from_bytes(await reader.readexactly(2), "big")
        return await reader.readexactly(size)
    finally:
        writer.close()


async def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Write a message behind its length (RFC 1035 §4.2.2), as fast as it is read."""
    writer.write(len(message).to_bytes(2, "big") + message)
    async with asyncio.timeout(IDLE_TIMEOUT):
        await writer.drain()
