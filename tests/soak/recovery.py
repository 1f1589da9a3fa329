"""What has to work again after a fault, for every guest: a transfer, names, the published port."""

import threading
from dataclasses import dataclass
from itertools import count

from dnslib import DNSError

from tests.lab.programs import HOST
from tests.lab.wait import NotYetError, until
from tests.soak.ledger import Fault, Ledger
from tests.soak.loads import FROM_OUTSIDE, LOCAL, Question, ask
from tests.soak.place import PORT, Guest, Place
from tests.soak.protocol import Client, CorruptError, EarlyEndError, StuckError, prepare

PATIENCE = 60.0
"""Seconds after which a guest has to be back: agents wait up to 5 s, the rest is a busy machine."""
_ATTEMPT = 3.0
_SIZE = 10_000
_idents = count(1)


@dataclass
class _Check:
    """Of one guest: when it was back, in seconds of the ledger's clock, or why it was not."""

    place: Place
    guest: Guest
    back: float | None = None
    why: str = ""

    def run(self) -> None:
        guest = self.guest
        steps = {
            "its settings": self._settings,
            "a transfer": lambda: self._talk(False),
            "a name of ours": lambda: self._name(LOCAL),
            "a name of the outside": lambda: self._name(FROM_OUTSIDE),
            "its published port": lambda: self._talk(True),
        }
        for what, step in steps.items():
            try:
                until(step, f"{guest.name}: {what}", PATIENCE)
            except TimeoutError as error:
                self.why = str(error)
                return
            except CorruptError as error:
                self.why = f"{guest.name}: {what}: {error}"
                return
        self.back = self.place.ledger.now()

    def _settings(self) -> None:
        address = self.guest.agent.settings().address.partition("/")[0]
        if address != self.guest.address:
            raise NotYetError(f"its address is {address} in place of {self.guest.address}")

    def _talk(self, published: bool) -> None:
        host = self.place.world.host
        try:
            if published:
                sock = host.connect("127.0.0.1", self.guest.published, _ATTEMPT)
            else:
                sock = self.guest.namespace.connect(HOST, PORT, _ATTEMPT)
            with sock:
                prepare(sock, _ATTEMPT)
                Client(sock).upload(_SIZE)
        except (OSError, StuckError, EarlyEndError) as error:
            raise NotYetError(repr(error)) from error

    def _name(self, question: Question) -> None:
        try:
            reply = ask(self.guest.namespace, question, next(_idents) % (1 << 16), _ATTEMPT)
        except (OSError, DNSError) as error:
            raise NotYetError(repr(error)) from error
        if not question.is_answered(reply):
            raise NotYetError(f"{question.name} is not answered: {reply.header.rcode}")


def check(place: Place, fault: Fault) -> float | None:
    """Wait until all is well, and return the seconds since the fault was mended.

    What is not well in time is a violation, and None is returned.
    """
    ledger: Ledger = place.ledger
    checks = [_Check(place, guest) for guest in place.guests]
    threads = [threading.Thread(target=one.run) for one in checks]
    for thread in threads:
        thread.start()
    try:
        until(place.check_kept, "what the daemon knows", PATIENCE)
    except TimeoutError as error:
        ledger.violation(f"after {fault.kind}: {error}")
    for thread in threads:
        thread.join()
    fault.recovered = ledger.now()
    for one in checks:
        if one.back is None:
            ledger.violation(f"not recovered from {fault.kind}: {one.why or one.guest.name}")
    if any(one.back is None for one in checks):
        return None
    return max(one.back or 0.0 for one in checks) - fault.mended
