"""A guest's frames, built and read with dpkt, and what every guest does with them.

The guest is 192.168.127.2 with gvproxy's usual MAC address.
"""

import socket
import struct

import dnslib
import dpkt
from dpkt import dhcp
from dpkt.tcp import TH_ACK, TH_FIN, TH_PUSH, TH_SYN

from tests.lab.dialects import Guest
from tests.lab.namespace import Namespace
from tests.lab.programs import DEVICE, GATEWAY, HOST

MAC = bytes.fromhex("5a94efe40cee")
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
_BROADCAST = b"\xff" * 6


def _frame(kind: int, data: object, destination: bytes = GATEWAY_MAC) -> bytes:
    return bytes(dpkt.ethernet.Ethernet(src=MAC, dst=destination, type=kind, data=data))


def _packet(protocol: int, data: object, destination: str) -> bytes:
    packet = dpkt.ip.IP(
        src=socket.inet_aton(DEVICE), dst=socket.inet_aton(destination), p=protocol, data=data
    )
    packet.len = len(packet)
    return _frame(dpkt.ethernet.ETH_TYPE_IP, packet)


def who_has(address: str) -> bytes:
    """Return an ARP request."""
    arp = dpkt.arp.ARP(
        op=dpkt.arp.ARP_OP_REQUEST,
        sha=MAC,
        spa=socket.inet_aton(DEVICE),
        tpa=socket.inet_aton(address),
    )
    return _frame(dpkt.ethernet.ETH_TYPE_ARP, arp, _BROADCAST)


def ping(sequence: int, payload: bytes) -> bytes:
    """Return an echo request for the gateway."""
    echo = dpkt.icmp.ICMP.Echo(id=7, seq=sequence, data=payload)
    message = dpkt.icmp.ICMP(type=dpkt.icmp.ICMP_ECHO, data=echo)
    return _packet(dpkt.ip.IP_PROTO_ICMP, message, GATEWAY)


def dhcp_message(kind: int, *options: tuple[int, bytes]) -> bytes:
    """Return a broadcast of a client that has no address yet."""
    message = dhcp.DHCP(chaddr=MAC, xid=7, opts=((dhcp.DHCP_OPT_MSGTYPE, bytes((kind,))), *options))
    datagram = dpkt.udp.UDP(sport=68, dport=67, data=bytes(message))
    datagram.ulen = len(datagram)
    packet = dpkt.ip.IP(src=bytes(4), dst=b"\xff" * 4, p=dpkt.ip.IP_PROTO_UDP, data=datagram)
    packet.len = len(packet)
    return _frame(dpkt.ethernet.ETH_TYPE_IP, packet, _BROADCAST)


def question(name: str) -> bytes:
    """Return a query for a name's address."""
    datagram = dpkt.udp.UDP(sport=40000, dport=53, data=dnslib.DNSRecord.question(name).pack())
    datagram.ulen = len(datagram)
    return _packet(dpkt.ip.IP_PROTO_UDP, datagram, GATEWAY)


def segment(flags: int, seq: int, ack: int, port: int, data: bytes = b"") -> bytes:
    """Return a segment for the host's loopback."""
    tcp = dpkt.tcp.TCP(sport=40000, dport=port, seq=seq, ack=ack, flags=flags, win=65535, data=data)
    return _packet(dpkt.ip.IP_PROTO_TCP, tcp, HOST)


def receive(guest: Guest, kind: int = dpkt.ethernet.ETH_TYPE_IP) -> dpkt.ethernet.Ethernet:
    """Return the next frame of a type; all others are dropped."""
    while True:
        frame = dpkt.ethernet.Ethernet(guest.receive())
        if frame.type == kind:
            return frame


def find_gateway(guest: Guest) -> None:
    """Ask for the gateway's MAC address."""
    guest.send(who_has(GATEWAY))
    while (arp := receive(guest, dpkt.ethernet.ETH_TYPE_ARP).data).op != dpkt.arp.ARP_OP_REPLY:
        pass  # another guest's request, which is for all
    assert arp.sha == GATEWAY_MAC


def get_lease(guest: Guest) -> str:
    """Go through DHCP and return the address."""
    guest.send(dhcp_message(dhcp.DHCPDISCOVER))
    offer = dhcp.DHCP(receive(guest).data.data.data)
    wanted = dhcp.DHCP_OPT_REQ_IP, offer.yiaddr.to_bytes(4, "big")
    server = dhcp.DHCP_OPT_SERVER_ID, socket.inet_aton(GATEWAY)
    guest.send(dhcp_message(dhcp.DHCPREQUEST, wanted, server))
    ack = dhcp.DHCP(receive(guest).data.data.data)
    assert dict(ack.opts)[dhcp.DHCP_OPT_MSGTYPE] == bytes((dhcp.DHCPACK,))
    return socket.inet_ntoa(struct.pack("!I", ack.yiaddr))


def live(guest: Guest, host: Namespace) -> None:
    """Do what every guest does: find the gateway, get an address, and use it."""
    find_gateway(guest)
    assert get_lease(guest) == DEVICE
    live_on(guest, host)


def live_on(guest: Guest, host: Namespace) -> None:
    """Use an address: ARP, pings in a row, a name, and TCP with a server of the host."""
    find_gateway(guest)
    guest.send(*(ping(number, b"x" * 100 * number) for number in range(1, 6)))
    for number in range(1, 6):
        reply = receive(guest).data.data
        assert (reply.type, reply.data.seq) == (dpkt.icmp.ICMP_ECHOREPLY, number)
        assert reply.data.data == b"x" * 100 * number
    guest.send(question("host.containers.internal"))
    assert str(dnslib.DNSRecord.parse(receive(guest).data.data.data).get_a().rdata) == HOST
    with host.listen() as listener:
        _talk(guest, listener)


def _talk(guest: Guest, listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    guest.send(segment(TH_SYN, 1000, 0, port))
    answer = receive(guest).data.data
    assert answer.flags == TH_SYN | TH_ACK
    assert answer.ack == 1001
    ack = answer.seq + 1
    with listener.accept()[0] as peer:
        peer.settimeout(10)
        guest.send(
            segment(TH_ACK | TH_PUSH, 1001, ack, port, b"hello "),
            segment(TH_ACK | TH_PUSH, 1007, ack, port, b"world"),
        )
        said = b""
        while len(said) < 11:
            said += peer.recv(11)
        assert said == b"hello world"
        peer.sendall(b"goodbye")
        while not (answer := receive(guest).data.data).data:
            pass
        assert answer.data == b"goodbye"
        assert answer.ack == 1012
        guest.send(segment(TH_ACK | TH_FIN, 1012, ack + 7, port))
        assert peer.recv(1) == b""
