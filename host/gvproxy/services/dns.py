"""The DNS server at the gateway: local zones are answered here, all else by the host's servers.

`dnsmessage` reads a query, `zones` knows the local names, `resolver` asks the host's servers.
Nothing is cached; the servers' answers, TTLs and RCODEs are the guest's as they came.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gvproxy.config import Zone
from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import MessageError, Rcode
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
        self.counters.queries += 1
        try:
            query = dnsmessage.parse(message)
        except MessageError:
            self.counters.malformed += 1
            error = dnsmessage.format_error(message)
            if error is not None:
                answer(error)
            return
        if query.flags & dnsmessage.OPCODE_MASK:
            answer(dnsmessage.reply(query, Rcode.NOTIMP))
            return
        local = self.zones.answer(query)
        if local is not None:
            self.counters.local += 1
            answer(local)
            return
        self._resolver.forward(query, message, answer, now)

    def servers(self, *, now: float) -> tuple[tuple[str, int], ...]:
        """Return address and port of the host's name servers, for queries over TCP."""
        return self._resolver.resolv_conf.servers(now)
