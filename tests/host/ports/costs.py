"""A clock that goes by what frames cost."""

from collections.abc import Callable
from typing import Protocol

from gvproxy.ports.fairness import BUSY, WINDOW, Fairness
from gvproxy.ports.guestport import GuestPort
from tests.manual_loop import ManualLoop


class Stack(Protocol):
    frames: list[bytes]
    on_receive: Callable[[], None]


class Costs:
    """Has each frame of a port cost as many seconds."""

    def __init__(self, port: GuestPort, stack: Stack, each: float) -> None:
        self.longest: list[float] = []
        """What each batch has cost."""
        self._stack = stack
        self._each = each
        self._now = 0.0
        self._known = 0
        self._moving = 0
        self._others = 0
        self._port = port
        port.fairness = Fairness(self._moved, lambda: self._now)
        stack.on_receive = self._receive

    def others_move(self, loop: ManualLoop) -> None:
        """Have another guest move much, from now on."""
        self._port.fairness.factor(self._port.number, loop.time())
        self._moving = int(BUSY * 100)
        loop.now += 2 * WINDOW

    def _moved(self) -> list[tuple[int, int]]:
        self._others += self._moving
        return [(self._port.number, 0), (self._port.number + 1, self._others)]

    def _receive(self) -> None:
        count = len(self._stack.frames) - self._known
        self._known += count
        self.longest.append(count * self._each)
        self._now += count * self._each
