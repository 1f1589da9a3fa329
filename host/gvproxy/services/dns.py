"""The DNS server at the gateway: local zones are answered here, all else by the host's servers.

`dnsmessage` reads a query, `zones` knows the local names, `resolver` asks the host's servers.
Nothing is cached; the servers' answers, TTLs and RCODEs are the guest's as they came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gvproxy.config import Zone
from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import MessageError, Query, Rcode
from gvproxy.services.resolver import Answer, Resolver
from gvproxy.services.zones import Zones

PORT = 53


@dataclass(slots=True)
class Counters:
    """What the guests asked."""

    queries: int = 0
    malformed: int = 0
    local: int = 0


class DnsServer:
    """The server at the gateway's port 53."""

    def __init__(self, zones: Sequence[Zone], resolver: Resolver) -> None:
        self.counters = Counters()
        self.zones = Zones(zones)
        self._resolver = resolver

    def handle(self, message: bytes, answer: Answer, *, now: float) -> None:
        """Take a datagram's payload; `answer` gets the reply, now or later, at most once.

        `now` is in seconds of the loop's clock.  Whatever the message holds, nothing is raised.
        """
        decided = self.examine(message)
        if isinstance(decided, Query):
            self._resolver.forward(decided, message, answer, now)
        elif decided is not None:
            answer(decided)

    def examine(self, message: bytes) -> Query | bytes | None:
        """Return a query that is to be forwarded, or the reply; None where nothing is replied."""
        self.counters.queries += 1
        try:
            query = dnsmessage.parse(message)
        except MessageError:
            self.counters.malformed += 1
            return dnsmessage.format_error(message)
        if query.flags & dnsmessage.OPCODE_MASK:
            return dnsmessage.reply(query, Rcode.NOTIMP)
        local = self.zones.answer(query)
        if local is None:
            return query
        self.counters.local += 1
        return local

    def servers(self, *, now: float) -> tuple[tuple[str, int], ...]:
        """Return address and port of the host's name servers, for queries over TCP."""
        return self._resolver.resolv_conf.servers(now)
