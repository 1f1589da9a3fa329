"""One guest attacks another: the real agent is the victim, and what it sees is its kernel's."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dpkt
import pytest

from tests.lab import dialects, frames
from tests.lab.dialects import Guest, closing
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, HOST, Agent, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

MALLORY = bytes.fromhex("020000000066")
VICTIM, GATEWAY_MAC = "5a:94:ef:e4:0c:ee", "5a:94:ef:e4:0c:dd"


def lie(address: str, mac: bytes = MALLORY) -> bytes:
    """Return an ARP reply to everyone that says who has an address."""
    packed = socket.inet_aton(address)
    arp = dpkt.arp.ARP(op=dpkt.arp.ARP_OP_REPLY, sha=mac, spa=packed, tha=b"\xff" * 6, tpa=packed)
    return bytes(dpkt.ethernet.Ethernet(src=mac, dst=b"\xff" * 6, type=0x0806, data=arp))


@contextmanager
def attack(world: World, *, checks: bool) -> Iterator[tuple[Gvproxy, Namespace, Guest]]:
    """Have a victim with its lease, and Mallory."""
    gvproxy = Gvproxy(world.folder, world.host, f"-source-checks={str(checks).lower()}")
    try:
        with (
            make_guest(world, gvproxy) as (guest, _),
            closing(dialects.connect(gvproxy.path)) as mallory,
        ):
            yield gvproxy, guest, mallory
    finally:
        gvproxy.process.stop()


def judged(gvproxy: Gvproxy, lies: int) -> dict[str, Any]:
    """Wait until gvproxy has as many of Mallory's frames; returns what it has refused."""

    def look() -> None:
        ports = {port["dialect"]: port for port in gvproxy.get("/ports")}
        if ports["hyperkit"]["frames_in"] < lies:
            raise NotYetError("the lies have not arrived")

    until(look, "gvproxy has the lies")
    refused: dict[str, Any] = gvproxy.get("/stats")["Details"]["Stack"]
    return refused


@pytest.mark.parametrize("checks", [True, False])
def test_the_gateways_address_and_the_victims_are_not_taken(world: World, checks: bool) -> None:
    with attack(world, checks=checks) as (gvproxy, guest, mallory):
        assert "1 received" in guest.run("ping", "-c", "1", "-W", "10", GATEWAY)
        mallory.send(lie(GATEWAY), lie(DEVICE), lie(DEVICE, bytes.fromhex("5a94efe40cee")))
        details = judged(gvproxy, 3)
        refused = (2, 1) if checks else (0, 0)
        assert (details["AddressesSpoofed"], details["MacsSpoofed"]) == refused
        # The victim may have spoken since.
        assert (f"{VICTIM} moved to port 1" in gvproxy.process.log.read_text()) != checks
        if checks:
            assert gvproxy.get("/cam")[VICTIM] == 0
            assert GATEWAY_MAC in guest.run("ip", "neighbour", "show", GATEWAY)
            guest.run("ip", "neighbour", "flush", "dev", "tap0")
            assert "1 received" in guest.run("ping", "-c", "1", "-W", "10", GATEWAY)


def advertisement() -> bytes:
    """Return what makes Mallory the IPv6 router of all that believe it."""
    ours, everyone = (socket.inet_pton(socket.AF_INET6, name) for name in ("fe80::66", "ff02::1"))
    # Hop limit 64, a router for half an hour (RFC 4861 §4.2), and its link-layer address.
    advert = bytes((64, 0)) + (1800).to_bytes(2, "big") + bytes(8) + bytes((1, 1)) + MALLORY
    message = dpkt.icmp6.ICMP6(type=134, code=0, data=advert)
    packet = dpkt.ip6.IP6(src=ours, dst=everyone, nxt=58, hlim=255, data=message)
    packet.plen, packet.extension_hdrs = len(message), {}
    multicast = bytes.fromhex("333300000001")
    return bytes(dpkt.ethernet.Ethernet(src=MALLORY, dst=multicast, type=0x86DD, data=packet))


@pytest.mark.parametrize("checks", [True, False])
def test_nobody_is_the_victims_router(world: World, checks: bool) -> None:
    with attack(world, checks=checks) as (gvproxy, guest, mallory):
        guest.set("net/ipv6/conf/tap0/accept_ra", "2")

        def routes() -> str:
            return guest.run("ip", "-6", "route", "show", "default")

        def believed() -> None:
            if "via fe80::66 dev tap0" not in routes():
                raise NotYetError("the victim has no such router")

        mallory.send(advertisement())
        assert judged(gvproxy, 1)["RoutersRefused"] == checks
        if checks:
            assert "fe80::66" not in routes()
        else:
            until(believed, "the victim believes Mallory")


@pytest.mark.parametrize("checks", [True, False])
def test_who_is_away_keeps_its_connections(world: World, checks: bool) -> None:
    """Mallory waits for the victim's agent to be started anew, and takes its MAC address."""
    secret = b"the victim's own"
    flags = [f"-source-checks={str(checks).lower()}", *dialects.flags(world.folder, "vfkit")]
    gvproxy = Gvproxy(world.folder, world.host, *flags)
    try:
        with (
            make_guest(world, gvproxy) as (guest, agent),
            closing(dialects.come(world.folder, "vfkit")) as mallory,
            world.host.listen() as listener,
            guest.connect(HOST, listener.getsockname()[1]) as sock,
            listener.accept()[0] as server,
        ):
            agent.process.kill()

            def gone() -> None:
                if any(port["dialect"] != "vfkit" for port in gvproxy.get("/ports")):
                    raise NotYetError("the victim is there")

            def claimed() -> None:
                mallory.send(frames.who_has(GATEWAY))  # a datagram, which may be dropped
                refused = gvproxy.get("/stats")["Details"]["Stack"]["MacsSpoofed"]
                if not refused and VICTIM not in gvproxy.get("/cam"):
                    raise NotYetError("nobody has heard Mallory")

            until(gone, "the victim's link has ended")
            server.sendall(secret)
            until(claimed, "Mallory has claimed the victim's MAC address")
            assert (VICTIM in gvproxy.get("/cam")) != checks
            if not checks:
                while secret not in bytes(frames.receive(mallory).data):
                    pass
                return
            again = Agent(guest, gvproxy.url)
            again.wait()
            sock.settimeout(30)
            assert sock.recv(64) == secret
            again.process.stop()
    finally:
        gvproxy.process.stop()
