"""A link over TCP that carries nothing any more, of which neither end is told."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.namespace import Namespace, link
from tests.lab.network import World
from tests.lab.process import Process
from tests.lab.programs import DEVICE, GATEWAY, VSOCK_TAP, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

OURS, THEIRS = "10.81.0.1", "10.81.0.2"
_PROGRAM = """\
import runpy, sys
from taplink import liveness
liveness.IDLE, liveness.INTERVAL, liveness.PROBES = map(int, sys.argv[1].split(","))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_DROP = """\
table inet hole {{
    chain in {{ type filter hook input priority 0; tcp sport {port} drop; }}
    chain out {{ type filter hook output priority 0; tcp dport {port} drop; }}
}}
"""


def impatient(idle: int, interval: int, probes: int) -> list[str | Path]:
    """Return what runs a program that takes so long to find a link dead."""
    return [sys.executable, "-c", _PROGRAM, f"{idle},{interval},{probes}"]


@contextmanager
def linked(
    world: World, ours: list[str | Path], theirs: list[str | Path]
) -> Iterator[tuple[Namespace, Gvproxy, Process]]:
    """Have a guest on another machine: yields it, gvproxy and the agent's process."""
    token = world.folder / "token"
    token.write_text("a-token-for-callers-over-TCP\n")
    token.chmod(0o600)
    with Namespace("guest", world.folder) as guest:
        link(world.host, "far0", guest, "near0")
        world.host.run("ip", "address", "add", f"{OURS}/24", "dev", "far0")
        guest.run("ip", "address", "add", f"{THEIRS}/24", "dev", "near0")
        flags = ("-listen", f"tcp://{OURS}:1024", "-api-token-file", str(token))
        gvproxy = Gvproxy(world.folder, world.host, *flags, before=ours)
        url = f"tcp://{OURS}:1024"
        argv = [*theirs, VSOCK_TAP, "-url", url, "-token-file", token, "-stop-if-exist", ""]
        try:
            agent = guest.start("vsock-tap", *argv)
            agent.wait_for("address 192.168.127.2")
            yield guest, gvproxy, agent
            agent.stop()
        finally:
            gvproxy.process.stop()


def ports(gvproxy: Gvproxy) -> list[str]:
    return [str(port["peer"]) for port in gvproxy.get("/ports")]


def blackhole(world: World, gvproxy: Gvproxy) -> str:
    """Have the guest's link carry nothing; another one will."""
    (peer,) = ports(gvproxy)
    world.host.run("nft", "-f", "-", input=_DROP.format(port=peer.rpartition(":")[2]))
    return peer


def back(guest: Namespace, gvproxy: Gvproxy, dead: str) -> None:
    def reached() -> None:
        if ports(gvproxy) in ([], [dead]):
            raise NotYetError("there is no other link")
        if guest.try_run("ping", "-c", "1", "-W", "1", GATEWAY).returncode:
            raise NotYetError("the gateway does not answer")

    until(reached, "the guest is back", 30)


@pytest.mark.parametrize("busy", [False, True], ids=["silent", "busy"])
def test_the_guest_comes_back_by_another_link(world: World, busy: bool) -> None:
    """Its agent finds the link dead first, and is refused until gvproxy has as well."""
    with linked(world, impatient(2, 1, 2), impatient(1, 1, 1)) as (guest, gvproxy, agent):
        dead = blackhole(world, gvproxy)
        if busy:  # data that is not acknowledged puts keep-alive off
            guest.try_run("ping", "-c", "1", "-W", "0.1", GATEWAY)
            world.host.try_run("ping", "-c", "1", "-W", "0.1", DEVICE)
        agent.wait_for("the link has ended: Connection timed out")
        gvproxy.process.wait_for("has gone: Connection timed out")
        back(guest, gvproxy, dead)
        assert ports(gvproxy) != [dead]
        said = agent.log.read_text()
        assert said.count("linked to") == 2, "one that is refused is kept"
        assert "is lost" not in said


def test_a_link_that_is_silent_is_not_dead(world: World) -> None:
    """More probes are answered than it takes to end a link."""
    with linked(world, impatient(1, 1, 1), impatient(1, 1, 1)) as (guest, gvproxy, agent):
        before = ports(gvproxy)
        guest.run("ip", "link", "set", "tap0", "down")  # nothing comes of its kernel

        def segments() -> int:
            text = world.host.run("ss", "-tino", "sport = :1024")
            return int(text.partition(" segs_in:")[2].split()[0])

        begin = segments()

        def answered() -> None:
            if segments() < begin + 6:
                raise NotYetError("few were answered")

        until(answered, "probes are answered", 30)
        assert ports(gvproxy) == before
        assert "ended" not in agent.log.read_text()
