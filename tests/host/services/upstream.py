"""The DNS server in front of stand-in name servers on loopback, with a clock set by hand."""

import socket
from collections.abc import Callable
from pathlib import Path

from dnslib import QTYPE, RCODE, RR, A, DNSRecord

from gvproxy.limits import Limit, Quota
from gvproxy.services.dns import DnsServer
from gvproxy.services.resolvconf import ResolvConf
from gvproxy.services.resolver import Resolver
from tests.manual_loop import ManualLoop

from .naming import make_names


class Upstream:
    """A name server that does what the test says."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, port))
        self.sock.setblocking(False)
        self.port = self.sock.getsockname()[1]

    def received(self) -> list[tuple[bytes, tuple[str, int]]]:
        found = []
        while True:
            try:
                found.append(self.sock.recvfrom(65535))
            except BlockingIOError:
                return found

    def answer(self, make: Callable[[bytes], bytes]) -> int:
        """Answer all queries that have come, and say how many there were."""
        queries = self.received()
        for query, client in queries:
            self.sock.sendto(make(query), client)
        return len(queries)


class Bench:
    """A DNS server with three name servers behind it."""

    def __init__(self, folder: Path) -> None:
        first = Upstream("127.0.0.1")
        self.upstreams = [first, *(Upstream(f"127.0.0.{n}", first.port) for n in (2, 3))]
        self.loop = ManualLoop()
        self.path = folder / "resolv.conf"
        self.list_servers(1)
        self.replies: list[bytes] = []
        self.make()

    def make(self, limit: int = 4096, **options: int) -> None:
        quota = Quota(Limit(limit, limit))
        conf = ResolvConf(self.path, self.upstreams[0].port)
        self.resolver = Resolver(conf, self.loop.as_loop(), quota=quota, **options)  # type: ignore[arg-type]
        self.server = DnsServer(make_names(), self.resolver)

    def list_servers(self, count: int) -> None:
        lines = [f"nameserver 127.0.0.{number + 1}\n" for number in range(count)]
        self.path.write_text("".join(lines))

    def ask(self, query: bytes) -> None:
        self.server.handle(query, self.replies.append, now=self.loop.now)

    def rcodes(self) -> list[str]:
        return [RCODE[DNSRecord.parse(reply).header.rcode] for reply in self.replies]

    def close(self) -> None:
        self.resolver.close()
        assert not self.loop.readers
        assert not self.loop.timers
        for upstream in self.upstreams:
            upstream.sock.close()


def question(name: str = "www.Example.com", kind: str = "A", ident: int = 0x1234) -> bytes:
    query = DNSRecord.question(name, kind)
    query.header.id = ident
    return bytes(query.pack())


def respond(query: bytes, rcode: int = RCODE.NOERROR) -> bytes:
    reply = DNSRecord.parse(query).reply()
    reply.header.rcode = rcode
    if rcode == RCODE.NOERROR:
        reply.add_answer(RR(reply.q.qname, QTYPE.A, ttl=77, rdata=A("192.0.2.1")))
    return bytes(reply.pack())


def failing(rcode: int) -> Callable[[bytes], bytes]:
    return lambda query: respond(query, rcode)
