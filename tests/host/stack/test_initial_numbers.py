"""Initial sequence numbers: RFC 9293 §3.4.1 (MUST-8, MUST-9, SHLD-1), RFC 6528."""

import pytest

from gvproxy.stack.stack import Stack

from .bench import GATEWAY, OUTSIDE, Bench, config, tcp
from .peer import SYN, User


def _number(
    *,
    secret: bytes = bytes(32),
    now: float = 1000.0,
    sport: int = 5000,
    destination: bytes = OUTSIDE,
) -> int:
    """Return the number of the SYN-ACK a fresh stack answers a SYN with."""
    bench = Bench()
    bench.stack = Stack(config(), secret=secret, wake=bench.wakes.append)
    bench.stack.attach(bench.port)
    bench.stack.connections.forward = bench.stack.connections.listeners[GATEWAY, 80] = User()
    bench.now = now
    (answer,) = bench.give(tcp(flags=SYN, sport=sport, destination=destination))
    return answer.data.data.seq


def test_the_same_secret_and_time_give_the_same_number() -> None:
    """So a connection that takes the place of another is behind it."""
    assert _number() == _number()


@pytest.mark.parametrize("seconds", [0.000004, 1.0, 3600.0, 17179.869184])
def test_the_clock_ticks_every_four_microseconds(seconds: float) -> None:
    """It goes around every 4.8 hours: 2^32 ticks."""
    assert (_number(now=1000.0 + seconds) - _number()) % 2**32 == round(seconds * 250_000) % 2**32


def test_nothing_of_it_is_known_outside() -> None:
    """Another secret is another number, and so are other ends of the connection."""
    numbers = {
        _number(),
        _number(secret=b"\1" + bytes(31)),
        _number(secret=bytes(31) + b"\1"),
        _number(sport=5001),
        _number(destination=GATEWAY),
    }
    assert len(numbers) == 5
