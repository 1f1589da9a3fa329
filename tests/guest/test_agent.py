"""The real agent in a namespace, attached to a scripted host: what it sets up, keeps, removes."""

import functools
import json
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from dpkt.arp import ARP, ARP_OP_REQUEST
from dpkt.ethernet import Ethernet

from taplink.vnet import Offload
from tests.guest.server import (
    ACK,
    DISCOVER,
    NAK,
    OFFER,
    RELEASE,
    REQUEST,
    SERVER,
    SERVER_MAC,
    Guest,
    Host,
    answer,
    kind_of,
    options_of,
)
from tests.lab.namespace import Namespace
from tests.lab.network import temporary_folder
from tests.lab.programs import Agent
from tests.lab.wait import NotYetError, until
from vsock_tap.link import FIRST_DELAY

pytestmark = pytest.mark.root
ADDRESS = "192.168.127.2"
MAC = bytes.fromhex("5a94efe40cee")
TSO = Offload.CSUM | Offload.TSO4 | Offload.TSO6
ORIGINAL = "nameserver 10.9.9.9\n"


@dataclass
class Lab:
    """A namespace for the agent, and the host it attaches to."""

    machine: Namespace
    host: Host

    def agent(self, *flags: str) -> Agent:
        return Agent(self.machine, self.host.url, *flags)

    def bound(self, *flags: str) -> tuple[Agent, Guest]:
        """Start an agent and give it its lease."""
        agent = self.agent(*flags)
        guest = self.host.accept(offload=TSO)
        guest.lease()
        agent.wait()
        return agent, guest

    def picture(self) -> tuple[str, ...]:
        """Return all that the agent sets up, as text to compare."""
        return (
            self.machine.run("ip", "-json", "link", "show", "dev", "tap0").split('"qdisc"')[0],
            self.machine.run("ip", "-4", "address", "show", "dev", "tap0"),
            self.machine.run("ip", "-4", "route", "show"),
            self.resolv_conf(),
        )

    def resolv_conf(self) -> str:
        return self.machine.run("cat", "/etc/resolv.conf")

    def link(self) -> dict[str, object]:
        (link,) = json.loads(self.machine.run("ip", "-json", "link", "show", "dev", "tap0"))
        assert isinstance(link, dict)
        return link

    def devices(self) -> list[str]:
        return [link["ifname"] for link in json.loads(self.machine.run("ip", "-json", "link"))]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with temporary_folder() as folder, Namespace("machine", folder) as machine:
        machine.run("tee", "/etc/resolv.conf", input=ORIGINAL)
        host = Host(folder / "host.sock")
        try:
            yield Lab(machine, host)
        finally:
            host.close()


def ask(address: str) -> bytes:
    """Build an ARP request for `address`, from the host."""
    arp = ARP(
        op=ARP_OP_REQUEST,
        sha=SERVER_MAC,
        spa=IPv4Address(SERVER).packed,
        tpa=IPv4Address(address).packed,
    )
    return bytes(Ethernet(src=SERVER_MAC, dst=b"\xff" * 6, type=0x0806, data=arp))


def is_arp_reply(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06" and frame[20:22] == b"\x00\x02"


def test_lease_relay_and_end(lab: Lab) -> None:
    agent = lab.agent()
    guest = lab.host.accept(offload=TSO)
    assert guest.request.target == "/connect"
    assert "csum,tso4,tso6" in guest.request.headers["taplink-offload"]
    guest.lease(options={15: b"example.test", 26: struct.pack(">H", 1400)})
    settings = agent.wait()
    assert settings.address == f"{ADDRESS}/24"
    assert f"default via {SERVER} dev tap0 proto dhcp metric 500" in settings.routes
    assert settings.resolvers == (SERVER,)
    assert "search example.test\n" in lab.resolv_conf()
    assert (lab.link()["address"], lab.link()["mtu"]) == (MAC.hex(":"), 1400)

    guest.send(ask(ADDRESS))
    assert guest.frame(is_arp_reply)[22:28] == MAC

    agent.process.stop(status=0)
    release = guest.dhcp()
    assert kind_of(release) == RELEASE
    assert release.ciaddr == int(IPv4Address(ADDRESS))
    assert guest.closed()
    assert lab.devices() == ["lo"]
    assert lab.resolv_conf() == ORIGINAL
    log = agent.process.log.read_text()
    assert f"lease {ADDRESS}/24 from {SERVER}, 3600 s" in log
    assert "Traceback" not in log


def test_a_silent_host_speaks_hyperkit(lab: Lab) -> None:
    agent = lab.agent()
    flood = struct.pack("<H", 42) + ask(ADDRESS)
    for first in (b"", flood):
        guest = lab.host.accept(taplink=False, first=first)
        guest.lease() if not first else guest.send(answer(guest.dhcp(), ACK))
        agent.wait()
        guest.send(ask(ADDRESS))
        assert guest.frame(is_arp_reply)[22:28] == MAC
        assert "hyperkit, no offloads" in agent.process.log.read_text()
        guest.close()
    agent.process.stop()


def test_nothing_changes_while_the_link_is_away(lab: Lab) -> None:
    agent, guest = lab.bound()
    before = lab.picture()
    for _ in range(3):
        guest.close()
        agent.process.wait_for("the link has ended")
        assert lab.picture() == before
        guest = lab.host.accept(offload=Offload.CSUM)
        assert lab.picture() == before
        request = guest.dhcp()
        assert kind_of(request) == REQUEST
        assert options_of(request)[50] == IPv4Address(ADDRESS).packed
        assert 54 not in options_of(request)
        guest.send(answer(request, ACK))
        guest.send(ask(ADDRESS))
        assert guest.frame(is_arp_reply)[22:28] == MAC
        assert lab.picture() == before
    assert agent.process.log.read_text().count("lease 192.168.127.2/24 from") == 1
    agent.process.stop()


def test_a_host_that_closes_after_a_frame_is_not_called_at_full_speed(lab: Lab) -> None:
    agent, guest = lab.bound()
    begin = time.monotonic()
    for _ in range(4):
        guest.send(ask(ADDRESS))
        guest.frame(is_arp_reply)
        guest.close()
        guest = lab.host.accept()
    shortest = sum(FIRST_DELAY * 2**number / 2 for number in range(4))
    assert time.monotonic() - begin >= shortest
    agent.process.stop()


def test_another_lease_after_the_link_was_away(lab: Lab) -> None:
    agent, guest = lab.bound()
    guest.close()
    guest = lab.host.accept()
    guest.send(answer(guest.dhcp(), ACK, "192.168.127.77"))
    agent.process.wait_for("address 192.168.127.77/24, default route")
    assert agent.wait().address == "192.168.127.77/24"
    agent.process.stop()


def test_a_nak_takes_the_address_away(lab: Lab) -> None:
    agent, guest = lab.bound()
    guest.close()
    guest = lab.host.accept()
    guest.send(answer(guest.dhcp(), NAK, "0.0.0.0"))
    discover = guest.dhcp()
    assert kind_of(discover) == DISCOVER

    def gone() -> None:
        if ADDRESS in lab.machine.run("ip", "-4", "address", "show", "dev", "tap0"):
            raise NotYetError("the address is still there")

    until(gone, "the address goes")
    guest.send(answer(discover, OFFER, "192.168.127.9"))
    guest.send(answer(guest.dhcp(), ACK, "192.168.127.9"))
    assert agent.wait().address == "192.168.127.9/24"
    agent.process.stop()


def test_the_lease_is_renewed(lab: Lab) -> None:
    agent = lab.agent()
    guest = lab.host.accept()
    guest.lease(options={58: struct.pack(">I", 1), 59: struct.pack(">I", 2)})
    agent.wait()
    request = guest.dhcp()
    assert (kind_of(request), request.ciaddr) == (REQUEST, int(IPv4Address(ADDRESS)))
    guest.send(answer(request, ACK))
    agent.process.stop()
    assert kind_of(guest.dhcp()) == RELEASE


def test_a_route_that_was_lost_comes_back_with_the_renewal(lab: Lab) -> None:
    often = {58: struct.pack(">I", 1), 59: struct.pack(">I", 2)}
    agent = lab.agent()
    guest = lab.host.accept()
    guest.lease(options=often)
    before = agent.wait()
    lab.machine.run("ip", "link", "set", "tap0", "down")
    lab.machine.run("ip", "link", "set", "tap0", "up")
    assert "default" not in lab.machine.run("ip", "-4", "route", "show")
    guest.send(answer(guest.dhcp(), ACK, options=often))
    assert agent.wait() == before
    assert agent.process.log.read_text().count("default route by") == 1
    agent.process.stop()


def test_a_lease_that_is_no_use(lab: Lab) -> None:
    agent = lab.agent("-debug")
    guest = lab.host.accept()
    guest.send(answer(guest.dhcp(), OFFER, "240.0.0.1"))
    agent.process.wait_for("ignored, OFFER of 240.0.0.1: no address of a host in 240.0.0.0/24")
    guest.send(answer(guest.dhcp(), OFFER, "240.0.1.1"))
    agent.process.wait_for("ignored, OFFER of 240.0.1.1")
    assert agent.process.log.read_text().count("WARNING the server's answer is ignored") == 1
    guest.lease(options={3: IPv4Address("192.168.127.255").packed})
    agent.process.wait_for("no default route (the lease has no router in 192.168.127.0/24)")
    assert "None" not in agent.process.log.read_text()
    agent.process.stop()


def test_a_lease_the_kernel_refuses(lab: Lab) -> None:
    agent = lab.agent("-debug")
    guest = lab.host.accept()
    lab.machine.run("ip", "link", "set", "tap0", "down")

    def refused(times: int) -> None:
        log = agent.process.log.read_text()
        if log.count(f"lease {ADDRESS}/24 from {SERVER}, 3600 s cannot be used: tap0: ") < times:
            raise NotYetError("it is not refused")
        if "inet" in lab.machine.run("ip", "-4", "address", "show", "dev", "tap0"):
            raise NotYetError("its address is still there")

    for times in (1, 2):
        guest.lease()
        until(functools.partial(refused, times), "the lease is refused")
        guest.close()
        guest = lab.host.accept()
    log = agent.process.log.read_text()
    assert len(re.findall("WARNING lease .* cannot be used", log)) == 1
    lab.machine.run("ip", "link", "set", "tap0", "up")
    guest.lease()
    assert agent.wait().address == f"{ADDRESS}/24"
    agent.process.stop()


def test_the_host_may_come_later(lab: Lab) -> None:
    lab.host.close()
    agent = lab.agent()
    agent.process.wait_for("trying again")
    assert lab.devices() == ["lo", "tap0"]
    late = Host(Path(lab.host.url.removeprefix("unix://")))
    try:
        late.refuse(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        agent.process.wait_for("the host refuses the link: 503 Service Unavailable")
        late.refuse(b"")
        agent.process.wait_for("the host closed the connection")
        late.accept().lease()
        agent.wait()
    finally:
        agent.process.stop()
        late.close()


def test_a_program_that_fails(lab: Lab) -> None:
    program = Path(lab.host.url.removeprefix("unix://")).with_name("program")
    program.write_text("#!/bin/sh\necho tried >&2\nexit 3\n")
    program.chmod(0o755)
    agent = Agent(lab.machine, f"stdio://{program}")

    def tried() -> str:
        log = agent.process.log.read_text()
        if log.count("tried\n") < 3:
            raise NotYetError("it is not tried again")
        return log

    log = until(tried, "the program is started again")
    agent.process.stop()
    assert "linked" not in log
    assert log.count(f"no link to stdio://{program}: the program ended with status 3") == 1


def test_the_end_without_a_host(lab: Lab) -> None:
    lab.host.close()
    agent = lab.agent()
    agent.process.wait_for("trying again")
    agent.process.stop(timeout=2)
    assert lab.devices() == ["lo"]
    assert lab.resolv_conf() == ORIGINAL


def test_the_end_while_the_host_is_silent(lab: Lab) -> None:
    agent = lab.agent()
    lab.host.accept(taplink=False)
    agent.process.stop(timeout=2)
    assert lab.devices() == ["lo"]


def test_resolv_conf_comes_back_after_a_crash(lab: Lab) -> None:
    agent, guest = lab.bound()
    agent.process.kill()
    assert guest.closed()
    assert "vsock-tap" in lab.resolv_conf()
    agent = lab.agent()
    guest = lab.host.accept()
    assert lab.resolv_conf() == ORIGINAL
    guest.lease()
    agent.wait()
    agent.process.stop()
    assert lab.resolv_conf() == ORIGINAL


def test_a_second_agent_leaves_resolv_conf_to_the_first(lab: Lab) -> None:
    agent, _ = lab.bound()
    before = lab.resolv_conf()
    second = Agent(lab.machine, lab.host.url, "-mac", "5a:94:ef:e4:0c:ef", iface="tap1")
    guest = lab.host.accept(offload=TSO)
    guest.lease("192.168.127.3")
    second.process.wait_for("lease 192.168.127.3")
    second.process.wait_for("looked after by another agent")
    second.process.stop()
    assert lab.resolv_conf() == before
    agent.process.stop()
    assert lab.resolv_conf() == ORIGINAL


@pytest.mark.parametrize("kind", [(), ("vnet_hdr",), ("multi_queue",)], ids=str)
def test_a_preexisting_tap_is_kept(lab: Lab, kind: tuple[str, ...]) -> None:
    lab.machine.run("ip", "tuntap", "add", "tap0", "mode", "tap", *kind)
    agent, guest = lab.bound("-preexisting")
    assert lab.link()["address"] == MAC.hex(":")
    guest.send(ask(ADDRESS))
    guest.frame(is_arp_reply)
    agent.process.stop()
    assert "tap0" in lab.devices()
    assert "inet " not in lab.machine.run("ip", "-4", "address", "show", "dev", "tap0")
    assert lab.machine.run("ip", "-4", "route", "show") == ""


def test_a_preexisting_tap_with_an_address_is_only_relayed(lab: Lab) -> None:
    lab.machine.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    lab.machine.run("ip", "address", "add", "10.0.0.7/24", "dev", "tap0")
    lab.machine.run("ip", "link", "set", "tap0", "address", "02:00:00:00:00:07", "up")
    before = lab.picture()[1:]
    agent = lab.agent("-preexisting")
    for _ in range(2):
        guest = lab.host.accept()
        announced = guest.frame(lambda frame: frame[12:14] == b"\x08\x06")
        assert announced[6:12].hex(":") == "02:00:00:00:00:07"
        assert announced[28:32] == announced[38:42] == IPv4Address("10.0.0.7").packed
        guest.send(ask("10.0.0.7"))
        assert guest.frame(is_arp_reply)[22:28].hex(":") == "02:00:00:00:00:07"
        guest.close()
    agent.process.stop()
    assert "inet 10.0.0.7/24" in lab.picture()[1]
    assert lab.resolv_conf() == before[-1]


@pytest.mark.parametrize(
    ("flag", "lease", "mtu"),
    [
        (None, None, 1500),
        (None, 9000, 9000),
        (1300, 1400, 1300),
        (9000, 1400, 1400),
        (1300, None, 1300),
    ],
)
def test_mtu(lab: Lab, flag: int | None, lease: int | None, mtu: int) -> None:
    agent = lab.agent(*([] if flag is None else ["-mtu", str(flag)]))
    lab.host.accept().lease(options={} if lease is None else {26: struct.pack(">H", lease)})
    agent.wait()
    assert lab.link()["mtu"] == mtu
    agent.process.stop()
    said = f"the host offers an MTU of {lease}, so it is {lease}, not {flag}"
    smaller = flag is not None and lease is not None and lease < flag
    assert agent.process.log.read_text().count(said) == smaller


def test_a_tap_that_is_removed(lab: Lab) -> None:
    agent, _ = lab.bound()
    lab.machine.run("ip", "link", "del", "tap0")
    assert agent.process.wait(5) == 1
    assert "tap0: the interface is gone" in agent.process.log.read_text()
    assert lab.resolv_conf() == ORIGINAL


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["-iface", "lo"], "lo: the interface exists already"),
        (["-iface", "lo", "-preexisting"], "lo: the interface is not a tap"),
        (["-iface", "tap9", "-preexisting"], "tap9: there is no such interface"),
    ],
)
def test_what_cannot_work_is_one_line(lab: Lab, flags: list[str], reason: str) -> None:
    agent = lab.agent(*flags)
    assert agent.process.wait(10) == 1
    assert reason in agent.process.last_line()
    log = agent.process.log.read_text()
    assert "Traceback" not in log
    assert log.count(reason) == 1
    assert lab.devices() == ["lo"]
