"""One guest attacks another: the real agent is the victim, and what it sees is its kernel's."""

import socket
from typing import Any

import dpkt
import pytest

from tests.lab import dialects
from tests.lab.dialects import closing
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

MALLORY = bytes.fromhex("020000000066")
VICTIM, GATEWAY_MAC = "5a:94:ef:e4:0c:ee", "5a:94:ef:e4:0c:dd"


def lie(address: str, mac: bytes = MALLORY) -> bytes:
    """Return an ARP reply to everyone that says who has an address."""
    packed = socket.inet_aton(address)
    arp = dpkt.arp.ARP(op=dpkt.arp.ARP_OP_REPLY, sha=mac, spa=packed, tha=b"\xff" * 6, tpa=packed)
    return bytes(dpkt.ethernet.Ethernet(src=mac, dst=b"\xff" * 6, type=0x0806, data=arp))


@pytest.mark.parametrize("checks", [True, False])
def test_the_gateways_address_and_the_victims_are_not_taken(world: World, checks: bool) -> None:
    gvproxy = Gvproxy(world.folder, world.host, f"-source-checks={str(checks).lower()}")
    refused = (2, 1) if checks else (0, 0)
    try:
        with (
            make_guest(world, gvproxy) as (guest, _),
            closing(dialects.connect(gvproxy.path)) as mallory,
        ):
            assert "1 received" in guest.run("ping", "-c", "1", "-W", "10", GATEWAY)
            mallory.send(lie(GATEWAY), lie(DEVICE), lie(DEVICE, bytes.fromhex("5a94efe40cee")))

            def judged() -> None:
                ports = {port["dialect"]: port for port in gvproxy.get("/ports")}
                if ports["hyperkit"]["frames_in"] < 3:
                    raise NotYetError("the lies have not arrived")

            until(judged, "gvproxy has the lies")
            details: dict[str, Any] = gvproxy.get("/stats")["Details"]["Stack"]
            assert (details["AddressesSpoofed"], details["MacsSpoofed"]) == refused
            cam = gvproxy.get("/cam")
            assert (cam[VICTIM] == 0) == checks
            if checks:
                assert GATEWAY_MAC in guest.run("ip", "neighbour", "show", GATEWAY)
                guest.run("ip", "neighbour", "flush", "dev", "tap0")
                assert "1 received" in guest.run("ping", "-c", "1", "-W", "10", GATEWAY)
    finally:
        gvproxy.process.stop()
