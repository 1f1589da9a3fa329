"""Attacks of one guest on another: the scene, and what frames hide in.

`port` of the scene's bench is the victim's, who has GUEST; Mallory is behind another.
"""

import struct
from dataclasses import dataclass

from gvproxy.stack.sourceguard import SourceGuard
from gvproxy.wire import ethernet

from .bench import GUEST, OTHER, OTHER_MAC, Bench, Port

MALLORY, MALLORY_MAC = OTHER, OTHER_MAC
BROADCAST = ethernet.BROADCAST


@dataclass
class Scene:
    """A victim who has spoken, and Mallory who has, too."""

    bench: Bench
    mallory: Port

    @property
    def victim(self) -> Port:
        return self.bench.port

    @property
    def guard(self) -> SourceGuard:
        guard = self.bench.stack.guard
        assert guard is not None
        return guard

    def attack(self, *frames: bytes) -> list[bytes]:
        """Have Mallory send frames; returns what the victim gets."""
        self.victim.take()
        self.bench.give(*frames, port=self.mallory)
        return self.victim.take()

    def user(self, address: bytes = GUEST) -> bytes | None:
        """Return whom the gateway would send to."""
        station = self.bench.stack.neighbours.get(address)
        return None if station is None else station.mac


def make(*, source_checks: bool = True) -> Scene:
    bench = Bench(source_checks=source_checks)
    mallory = bench.attach()
    bench.meet()
    bench.meet(MALLORY, MALLORY_MAC, mallory)
    mallory.take()
    return Scene(bench, mallory)


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """Put VLAN tags, each of a type and an ID, into a frame."""
    inside = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return frame[:12] + inside + frame[12:]


def snap(frame: bytes) -> bytes:
    """Write a frame as RFC 1042 does."""
    body = bytes.fromhex("aaaa03000000") + frame[12:]
    return frame[:12] + struct.pack("!H", len(body)) + body
