"""Puts the services of the gateway at their addresses in the virtual network.

The servers themselves take payloads and give payloads; here is what that means in datagrams.
"""

from gvproxy.services import dhcp, dns
from gvproxy.services.dhcp import DhcpServer
from gvproxy.services.dns import DnsServer
from gvproxy.stack.stack import Stack
from gvproxy.stack.udp import Datagram

_BROADCAST = b"\xff" * 4


def serve_dhcp(stack: Stack, server: DhcpServer) -> None:
    """Answer DHCP at the gateway's address and at broadcast."""
    gateway, send = stack.config.gateway, stack.udp.send

    def handle(datagram: Datagram, now: float) -> None:
        station = datagram.packet.station
        reply = server.handle(bytes(datagram.payload), now=now, sender=station)
        if reply is not None:
            payload, destination, mac = reply
            ports = dhcp.SERVER_PORT, dhcp.CLIENT_PORT
            send(station, gateway, ports[0], destination, ports[1], payload, mac=mac)

    for address in (gateway, _BROADCAST):
        stack.udp.listen((address, dhcp.SERVER_PORT), handle)


def serve_dns(stack: Stack, server: DnsServer) -> None:
    """Answer DNS at the gateway's address, over UDP; `dnstcp` has the rest."""
    gateway, send = stack.config.gateway, stack.udp.send

    def handle(datagram: Datagram, now: float) -> None:
        packet, port = datagram.packet, datagram.source_port
        station, source = packet.station, packet.source

        def answer(message: bytes) -> None:
            send(station, gateway, dns.PORT, source, port, message)

        server.handle(bytes(datagram.payload), answer, now=now, owner=station.port)

    stack.udp.listen((gateway, dns.PORT), handle)
