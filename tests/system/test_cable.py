"""A guest's TCP over a bad cable: slower, but whole, and never stuck.

FULL=1 in the environment sends 20 MB each way in every case; that takes minutes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.cabled import Setting, ours
from tests.lab.impairment import CASES
from tests.lab.namespace import Namespace, link
from tests.lab.network import Network, make_network, temporary_folder
from tests.lab.programs import HOST
from tests.lab.transfer import exchange

pytestmark = [pytest.mark.root, pytest.mark.system]

FULL = bool(os.environ.get("FULL"))
SECONDS = 900 if FULL else 40
"""After which a connection counts as stuck."""
SIZE = 20_000_000
SMALLER = {
    "plain-loss1": 4_000_000,
    "plain-loss3": 1_000_000,
    "plain-loss5": 500_000,
    "plain-reorder": 4_000_000,
    "plain-jitter20": 1_000_000,
    "plain-delay100": 1_000_000,
    "plain-jitter100": 250_000,
    "plain-loss1-delay20": 500_000,
    "plain-loss1-reorder": 500_000,
    "plain-all": 250_000,
    "plain-corrupt": 2_000_000,
    "offload-loss3": 8_000_000,
    "offload-loss5": 4_000_000,
    "offload-jitter20": 4_000_000,
    "offload-delay100": 2_000_000,
    "offload-jitter100": 2_000_000,
    "offload-loss1-delay20": 2_000_000,
    "offload-all": 4_000_000,
}
"""Bytes each way where SIZE takes too long for every day."""
KINDS = ("plain", "offload")
UNNOTICED = ("delay20", "delay100", "loss0.1")
"""Where it may be that no frame is lost, doubled or overtaken."""


def exchange_between(guest: Namespace, host: Namespace, size: int) -> None:
    """Connect from the guest to the host's loopback, and send both ways."""
    with (
        host.listen() as listener,
        guest.connect(HOST, listener.getsockname()[1]) as ours,
    ):
        theirs, _ = listener.accept()
        with theirs:
            exchange(ours, theirs, size, SECONDS)


def tcp_counter(namespace: Namespace, name: str) -> int:
    """Return a counter of the kernel's TCP (RFC 4022's, and Linux's own)."""
    lines = namespace.run("grep", "^Tcp:", "/proc/net/snmp").splitlines()
    names, values = (line.split()[1:] for line in lines)
    return int(values[names.index(name)])


@pytest.mark.timeout(SECONDS + 20)
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("none", "corrupt")])
@pytest.mark.parametrize("kind", KINDS)
def test_it_arrives_whole(kind: str, name: str) -> None:
    setting = Setting(CASES[name], offload=kind == "offload")
    size = SIZE if FULL else SMALLER.get(f"{kind}-{name}", SIZE)
    with temporary_folder() as folder, ours(folder, setting) as cabled:
        exchange_between(cabled.guest, cabled.host, size)
        for counters in cabled.end().values():
            assert not counters.overflowed
            assert counters.lost or counters.doubled or counters.overtaken or name in UNNOTICED


@pytest.mark.timeout(SECONDS + 20)
def test_what_was_corrupted_is_noticed_by_its_checksum() -> None:
    size = SIZE if FULL else SMALLER["plain-corrupt"]
    setting = Setting(CASES["corrupt"], offload=False)
    with temporary_folder() as folder, ours(folder, setting) as cabled:
        assert cabled.gvproxy is not None
        exchange_between(cabled.guest, cabled.host, size)
        assert tcp_counter(cabled.guest, "InCsumErrors") > 0
        assert cabled.gvproxy.get("/stats")["TCP"]["ChecksumErrors"] > 0
        counters = cabled.end()
    assert counters["up"].corrupted
    assert counters["down"].corrupted


FIREWALL = """\
table ip lossy {
    chain forward {
        type filter hook forward priority filter;
        numgen inc mod 33 32 counter drop
    }
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "tap0" masquerade
    }
}
"""
"""Three packets in a hundred, which are super-frames as they are: nobody has cut them yet."""


@contextmanager
def container(network: Network) -> Iterator[Namespace]:
    """A machine behind the guest, which forwards for it, as a VM does for its containers."""
    with Namespace("container", network.world.folder) as namespace:
        link(network.guest, "veth0", namespace, "eth0")
        network.guest.run("ip", "address", "add", "10.88.0.1/24", "dev", "veth0")
        namespace.run("ip", "address", "add", "10.88.0.2/24", "dev", "eth0")
        namespace.run("ip", "route", "add", "default", "via", "10.88.0.1")
        network.guest.set("net/ipv4/ip_forward", "1")
        network.guest.run("nft", "-f", "-", input=FIREWALL)
        yield namespace


@pytest.mark.timeout(SECONDS + 20)
def test_whole_super_frames_are_dropped_between_tap_and_tcp() -> None:
    with make_network() as network, container(network) as namespace:
        exchange_between(namespace, network.host, SIZE if FULL else 8_000_000)
        ruleset = network.guest.run("nft", "list", "ruleset")
        packets, size = (
            int(ruleset.partition(f" {word} ")[2].split()[0]) for word in ("packets", "bytes")
        )
    assert packets
    assert size / packets > 1500, "what was dropped were no super-frames"
