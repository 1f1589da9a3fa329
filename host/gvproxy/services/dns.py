"""The DNS server at the gateway: local names are answered here, all else by the host's servers.

`dnsmessage` reads a query, `localnames` has what is known here, `dnscache` what was asked before,
and `resolver` asks the host's servers, whose answers and RCODEs are the guest's as they came.
"""

from dataclasses import dataclass

from gvproxy.services import dnsmessage
from gvproxy.services.dnscache import DnsCache
from gvproxy.services.dnsmessage import MessageError, Query, Rcode
from gvproxy.services.localnames import LocalNames
from gvproxy.services.resolver import Answer, Resolver
from gvproxy.stack.port import Port

PORT = 53
_MAX_MESSAGE = 65535


@dataclass(slots=True)
class Counters:
    """What the guests asked."""

    queries: int = 0
    malformed: int = 0
    local: int = 0


class DnsServer:
    """The server at the gateway's port 53."""

    def __init__(self, names: LocalNames, resolver: Resolver) -> None:
        self.counters = Counters()
        self.names = names
        self.cache = DnsCache()
        self._asked: tuple[tuple[str, int], ...] = ()
        self._resolver = resolver

    def handle(
        self, message: bytes, answer: Answer, *, now: float, owner: Port | None = None
    ) -> None:
        """Take a datagram's payload; `answer` gets the reply, now or later, at most once.

        `now` is in seconds of the loop's clock, `owner` the guest whose it is.  Whatever the
        message holds, nothing is raised.
        """
        decided = self.examine(message, now=now)
        if decided is None:
            return
        if not isinstance(decided, Query):
            answer(decided)
            return
        query = decided

        def answered(reply: bytes) -> None:
            self.cache.keep(query, reply, now)
            answer(reply)

        self._resolver.forward(query, message, answered, now, owner)

    def examine(self, message: bytes, *, now: float, stream: bool = False) -> Query | bytes | None:
        """Return a query that is to be forwarded, or the reply; None where nothing is replied.

        Over a `stream` a reply may be as long as a message can be; one too long is truncated.  The
        answer to what was forwarded is for the cache to `keep`.
        """
        self.counters.queries += 1
        try:
            query = dnsmessage.parse(message)
        except MessageError:
            self.counters.malformed += 1
            return dnsmessage.format_error(message)
        if query.flags & dnsmessage.OPCODE_MASK:
            return dnsmessage.reply(query, Rcode.NOTIMP)
        limit = _MAX_MESSAGE if stream else query.limit
        local = self.names.answer(query, now)
        if local is not None:
            self.counters.local += 1
            if len(local) > limit:
                return dnsmessage.reply(query, Rcode.NOERROR, flags=dnsmessage.AA | dnsmessage.TC)
            return local
        servers = self.servers(now=now)
        if servers != self._asked:  # others may answer otherwise, as those of a VPN do
            self._asked = servers
            self.cache.clear()
        return self.cache.find(query, limit, now) or query

    def servers(self, *, now: float) -> tuple[tuple[str, int], ...]:
        """Return address and port of the host's name servers, for queries over TCP."""
        return self._resolver.resolv_conf.servers(now)
