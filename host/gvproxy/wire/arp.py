"""ARP for IPv4 over Ethernet (RFC 826)."""

from struct import Struct

# hardware type, protocol type, their lengths, operation, sender MAC and IP, target MAC and IP
PACKET = Struct("!HHBBH6s4s6s4s")
PREFIX = (1, 0x0800, 6, 4)
REQUEST = 1
REPLY = 2


def build(
    operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes
) -> bytes:
    """Return an ARP packet without its Ethernet header."""
    return PACKET.pack(*PREFIX, operation, sender_mac, sender, target_mac, target)
