"""DHCP messages as whole Ethernet frames, since the client speaks over the link itself.

Read RFC 2131 §2 for the fields and RFC 2132 for the options.  Replies are not verified by their
checksums: the host may leave those to the virtio-net header, and the link loses and changes no
bytes.  Options that spill over into `file` and `sname` (RFC 2132 §9.3) are not read.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

import dpkt
from dnslib import DNSBuffer, DNSError
from dnslib.buffer import BufferError as DNSBufferError
from dpkt.dhcp import DHCP
from dpkt.ethernet import ETH_TYPE_IP, Ethernet
from dpkt.ip import IP, IP_PROTO_UDP
from dpkt.udp import UDP

from taplink.dhcp import join_options

SERVER_PORT = 67
CLIENT_PORT = 68
BROADCAST_MAC = b"\xff" * 6
ANY = IPv4Address(0)
BROADCAST = IPv4Address(0xFFFFFFFF)

_PORTS = struct.pack(">HH", SERVER_PORT, CLIENT_PORT)
_BROADCAST_FLAG = 0x8000
_MIN_MESSAGE = 300
"""BOOTP's fixed size (RFC 951 §3); some servers drop what is shorter."""
_MAX_MESSAGE_SIZE = 1472
_MAX_OPTION = 255
_IP_BEGIN = 14


class MessageType(IntEnum):
    """Option 53 (RFC 2132 §9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """The options that are sent or read (RFC 2132, RFC 3397)."""

    SUBNET_MASK = 1
    ROUTER = 3
    DOMAIN_NAME_SERVER = 6
    HOST_NAME = 12
    DOMAIN_NAME = 15
    INTERFACE_MTU = 26
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER_IDENTIFIER = 54
    PARAMETER_REQUEST_LIST = 55
    MAX_MESSAGE_SIZE = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    DOMAIN_SEARCH = 119


_WANTED = bytes(
    (
        Option.SUBNET_MASK,
        Option.ROUTER,
        Option.DOMAIN_NAME_SERVER,
        Option.DOMAIN_NAME,
        Option.INTERFACE_MTU,
        Option.LEASE_TIME,
        Option.SERVER_IDENTIFIER,
        Option.RENEWAL_TIME,
        Option.REBINDING_TIME,
        Option.DOMAIN_SEARCH,
    )
)


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's message; options as they came, of which those the type asks for may be missing."""

    type: MessageType
    xid: int
    yiaddr: IPv4Address
    server_mac: bytes
    options: dict[int, bytes]

    def address(self, option: Option) -> IPv4Address | None:
        """Return the first address of an option, None where there is none."""
        addresses = self.addresses(option)
        return addresses[0] if addresses else None

    def addresses(self, option: Option) -> tuple[IPv4Address, ...]:
        """Return all addresses of an option; bytes that make no whole address are left out."""
        data = self.options.get(option, b"")
        return tuple(IPv4Address(data[at : at + 4]) for at in range(0, len(data) - 3, 4))

    def number(self, option: Option, size: int) -> int | None:
        """Return an option of exactly `size` bytes as a number, None otherwise."""
        data = self.options.get(option, b"")
        return int.from_bytes(data, "big") if len(data) == size else None

    def prefix_length(self) -> int | None:
        """Return the subnet mask's length; None where it is missing or not contiguous."""
        mask = self.number(Option.SUBNET_MASK, 4)
        if mask is None:
            return None
        length = mask.bit_count()
        return length if mask == (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF else None

    def search_domains(self) -> tuple[str, ...]:
        """Return where to look unqualified names up: option 119, else 15; names that are none are
        left out, as what is returned goes into a file of words and lines."""
        buffer = DNSBuffer(self.options.get(Option.DOMAIN_SEARCH, b""))
        names = []
        try:
            while buffer.remaining():
                names.append(buffer.decode_name().idna())
        except (DNSError, DNSBufferError, ValueError):
            pass
        if not names:
            names.append(self.options.get(Option.DOMAIN_NAME, b"").decode("ascii", "replace"))
        return tuple(name.rstrip(".") for name in names if _is_domain(name))


def request(
    message: MessageType,
    *,
    xid: int,
    mac: bytes,
    name: str = "",
    secs: int = 0,
    ciaddr: IPv4Address = ANY,
    requested: IPv4Address | None = None,
    server: IPv4Address | None = None,
    server_mac: bytes | None = None,
    unicast_to: IPv4Address | None = None,
) -> bytes:
    """Build a client's message as an Ethernet frame (RFC 2131 §4.4.1, table 5).

    `name`, `requested` and `server` become options; `unicast_to`, with `server_mac`, is where the
    message goes instead of to everybody, which takes an address of one's own, `ciaddr`.
    """
    options = [(Option.MESSAGE_TYPE, bytes([message]))]
    if requested is not None:
        options.append((Option.REQUESTED_ADDRESS, requested.packed))
    if server is not None:
        options.append((Option.SERVER_IDENTIFIER, server.packed))
    if message in (MessageType.DISCOVER, MessageType.REQUEST):
        options.append((Option.MAX_MESSAGE_SIZE, _MAX_MESSAGE_SIZE.to_bytes(2, "big")))
        options.append((Option.PARAMETER_REQUEST_LIST, _WANTED))
        if name.isascii() and 0 < len(name) <= _MAX_OPTION:
            options.append((Option.HOST_NAME, name.encode()))
    payload = bytes(
        DHCP(
            xid=xid,
            secs=min(secs, 0xFFFF),
            flags=0 if int(ciaddr) else _BROADCAST_FLAG,
            ciaddr=int(ciaddr),
            chaddr=mac.ljust(16, b"\0"),
            opts=options,
        )
    ).ljust(_MIN_MESSAGE, b"\0")
    datagram = UDP(sport=CLIENT_PORT, dport=SERVER_PORT, data=payload, ulen=8 + len(payload))
    packet = IP(
        src=ciaddr.packed,
        dst=(unicast_to or BROADCAST).packed,
        ttl=64,
        p=IP_PROTO_UDP,
        data=datagram,
        len=28 + len(payload),
    )
    destination = server_mac if unicast_to and server_mac else BROADCAST_MAC
    return bytes(Ethernet(src=mac, dst=destination, type=ETH_TYPE_IP, data=packet))


def parse_reply(frame: bytes | memoryview) -> Reply | None:
    """Read a server's message from an Ethernet frame; None for every other frame.

    Called for each small frame while an answer is awaited, so what is no DHCP leaves early.
    """
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != IP_PROTO_UDP:
        return None
    begin = _IP_BEGIN + (frame[14] & 0x0F) * 4
    if frame[begin : begin + 4] != _PORTS or frame[20] & 0x3F or frame[21]:
        return None
    end = begin + int.from_bytes(frame[begin + 4 : begin + 6], "big")
    if end > len(frame):
        return None
    try:
        message = DHCP(bytes(frame[begin + 8 : end]))
    except (dpkt.UnpackError, IndexError, struct.error, ValueError):
        return None
    options = join_options(message.opts)
    try:
        kind = MessageType(options[Option.MESSAGE_TYPE][0])
    except (KeyError, IndexError, ValueError):
        return None
    if message.op != dpkt.dhcp.DHCP_OP_REPLY or message.magic != dpkt.dhcp.DHCP_MAGIC:
        return None
    return Reply(
        type=kind,
        xid=message.xid,
        yiaddr=IPv4Address(message.yiaddr),
        server_mac=bytes(frame[6:12]),
        options=options,
    )


def _is_domain(name: str) -> bool:
    labels = name.rstrip(".").split(".")
    return all(
        0 < len(label) <= 63
        and label.isascii()
        and label.replace("-", "").replace("_", "").isalnum()
        for label in labels
    )
