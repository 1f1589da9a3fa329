"""What goes wrong, one thing at a time, in an order that the seed decides.

A fault is a context: inside it is there, behind it it has been mended.
"""

import contextlib
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.lab.impairment import Impairment
from tests.lab.network import HOST_OUTSIDE, start_resolver
from tests.lab.process import Process, ProcessError
from tests.soak.hostile import hostile
from tests.soak.ledger import Effect
from tests.soak.place import Guest, Place

Context = Callable[[Place, Guest, random.Random], AbstractContextManager[object]]

TERM_TIMEOUT = 15.0
"""Seconds to end in, on a busy machine."""
OTHER_HOST_OUTSIDE = "10.77.0.3"
BLACKHOLE = Impairment(loss=1.0)
HEAVY = Impairment(loss=0.05, duplicate=0.05, reorder=0.25, gap=5, delay=0.02, jitter=0.005)
_SPARE_PORT = 8399
_NOTHING: frozenset[Effect] = frozenset()
_DAEMON_GONE = frozenset({Effect.CONNECT, Effect.BREAK, Effect.END, Effect.PEER, Effect.NAME})
_AGENT_GONE = frozenset({Effect.CONNECT, Effect.PEER, Effect.NAME})
"""Connections that are there go on."""


@dataclass(frozen=True)
class Kind:
    """A fault of some kind; lasts from `least` to `most` seconds."""

    effects: frozenset[Effect]
    context: Context
    least: float
    most: float
    of_guest: bool = False
    ends_daemon: bool = False


def _terminate(place: Place, process: Process) -> None:
    try:
        process.stop(timeout=TERM_TIMEOUT)
    except ProcessError as error:
        place.ledger.violation(str(error))


@contextlib.contextmanager
def _daemon_killed(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
    place.gvproxy.process.kill()
    yield
    place.start_gvproxy()


@contextlib.contextmanager
def _daemon_terminated(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
    _terminate(place, place.gvproxy.process)
    yield
    place.start_gvproxy()


@contextlib.contextmanager
def _agent_killed(place: Place, guest: Guest, chance: random.Random) -> Iterator[None]:
    guest.agent.process.kill()
    yield
    guest.start()


@contextlib.contextmanager
def _agent_terminated(place: Place, guest: Guest, chance: random.Random) -> Iterator[None]:
    _terminate(place, guest.agent.process)
    yield
    guest.start()


@contextlib.contextmanager
def _no_descriptors(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
    process = place.gvproxy.process
    limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    used = process.descriptors()
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)


def _cabled(place: Place, chance: random.Random) -> Guest:
    return chance.choice([guest for guest in place.guests if guest.control is not None])


def _cable(impairment: Impairment) -> Context:
    @contextlib.contextmanager
    def context(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
        guest = _cabled(place, chance)
        guest.impair(impairment)
        try:
            yield
        finally:
            guest.impair(guest.impairment)

    return context


@contextlib.contextmanager
def _no_resolver(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
    place.world.resolver.kill()
    yield
    place.world.resolver = start_resolver(place.world.outside)


@contextlib.contextmanager
def _other_address(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
    """The host moves to another address; `mended` is when it is there for good."""
    shown = place.world.host.run("ip", "-oneline", "-4", "address", "show", "dev", "out0")
    addresses = [HOST_OUTSIDE, OTHER_HOST_OUTSIDE]
    old, new = addresses if HOST_OUTSIDE in shown else reversed(addresses)
    place.world.host.run("ip", "address", "del", f"{old}/24", "dev", "out0")
    yield
    place.world.host.run("ip", "address", "add", f"{new}/24", "dev", "out0")


def give_addresses_back(place: Place) -> None:
    """Have the host have both addresses.

    Connections of the one it has lost would end when its kernel gives them up: in a quarter of an
    hour, whoever they belong to.
    """
    for address in (HOST_OUTSIDE, OTHER_HOST_OUTSIDE):
        place.world.host.try_run("ip", "address", "add", f"{address}/24", "dev", "out0")


@contextlib.contextmanager
def _disk_full(place: Place, _: Guest, chance: random.Random) -> Iterator[None]:
    """Nothing can be saved while there is something to save."""
    fill = place.state / "fill"
    place.world.host.try_run("dd", "if=/dev/zero", f"of={fill}", "bs=4096")
    local = f"127.0.0.1:{_SPARE_PORT}"
    try:
        place.gvproxy.expose(local, f"{place.guests[0].address}:{_SPARE_PORT}")
        yield
        place.gvproxy.unexpose(local)
    finally:
        place.world.host.run("rm", fill)


KINDS: dict[str, Kind] = {
    "gvproxy killed": Kind(_DAEMON_GONE, _daemon_killed, 0, 2, ends_daemon=True),
    "gvproxy terminated": Kind(_DAEMON_GONE, _daemon_terminated, 0, 2, ends_daemon=True),
    "gvproxy stopped": Kind(
        _NOTHING, lambda place, *_: place.gvproxy.process.standing_still(), 1, 10
    ),
    "agent killed": Kind(_AGENT_GONE, _agent_killed, 0, 2, True),
    "agent terminated": Kind(_AGENT_GONE, _agent_terminated, 0, 2, True),
    "agent stopped": Kind(
        _NOTHING, lambda _, guest, *__: guest.agent.process.standing_still(), 1, 10, True
    ),
    "no descriptors": Kind(frozenset({Effect.CONNECT, Effect.OUTSIDE_NAME}), _no_descriptors, 5, 5),
    "cable dead": Kind(_NOTHING, _cable(BLACKHOLE), 5, 5),
    "cable worse": Kind(_NOTHING, _cable(HEAVY), 5, 10),
    "cable good": Kind(_NOTHING, _cable(Impairment()), 5, 10),
    "hostile guest": Kind(
        _NOTHING, lambda place, _, chance: hostile(place.gvproxy.path, chance), 3, 8
    ),
    "no resolver": Kind(frozenset({Effect.OUTSIDE_NAME}), _no_resolver, 3, 6),
    "host's address changed": Kind(
        frozenset({Effect.OUTSIDE_NAME, Effect.OUTSIDE}), _other_address, 0, 2
    ),
    "disk full": Kind(_NOTHING, _disk_full, 3, 6),
}


@dataclass(frozen=True)
class Plan:
    """One fault, as the seed has it."""

    name: str
    pause: float
    """Seconds before."""
    lasting: float
    guest: int
    seed: int


def schedule(seed: int, guests: int) -> Iterator[Plan]:
    """Return faults without end: each kind once, in some order, and then again."""
    chance = random.Random(f"{seed} faults")
    while True:
        for name in chance.sample(list(KINDS), len(KINDS)):
            kind = KINDS[name]
            yield Plan(
                *(name, chance.uniform(2, 10), chance.uniform(kind.least, kind.most)),
                *(chance.randrange(guests), chance.getrandbits(32)),
            )
