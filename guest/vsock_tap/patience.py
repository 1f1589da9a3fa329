"""How long the agent goes without a lease before it says so, sans-IO.

The DHCP client (`dhcp`) asks for ever and in silence, as a server may come later; but a network
that does not come needs a reason.  `now` is in seconds of the loop's clock,
which stands still while the machine is suspended.
"""

from dataclasses import dataclass

PATIENCE = 10.0
"""Seconds; by then a client has asked four times, and a server that is there has answered."""
PATIENCE_AGAIN = 60.0
"""Seconds until it is said again."""


@dataclass(frozen=True, slots=True)
class Unleased:
    """A lease has been asked for in vain for so many seconds; `answered` by a server, or not."""

    seconds: float
    answered: bool


class Patience:
    """Counts while a lease is asked for that is not there."""

    def __init__(self) -> None:
        self._since = 0.0
        self._due: float | None = None
        self._answered = False

    def next_timer(self) -> float | None:
        """Return when `timer_fired` wants to be called, None for never."""
        return self._due

    def asking(self, *, now: float) -> None:
        """Count from now on, unless that has begun."""
        if self._due is None:
            self._since, self._due, self._answered = now, now + PATIENCE, False

    def answered(self) -> None:
        """Note that a server has answered, whatever it said."""
        self._answered = True

    def over(self) -> None:
        """End: there is a lease, or no link to ask on."""
        self._due = None

    def timer_fired(self, *, now: float) -> Unleased | None:
        """Return what is to be told, if it is time."""
        if self._due is None or now < self._due:
            return None
        self._due = now + PATIENCE_AGAIN
        return Unleased(now - self._since, self._answered)
