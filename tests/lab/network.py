"""A host, a guest on it, and a world outside, each in a namespace of its own.

    guest ── tap0 ═ vsock-tap ═══ unix ═══ gvproxy ═ host ── veth ── outside

The host reaches the outside at `OUTSIDE`, whose resolver it uses; segments to `DEAD` vanish there;
`UNREACHABLE` is refused by the host's routes, and every other address has none.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import dns
from tests.lab.namespace import Namespace, link
from tests.lab.process import Process
from tests.lab.programs import Agent, Gvproxy

OUTSIDE = "10.77.0.2"
HOST_OUTSIDE = "10.77.0.1"
DEAD = "10.78.0.0/16"
UNREACHABLE = "10.79.0.1"
NO_ROUTE = "10.80.0.1"


@dataclass
class World:
    """The host and what is around it, before there is a daemon."""

    folder: Path
    host: Namespace
    outside: Namespace
    resolver: Process
    """Of the outside, at its port 53."""


def start_resolver(outside: Namespace) -> Process:
    """Start the outside's resolver, and wait until it answers."""
    process = outside.start("dns", *dns.command(OUTSIDE))
    process.wait_for("ready")
    return process


@dataclass
class Network:
    """The world with a daemon on the host and one guest that has its lease."""

    world: World
    gvproxy: Gvproxy
    guest: Namespace
    agent: Agent

    @property
    def host(self) -> Namespace:
        return self.world.host

    @property
    def outside(self) -> Namespace:
        return self.world.outside


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="vsock-tap-", dir=parent) as name:
        yield Path(name)


@contextlib.contextmanager
def make_world() -> Iterator[World]:
    """Set up the host and the outside."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(temporary_folder())
        host = stack.enter_context(Namespace("host", folder, [OUTSIDE]))
        outside = stack.enter_context(Namespace("outside", folder))
        link(host, "out0", outside, "in0")
        host.run("ip", "address", "add", f"{HOST_OUTSIDE}/24", "dev", "out0")
        outside.run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "in0")
        # Nobody forwards there, so what arrives for these addresses is dropped without a word.
        host.run("ip", "route", "add", DEAD, "via", OUTSIDE)
        host.run("ip", "route", "add", "unreachable", UNREACHABLE)
        host.set("net/ipv4/ping_group_range", "0 0")
        yield World(folder, host, outside, start_resolver(outside))


@contextlib.contextmanager
def make_guest(
    world: World, gvproxy: Gvproxy, name: str = "guest", *flags: str
) -> Iterator[tuple[Namespace, Agent]]:
    """Attach a guest and wait for its lease; the agent has to end well."""
    with Namespace(name, world.folder) as guest:
        agent = Agent(guest, gvproxy.url, *flags)
        try:
            agent.wait()
            yield guest, agent
        finally:
            agent.process.stop()


@contextlib.contextmanager
def make_network() -> Iterator[Network]:
    """Set up everything; daemon and agent have to end well."""
    with make_world() as world:
        # Keys that tests tell the API of are there.
        gvproxy = Gvproxy(world.folder, world.host, "-allow-path", str(world.folder))
        try:
            with make_guest(world, gvproxy) as (guest, agent):
                yield Network(world, gvproxy, guest, agent)
        finally:
            gvproxy.process.stop()
