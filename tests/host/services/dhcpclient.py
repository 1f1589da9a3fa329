"""A DHCP client as the tests have it: dpkt's messages, to a server with a clock set by hand."""

from functools import cache
from ipaddress import IPv4Address

from dpkt import dhcp

from gvproxy.config import Config, configure
from gvproxy.limits import Limits, Quota
from gvproxy.services.dhcp import DhcpServer, Reply
from gvproxy.stack.port import Station
from tests.host.stack.bench import Port

LEASES, LEASES_OF_ONE = Limits().dhcp_leases.total, Limits().dhcp_leases.guest
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
GATEWAY = "192.168.127.1"
FIRST = "192.168.127.3"  # of the pool: .1 is the gateway, .2 the static lease
BROADCAST, BROADCAST_MAC = b"\xff" * 4, b"\xff" * 6
MAX_DATAGRAM = 548  # of 576 bytes, without the IP and UDP headers (RFC 2131 §2)


def ip(text: str) -> bytes:
    return IPv4Address(text).packed


def mac(number: int) -> bytes:
    return b"\x02\x00" + number.to_bytes(4, "big")


def message(
    kind: int,
    client: int | bytes = 1,
    *,
    wanted: str | None = None,
    server: str | None = None,
    ciaddr: str = "0.0.0.0",
    identifier: bytes | None = None,
    flags: int = 0,
    name: bytes | None = None,
    fqdn: bytes | None = None,
) -> bytes:
    options = [(53, bytes((kind,)))]
    if wanted is not None:
        options.append((50, ip(wanted)))
    if server is not None:
        options.append((54, ip(server)))
    if identifier is not None:
        options.append((61, identifier))
    if name is not None:
        options.append((12, name))
    if fqdn is not None:
        options.append((81, fqdn))
    return bytes(
        dhcp.DHCP(
            op=1,
            xid=0x1234,
            flags=flags,
            ciaddr=int(IPv4Address(ciaddr)),
            chaddr=client if isinstance(client, bytes) else mac(client),
            opts=options,
        )
    )


class Client:
    """A server, and what it answers, as text."""

    def __init__(self, config: Config | None = None, search: tuple[str, ...] = ()) -> None:
        config = config or configure()
        self.users: dict[int, bytes] = {}
        self.quota = Quota(Limits().dhcp_leases)
        self.server = DhcpServer(config, lambda now: search, self.users.get, self.quota)
        self.gateway = str(config.gateway_ip)
        self.now = 0.0
        self.reply: Reply | None = None
        self.sender: Station | None = None

    def send(self, data: bytes) -> dhcp.DHCP | None:
        self.reply = self.server.handle(data, now=self.now, sender=self.sender)
        return None if self.reply is None else dhcp.DHCP(self.reply.payload)

    def ask(self, kind: int, client: int | bytes = 1, **options: str | bytes | int) -> str | None:
        """Send a message and return the answer's type and address."""
        answer = self.send(message(kind, client, **options))  # type: ignore[arg-type]
        if answer is None:
            return None
        name = {OFFER: "offer", ACK: "ack", NAK: "nak"}[dict(answer.opts)[53][0]]
        return f"{name} {IPv4Address(answer.yiaddr)}" if answer.yiaddr else name

    def lease(self, client: int | bytes = 1, **options: bytes) -> str:
        """Go through the whole exchange and return the address."""
        offer = self.ask(DISCOVER, client, **options)
        assert offer is not None
        address = offer.removeprefix("offer ")
        granted = self.ask(REQUEST, client, wanted=address, server=self.gateway, **options)
        assert granted == f"ack {address}"
        return address


@cache
def link(number: int) -> Port:
    port = Port()
    port.number, port.attached = number, True
    return port


def sender(number: int, port: int = 0) -> Station:
    return Station(mac(number), link(port), 0.0)
