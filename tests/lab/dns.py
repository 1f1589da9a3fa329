"""A resolver with a few names, for the world outside; run as a program."""

import sys
from pathlib import Path

from dnslib import AAAA, MX, QTYPE, RCODE, RR, TXT, A
from dnslib.server import BaseResolver, DNSServer

NAME = "www.outside.test"
ADDRESS = "203.0.113.7"
TTL = 1234
RECORDS = {
    (NAME, "A"): A(ADDRESS),
    ("kept.outside.test", "A"): A(ADDRESS),
    (NAME, "AAAA"): AAAA("2001:db8::7"),
    (NAME, "MX"): MX("mail.outside.test", 10),
    ("long.outside.test", "TXT"): TXT(["x" * 250] * 12),
}
"""The long one does not fit into a datagram without EDNS."""
REFUSED = "refused.outside.test"


def command(address: str) -> list[str | Path]:
    """Return the command that answers at `address`, port 53, and prints `ready`."""
    return [sys.executable, "-P", "-u", Path(__file__), address]


class _Resolver(BaseResolver):  # type: ignore[misc]
    def resolve(self, request, handler):  # type: ignore[no-untyped-def]
        name, kind = str(request.q.qname).rstrip(".").lower(), QTYPE[request.q.qtype]
        reply = request.reply()
        if name == REFUSED:
            reply.header.rcode = RCODE.REFUSED
        elif (name, kind) in RECORDS:
            rdata = RECORDS[name, kind]
            reply.add_answer(RR(request.q.qname, request.q.qtype, ttl=TTL, rdata=rdata))
        elif not any(name == known for known, _ in RECORDS):
            reply.header.rcode = RCODE.NXDOMAIN
        return reply


def main(address: str) -> None:
    """Answer for ever."""
    servers = [DNSServer(_Resolver(), address=address, tcp=tcp) for tcp in (False, True)]
    servers[0].start_thread()
    print("ready")
    servers[1].start()


if __name__ == "__main__":
    main(sys.argv[1])
