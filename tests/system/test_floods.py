"""A small part of each flood of `make floods`: the daemon lives, and a second guest goes on.

How fast that is `make floods` measures, and no test.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.bench.floods import servers
from tests.bench.floods.attacks import FLOODS, Flood
from tests.bench.floods.guests import Stop
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest, make_world
from tests.lab.programs import HOST, Gvproxy
from tests.lab.transfer import exchange
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

PART = 0.02
REFUSING = {"random": "Malformed", "mutated": "IpChecksumErrors", "empty": "Malformed"}


@dataclass
class Flooded:
    """A daemon, and a guest that goes on working."""

    world: World
    gvproxy: Gvproxy
    guest: Namespace


@pytest.fixture(scope="module")
def flooded() -> Iterator[Flooded]:
    with make_world() as world:
        world.host.start("hold", *servers.command("hold")).wait_for("ready")
        gvproxy = Gvproxy(world.folder, world.host)
        with make_guest(world, gvproxy) as (guest, _):
            yield Flooded(world, gvproxy, guest)
        gvproxy.process.stop()


def only_one(gvproxy: Gvproxy) -> None:
    """All attackers have one MAC address: who comes before another has gone is refused."""
    ports = gvproxy.get("/ports")
    if len(ports) > 1:
        raise NotYetError(f"there are {len(ports)} guests")


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.name)
def test_a_second_guest_goes_on(flooded: Flooded, flood: Flood) -> None:
    until(lambda: only_one(flooded.gvproxy), "the last attacker has gone")
    made: list[float] = []
    before = flooded.gvproxy.get("/stats")["Details"]["Stack"]
    attack = threading.Thread(
        target=lambda: made.append(flood.run(flooded.gvproxy.path, PART, Stop(once=True)))
    )
    with (
        flooded.world.host.listen() as listener,
        flooded.guest.connect(HOST, listener.getsockname()[1]) as ours,
        listener.accept()[0] as theirs,
    ):
        attack.start()
        exchange(ours, theirs, 2_000_000, seconds=30)
    attack.join(30)
    assert made
    assert made[0] >= 1
    stack = flooded.gvproxy.get("/stats")["Details"]["Stack"]
    refusal = REFUSING.get(flood.name)
    assert refusal is None or stack[refusal] > before[refusal]
