"""Passes DNS queries on to the host's name servers over UDP, as they are.

Each query goes out under a fresh random id from a socket of its own, connected to the server.  So
the kernel picks an unpredictable port for every query and takes datagrams from that server alone
(RFC 5452 §9), and a server that is not there is known by ECONNREFUSED instead of by waiting.  The
price is a descriptor for each query in flight, and `limit` bounds them; a shared socket would need
fewer and let an attacker guess at one port for as long as it lives.

A server that stays silent, refuses or fails is followed by the next; the last one's answer, if
there is one, is the client's.  One timer serves all queries, and none runs when nothing waits.
"""

import logging
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from dataclasses import dataclass
from secrets import randbits

from gvproxy.complaint import Complaint
from gvproxy.limits import Quota
from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import Query, Rcode
from gvproxy.services.resolvconf import ResolvConf
from gvproxy.stack.port import Port
from taplink.text import reason

log = logging.getLogger(__name__)

TIMEOUT = 2.0
"""Seconds for one server; with three of them a client that waits 5 s and asks again is answered."""
_MAX_MESSAGE = 65535

Answer = Callable[[bytes], None]
"""Takes the reply to a query, once."""


@dataclass(slots=True)
class Counters:
    """What became of the queries."""

    forwarded: int = 0
    answered: int = 0
    failed: int = 0
    timeouts: int = 0
    mismatched: int = 0
    refused: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    """A query in flight, at the first of `servers`."""

    query: Query
    message: bytes
    answer: Answer
    owner: Port | None
    servers: tuple[tuple[str, int], ...]
    ident: int = 0
    sock: socket.socket | None = None
    deadline: float = 0.0
    why: str = "the host's resolv.conf has no name server"
    """Nothing has come of it yet."""
    last: bytes | None = None
    """A failure some server reported, with the client's id."""


class Resolver:
    """The host's name servers, asked one after the other."""

    def __init__(
        self,
        resolv_conf: ResolvConf,
        loop: AbstractEventLoop,
        *,
        timeout: float = TIMEOUT,
        quota: Quota,
        random_id: Callable[[], int] = lambda: randbits(16),
    ) -> None:
        """`timeout` is in seconds; beyond the `quota` of queries in flight others fail at once."""
        self.counters = Counters()
        self.resolv_conf = resolv_conf
        self._loop = loop
        self._timeout = timeout
        self._quota = quota
        self._random_id = random_id
        # All wait equally long, so the order of insertion is that of their deadlines.
        self._pending: dict[_Pending, None] = {}
        self._timer: TimerHandle | None = None
        self._complaint = Complaint(log)

    def __len__(self) -> int:
        return len(self._pending)

    def forward(
        self, query: Query, message: bytes, answer: Answer, now: float, owner: Port | None = None
    ) -> None:
        """Ask the host's name servers; `answer` gets theirs, or a SERVFAIL.

        `message` is the query as it came; `now` is in seconds of the loop's clock; `owner` is the
        guest that asks.
        """
        if not self._quota.has_room(owner):
            self._drop_deserted(now)
        if not self._quota.has_room(owner):
            self._quota.refused += 1
            self.counters.refused += 1
            log.debug("too many queries at once: %s is not passed on", query)
            answer(dnsmessage.reply(query, Rcode.SERVFAIL))
            return
        self.counters.forwarded += 1
        servers = self.resolv_conf.servers(now)
        self._ask(_Pending(query, message, answer, owner, servers), now)

    def close(self) -> None:
        """Give up all queries; nobody gets an answer any more."""
        for pending in list(self._pending):
            self._release(pending)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ask(self, pending: _Pending, now: float) -> None:
        """Send to the first server that takes it; fail when there is none."""
        while pending.servers:
            try:
                pending.sock = self._open(pending)
            except OSError as error:
                self._pass_over(pending, reason(error))
                continue
            pending.ident = self._random_id()
            pending.deadline = now + self._timeout
            self._pending[pending] = None
            self._quota.hold(pending.owner)
            self._arm()
            try:
                pending.sock.send(pending.ident.to_bytes(2, "big") + pending.message[2:])
            except OSError as error:
                self._release(pending)
                self._pass_over(pending, reason(error))
                continue
            return
        self.counters.failed += 1
        if pending.last is None:
            self._complaint.make(now, "names are not looked up: %s", pending.why)
        log.debug("no name server has an answer for %s", pending.query)
        pending.answer(pending.last or dnsmessage.reply(pending.query, Rcode.SERVFAIL))

    def _open(self, pending: _Pending) -> socket.socket:
        """Make a socket for the server that is asked next, and look at it; raises OSError."""
        server = pending.servers[0]
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            sock.connect(server)
            self._loop.add_reader(sock, self._readable, pending)
        except BaseException:
            sock.close()
            raise
        return sock

    def _drop_deserted(self, now: float) -> None:
        """Give up the queries of guests that have gone, or come back since."""
        if self._quota.may_search(now):
            for pending in list(self._pending):
                if pending.owner is not None and not pending.owner.attached:
                    self._release(pending)

    def _next(self, pending: _Pending, why: str, now: float) -> None:
        self._release(pending)
        self._pass_over(pending, why)
        self._ask(pending, now)

    def _pass_over(self, pending: _Pending, why: str) -> None:
        log.debug("name server %s, asked for %s: %s", pending.servers[0][0], pending.query, why)
        pending.why = f"name server {pending.servers[0][0]}: {why}"
        pending.servers = pending.servers[1:]

    def _release(self, pending: _Pending) -> None:
        del self._pending[pending]
        self._quota.give(pending.owner)
        if pending.sock is not None:
            self._loop.remove_reader(pending.sock)
            pending.sock.close()
            pending.sock = None

    def _readable(self, pending: _Pending) -> None:
        assert pending.sock is not None
        try:
            message = pending.sock.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError as error:  # ECONNREFUSED and the other ICMP errors
            self._next(pending, reason(error), self._loop.time())
            return
        if not dnsmessage.is_answer(message, pending.query, pending.ident):
            self.counters.mismatched += 1
            return
        reply = pending.query.ident.to_bytes(2, "big") + message[2:]
        failure = dnsmessage.failure(reply)
        if failure is not None:
            pending.last = reply
            self._next(pending, failure.name, self._loop.time())
            return
        self._release(pending)
        self.counters.answered += 1
        pending.answer(reply)

    def _arm(self) -> None:
        if self._timer is None and self._pending:
            self._timer = self._loop.call_at(next(iter(self._pending)).deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._pending:
            pending = next(iter(self._pending))
            if pending.deadline > now:
                break
            self._readable(pending)  # where we were stopped, what came meanwhile was not read yet
            if pending in self._pending and pending.deadline <= now:
                self.counters.timeouts += 1
                self._next(pending, "no answer", now)
        self._arm()
