"""What is set up: a world, a daemon with its state, three guests, and what answers for whom."""

import contextlib
import socket
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.impairment import Impairment
from tests.lab.namespace import Namespace
from tests.lab.network import OUTSIDE, World, make_world
from tests.lab.process import Process
from tests.lab.programs import Agent, Gvproxy
from tests.lab.wait import NotYetError, until
from tests.soak import link, protocol
from tests.soak.ledger import Effect, Ledger

PORT = 8100
"""Of what answers on the host, in the outside and in each guest; TCP and UDP."""
ZONE = "soak.test"
NAME, ADDRESS = f"www.{ZONE}", "192.168.127.77"
CABLE = Impairment(loss=0.005, duplicate=0.01, reorder=0.1, gap=5, delay=0.003)
"""What is always the matter with the bad cable."""
STATE_SIZE = "256k"
_MAX_DATAGRAM = 65536
ROOT = Path(__file__).parents[2]


@dataclass
class Guest:
    """A guest, its agent, and the cable between it and the daemon, if there is one."""

    name: str
    namespace: Namespace
    mac: str
    url: str
    published: int
    control: Path | None
    agent: Agent
    address: str = ""
    impairment: Impairment = field(default_factory=Impairment)
    """What its cable does when nothing is wrong."""

    def impair(self, impairment: Impairment) -> None:
        """Have its cable do something else."""
        assert self.control is not None
        link.impair(self.control, impairment)

    def start(self) -> None:
        """Start the agent, without waiting for anything."""
        self.agent = Agent(self.namespace, self.url, "-mac", self.mac)


@dataclass
class Place:
    """All of it."""

    world: World
    ledger: Ledger
    gvproxy: Gvproxy
    state: Path
    guests: list[Guest] = field(default_factory=list)

    def start_gvproxy(self) -> None:
        """Start the daemon, and wait until it listens."""
        self.gvproxy = _start(self.world, self.state)

    def processes(self) -> dict[str, Process]:
        """Return the project's programs by name."""
        return {
            "gvproxy": self.gvproxy.process,
            **{f"agent of {guest.name}": guest.agent.process for guest in self.guests},
        }

    def check_kept(self) -> None:
        """Raise NotYetError unless the daemon has what was published, named and leased."""
        if not self.gvproxy.process.running:
            raise NotYetError("gvproxy is not there")
        try:
            published = {one["local"] for one in self.gvproxy.get("/services/forwarder/all")}
            zones = {zone["Name"].rstrip(".") for zone in self.gvproxy.get("/services/dns/all")}
            leases = self.gvproxy.get("/leases")
        except OSError as error:
            raise NotYetError(f"no API: {error}") from error
        for guest in self.guests:
            if f"127.0.0.1:{guest.published}" not in published:
                raise NotYetError(f"{guest.name} is not published")
            if guest.address and leases.get(guest.address) != guest.mac:
                raise NotYetError(f"{guest.name} has no lease of {guest.address}")
        if ZONE not in zones:
            raise NotYetError("the zone is not there")


def _start(world: World, state: Path) -> Gvproxy:
    return Gvproxy(world.folder, world.host, "-state-dir", str(state))


@contextlib.contextmanager
def make_place(seed: int) -> Iterator[Place]:
    """Set everything up; what still runs at the end is ended."""
    with make_world() as world, contextlib.ExitStack() as stack:
        state = world.folder / "state"
        state.mkdir()
        world.host.run("mount", "-t", "tmpfs", "-o", f"size={STATE_SIZE}", "soak", state)
        ledger = Ledger()
        place = Place(world, ledger, _start(world, state), state)
        _answer(ledger, world.host, "127.0.0.1", ())
        _answer(ledger, world.outside, OUTSIDE, ())
        for number, (name, kind) in enumerate(_GUESTS.items()):
            namespace = stack.enter_context(Namespace(name, world.folder))
            place.guests.append(_make_guest(place, stack, namespace, number, kind, seed))
        _tell(place)
        yield place


_GUESTS: dict[str, tuple[bool, Impairment] | None] = {
    "direct": None,
    "cable": (False, CABLE),
    "plain": (True, Impairment()),
}
"""By name: whether hyperkit is spoken, and what its cable does; None is no cable."""


def _make_guest(
    place: Place,
    stack: contextlib.ExitStack,
    namespace: Namespace,
    number: int,
    kind: tuple[bool, Impairment] | None,
    seed: int,
) -> Guest:
    folder, name = place.world.folder, namespace.name
    namespace.set("net/ipv4/ping_group_range", "0 0")
    url, control, impairment = place.gvproxy.url, None, Impairment()
    if kind is not None:
        plain, impairment = kind
        listen, control = folder / f"{name}.link", folder / f"{name}.ctl"
        argv = link.command(listen, place.gvproxy.path, control, seed=seed, plain=plain)
        log = folder / f"{name}.cable.log"
        cable = Process(f"cable of {name}", argv, log, {"PYTHONPATH": str(ROOT)})
        stack.callback(cable.kill)
        cable.wait_for("ready")
        link.impair(control, impairment)
        url = f"unix://{listen}"
    mac = f"02:00:00:00:00:{number + 1:02x}"
    agent = Agent(namespace, url, "-mac", mac)
    guest = Guest(name, namespace, mac, url, 8300 + number, control, agent)
    guest.impairment = impairment
    guest.address = agent.wait(30).address.partition("/")[0]
    _answer(place.ledger, namespace, "0.0.0.0", (name,))
    place.gvproxy.expose(f"127.0.0.1:{guest.published}", f"{guest.address}:{PORT}")
    return guest


def _tell(place: Place) -> None:
    """Name something, and wait until it is kept."""
    zone = {"Name": f"{ZONE}.", "Records": [{"Name": "www", "IP": ADDRESS}]}
    place.gvproxy.post("/services/dns/add", zone)

    def kept() -> None:
        text = place.world.host.try_run("cat", place.state / "state.json").stdout
        if ZONE not in text or any(guest.address not in text for guest in place.guests):
            raise NotYetError("the state is not saved")

    until(kept, "the state is saved")
    place.check_kept()


def _answer(ledger: Ledger, namespace: Namespace, address: str, guests: Sequence[str]) -> None:
    """Answer TCP and UDP in a namespace; `guests` is who it belongs to, none the host."""
    began = ledger.now()

    def failed(error: Exception) -> None:
        # What broke is judged by whoever had asked; only the one that answers sees these.
        if isinstance(error, protocol.CorruptError):
            ledger.violation(f"at the server of {namespace.name}: {error}")
        elif isinstance(error, protocol.EarlyEndError):
            # To a guest, nothing may look like an end that is none.
            effects = () if guests else (Effect.END,)
            since = max(began, ledger.now() - protocol.STALL)
            ledger.failed(f"a server in {namespace.name}", effects, guests, since, error)

    protocol.serve(namespace.listen(address, PORT), failed)
    sock = namespace.open_socket(socket.SOCK_DGRAM, None)
    sock.bind((address, PORT))
    threading.Thread(target=_echo, args=(ledger, sock), daemon=True).start()


def _echo(ledger: Ledger, sock: socket.socket) -> None:
    """Send datagrams back whose checksum is right; noise of a hostile guest has none."""
    while True:
        with contextlib.suppress(OSError):
            data, peer = sock.recvfrom(_MAX_DATAGRAM)
            if sealed(data):
                sock.sendto(data, peer)
            elif data.startswith(MARK):
                ledger.violation(f"a datagram of {len(data)} bytes from {peer} is corrupt")


MARK = b"SOAKUDP:"


def seal(data: bytes) -> bytes:
    """Put a mark and a checksum in front."""
    return MARK + zlib.crc32(data).to_bytes(4, "big") + data


def sealed(data: bytes) -> bool:
    """Tell whether a datagram arrived as it was sealed."""
    start = len(MARK) + 4
    crc = zlib.crc32(data[start:]).to_bytes(4, "big")
    return data.startswith(MARK) and crc == data[len(MARK) : start]
