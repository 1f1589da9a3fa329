"""What the guests and the host do all the time: each load is one small client, in a thread.

A client does one thing after another, with short pauses, until it is stopped; then it ends what it
is doing.  Its errors are told apart here, and judged by the `Ledger`.
"""

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import exp, log

from dnslib import RCODE, DNSError, DNSRecord

from tests.lab import dns
from tests.lab.namespace import Namespace
from tests.lab.network import OUTSIDE
from tests.lab.programs import GATEWAY, HOST
from tests.lab.sockets import reset
from tests.soak.ledger import Effect, Ledger
from tests.soak.place import ADDRESS, MARK, NAME, PORT, Guest, Place, seal, sealed
from tests.soak.protocol import Client, CorruptError, EarlyEndError, StuckError, prepare

MOST = 50_000_000
"""Bytes of a transfer; the logarithm of their number is evenly distributed."""
MOST_ON_CABLE = 5_000_000
CONNECT_TIMEOUT = 60.0
PAUSE = 1.0
"""Seconds between two operations, at most."""
_REQUESTS = 200
"""On one connection that is kept, at most."""
_REQUEST_SIZE = 32_000
_DATAGRAMS = 20
_DATAGRAM_SIZE = 1400
_FRAGMENTED_SIZE = 4000
_ECHO_TIME = 2.0
_QUERY_TIMES = (2.0, 4.0, 8.0, 16.0)
"""Seconds for an answer; as many attempts."""
_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_SOCKET = 4096


@dataclass(frozen=True)
class Way:
    """From where to where connections go, who has a part in that, and what may prevent them."""

    name: str
    source: Namespace
    address: str
    port: int
    guests: tuple[str, ...]
    no_connection: frozenset[Effect]
    broken: frozenset[Effect]
    stuck: frozenset[Effect] = frozenset()
    most: int = MOST
    of_host: bool = False
    """The client is on the host, to which a daemon's death may look like an end."""


@dataclass
class Work:
    """What all clients share."""

    place: Place
    stop: threading.Event

    @property
    def ledger(self) -> Ledger:
        return self.place.ledger


Operation = Callable[[Client, random.Random], tuple[str, int]]
"""Does something on a connection and returns what it was, and how many bytes."""


def _size(chance: random.Random, most: int) -> int:
    return int(exp(chance.uniform(0, log(most))))


def on_connection(work: Work, way: Way, chance: random.Random, operation: Operation) -> None:
    """Connect, do something, and close; judge what fails."""
    ledger, since = work.ledger, work.ledger.now()

    def failed(effects: Collection[Effect], why: object) -> None:
        ledger.failed(way.name, effects, way.guests, since, why)

    try:
        sock = way.source.connect(way.address, way.port, CONNECT_TIMEOUT)
    except OSError as error:
        failed(way.no_connection, error)
        return
    client = Client(sock)
    try:
        prepare(sock)
        name, size = operation(client, chance)
        sock.close()
    except CorruptError as error:
        ledger.violation(f"{way.name}: {error}")
    except StuckError as error:
        failed(way.stuck, error)
    except (EarlyEndError, OSError) as error:
        # A published port is connected before it is known whether the guest is.
        effects = way.broken if client.answered else way.broken | way.no_connection
        if isinstance(error, EarlyEndError):
            if way.of_host:
                effects |= {Effect.END}
            elif client.answered:
                effects = frozenset()
        failed(effects, error)
    else:
        ledger.went_through(way.guests, since)
        ledger.count(name)
        ledger.count(f"bytes of {name}", size)
        return
    reset(sock)


def _transfer(way: Way) -> Operation:
    def operation(client: Client, chance: random.Random) -> tuple[str, int]:
        size = _size(chance, way.most)
        # Up from a client of the host is down to the guest.
        if chance.random() < 0.5:
            client.upload(size)
            return f"uploads, {way.name}", size
        client.download(size)
        return f"downloads, {way.name}", size

    return operation


def _requests(work: Work, way: Way) -> Operation:
    """Requests on one connection that is kept."""

    def operation(client: Client, chance: random.Random) -> tuple[str, int]:
        total = 0
        for _ in range(chance.randrange(1, _REQUESTS)):
            size = _size(chance, _REQUEST_SIZE)
            client.echo(size)
            work.ledger.count(f"requests, {way.name}")
            total += size
            if work.stop.wait(chance.uniform(0, PAUSE)):
                break
        return f"kept connections, {way.name}", total

    return operation


def datagrams(work: Work, guest: Guest, chance: random.Random) -> None:
    """Have datagrams sent back; they may be lost, not changed."""
    ledger = work.ledger
    with guest.namespace.open_socket(socket.SOCK_DGRAM) as sock:
        sent: set[bytes] = set()
        for number in range(_DATAGRAMS):
            most = _FRAGMENTED_SIZE if number % 10 == 0 else _DATAGRAM_SIZE
            data = seal(bytes((number,)) + os.urandom(chance.randrange(most)))
            try:
                sock.sendto(data, (HOST, PORT))
            except OSError:
                continue  # there is no network for the moment
            sent.add(data)
            ledger.count("datagrams sent")
        deadline = time.monotonic() + _ECHO_TIME
        left = set(sent)
        while left and (rest := deadline - time.monotonic()) > 0:
            sock.settimeout(rest)
            try:
                data, _ = sock.recvfrom(2 * _SOCKET)
            except OSError:
                continue
            if not sealed(data) or data not in sent:
                ledger.violation(f"{guest.name}: a datagram came back changed ({len(data)} bytes)")
            if data in left:
                left.remove(data)
                ledger.count("datagrams back")


def pings(work: Work, guest: Guest, chance: random.Random) -> None:
    """Send one echo request; it may be lost, not changed."""
    ledger = work.ledger
    with guest.namespace.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    with sock:
        sock.settimeout(_ECHO_TIME)
        payload = MARK + os.urandom(chance.randrange(_DATAGRAM_SIZE))
        request = bytes((_ECHO_REQUEST, 0, 0, 0, 0, 0, 0, 1)) + payload
        try:
            sock.sendto(request, (chance.choice((GATEWAY, HOST)), 0))
            ledger.count("pings sent")
            reply = sock.recv(_SOCKET)
        except OSError:
            return
        if reply[0] != _ECHO_REPLY or reply[8:] != payload:
            ledger.violation(f"{guest.name}: the answer to a ping is not what was sent")
        ledger.count("pings answered")


@dataclass(frozen=True)
class Question:
    """A name, and what is right to answer: addresses, or that there is no such name."""

    name: str
    answer: str | None
    outside: bool

    def is_answered(self, reply: DNSRecord) -> bool:
        """Tell whether an answer is right."""
        if self.answer is None:
            return bool(reply.header.rcode == RCODE.NXDOMAIN)
        found = [str(record.rdata) for record in reply.rr]
        return bool(reply.header.rcode == RCODE.NOERROR) and found == [self.answer]


QUESTIONS = (
    Question(NAME, ADDRESS, False),
    Question("host.containers.internal", HOST, False),
    Question(dns.NAME, dns.ADDRESS, True),
    Question("kept.outside.test", dns.ADDRESS, True),
    Question("none.outside.test", None, True),
)
LOCAL, FROM_OUTSIDE = QUESTIONS[0], QUESTIONS[2]


def ask(
    namespace: Namespace, question: Question, ident: int, timeout: float, *, tcp: bool = False
) -> DNSRecord:
    """Ask once; raises OSError, TimeoutError among them, and DNSError."""
    query = DNSRecord.question(question.name)
    query.header.id = ident
    packed = query.pack()
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with namespace.open_socket(kind, timeout) as sock:
        sock.connect((GATEWAY, 53))
        sock.sendall(len(packed).to_bytes(2, "big") + packed if tcp else packed)
        deadline = time.monotonic() + timeout
        while True:
            data = _message(sock) if tcp else sock.recv(_SOCKET)
            reply = DNSRecord.parse(data)
            if reply.header.id == ident:
                return reply
            sock.settimeout(max(0.01, deadline - time.monotonic()))


def _message(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        size = int.from_bytes(file.read(2), "big")
        data = file.read(size)
    if not size or len(data) < size:
        raise ConnectionResetError("the answer ends early")
    return data


def names(work: Work, guest: Guest, chance: random.Random) -> None:
    """Look up a name as a resolver does, in several attempts; answers are right."""
    ledger, since = work.ledger, work.ledger.now()
    question, tcp = chance.choice(QUESTIONS), chance.random() < 0.2
    effects = {Effect.NAME, Effect.OUTSIDE_NAME} if question.outside else {Effect.NAME}
    why: object = None
    for timeout in _QUERY_TIMES:
        try:
            reply = ask(guest.namespace, question, chance.randrange(1 << 16), timeout, tcp=tcp)
        except DNSError as error:
            ledger.violation(f"{guest.name}: an answer for {question.name} is none: {error}")
            return
        except OSError as error:
            why = error
            if work.stop.wait(1.0):
                return
            continue
        if question.is_answered(reply):
            ledger.count("names")
            return
        if reply.header.rcode != RCODE.SERVFAIL:
            rcode = RCODE.get(reply.header.rcode)
            text = f"{rcode} {[str(record.rdata) for record in reply.rr]}"
            ledger.violation(f"{guest.name}: {question.name} is {text}")
            return
        why = "SERVFAIL"
        if not question.outside:
            break
    ledger.failed(f"the name {question.name}", effects, (guest.name,), since, why)


def ways(place: Place) -> list[Way]:
    """Return all ways that connections go."""
    both = frozenset({Effect.CONNECT})
    broken = frozenset({Effect.BREAK})
    outside = frozenset({Effect.OUTSIDE})
    found = []
    for number, guest in enumerate(place.guests):
        most = MOST_ON_CABLE if guest.name == "cable" else MOST
        name, one = guest.name, (guest.name,)
        source = guest.namespace
        found += [
            Way(f"{name} to host", source, HOST, PORT, one, both, broken, most=most),
            Way(
                *(f"{name} to outside", source, OUTSIDE, PORT, one, both | outside),
                *(broken | outside, outside, most // 50),
            ),
            Way(
                *(f"host to {name}", place.world.host, "127.0.0.1", guest.published, one),
                *(both, broken, frozenset[Effect](), most, True),
            ),
        ]
        peer = place.guests[number - 1]
        found.append(
            Way(
                *(f"{name} to {peer.name}", source, peer.address, PORT, (name, peer.name)),
                *(frozenset({Effect.PEER}), frozenset[Effect]()),
                most=MOST_ON_CABLE,
            )
        )
    return found


def start(place: Place, stop: threading.Event, seed: int) -> list[threading.Thread]:
    """Start all clients; they end some time after `stop` is set."""
    work = Work(place, stop)
    threads = []

    def client(name: str, once: Callable[[random.Random], None]) -> None:
        chance = random.Random(f"{seed} {name}")

        def run() -> None:
            while not stop.wait(chance.uniform(0, PAUSE)):
                once(chance)

        threads.append(threading.Thread(target=_reported, args=(work, name, run), name=name))

    for way in ways(place):
        for number in range(2):
            _add_transfers(client, work, way, number)
        client(f"requests, {way.name}", _bound(work, way, _requests(work, way)))
    for guest in place.guests:
        for load in (datagrams, pings, names):
            client(f"{load.__name__} of {guest.name}", _of_guest(load, work, guest))
    for thread in threads:
        thread.start()
    return threads


Start = Callable[[str, Callable[[random.Random], None]], None]


def _add_transfers(client: Start, work: Work, way: Way, number: int) -> None:
    client(f"transfers {number}, {way.name}", _bound(work, way, _transfer(way)))


def _bound(work: Work, way: Way, operation: Operation) -> Callable[[random.Random], None]:
    return lambda chance: on_connection(work, way, chance, operation)


def _of_guest(
    load: Callable[[Work, Guest, random.Random], None], work: Work, guest: Guest
) -> Callable[[random.Random], None]:
    return lambda chance: load(work, guest, chance)


def _reported(work: Work, name: str, run: Callable[[], None]) -> None:
    """Run a client; an error that it does not expect is a mistake of ours, and has to be seen."""
    try:
        run()
    except Exception as error:
        work.ledger.violation(f"the client {name} has ended: {error!r}")
        raise


def wait(threads: Sequence[threading.Thread], seconds: float) -> list[str]:
    """Wait for clients to end, and return the names of those that have not."""
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in threads if thread.is_alive()]
