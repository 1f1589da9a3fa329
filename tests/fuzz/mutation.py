"""Makes inputs of valid ones: the same for the same random source."""

import random
from collections.abc import Callable, Sequence

from tests.fuzz.cases import Case

Repair = Callable[[bytes, random.Random], bytes]
"""Mends checksums and lengths of one message, so that more than these is looked at."""

MAX_MESSAGES = 64
REPAIRED = 0.8
_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255)
_WORDS = (0, 1, 0x7F, 0xFF, 0x100, 0x1FF, 0x7FFF, 0x8000, 0xC00C, 0xFFFE, 0xFFFF)
_LONGS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def mutate(seeds: Sequence[Case], rng: random.Random, repair: Repair | None) -> Case:
    """Return a new input."""
    case = list(rng.choice(seeds))
    touched: set[int] = set()
    for _ in range(min(1 + int(rng.expovariate(0.5)), 12)):
        if not case or rng.random() < 0.3:
            case = _rearrange(case, seeds, rng)
            touched.clear()
        else:
            place = rng.randrange(len(case))
            case[place] = _change(case[place], seeds, rng)
            touched.add(place)
    if repair is not None and rng.random() < REPAIRED:
        for place in touched:
            case[place] = repair(case[place], rng)
    return case[:MAX_MESSAGES]


def _rearrange(case: Case, seeds: Sequence[Case], rng: random.Random) -> Case:
    """Repeat, drop, exchange or bring in whole messages."""
    place = rng.randint(0, len(case))
    other = rng.choice(seeds)
    match rng.randrange(6):
        case 0:
            return case[:place] + case[place : place + 1] * rng.choice((2, 2, 3, 20)) + case[place:]
        case 1:
            return case[:place] + case[place + rng.choice((1, 1, 2, 5)) :]
        case 2:
            start = rng.randint(0, len(other))
            return case[:place] + other[start:]
        case 3:
            return case[:place] + other[: rng.randint(0, len(other))] + case[place:]
        case 4:
            case = list(case)
            rng.shuffle(case)
            return case
        case _:
            end = rng.randint(place, len(case))
            return case[:place] + case[place:end][::-1] + case[end:]


def _change(message: bytes, seeds: Sequence[Case], rng: random.Random) -> bytes:
    """Change one message."""
    data = bytearray(message)
    size = len(data)
    if not size:
        return rng.randbytes(rng.choice((1, 2, 20, 60)))
    place = rng.randrange(size)
    match rng.randrange(11):
        case 0:
            data[place] ^= 1 << rng.randrange(8)
        case 1:
            data[place] = rng.choice(_NUMBERS)
        case 2:
            data[place] = data[place] + rng.choice((-2, -1, 1, 2)) & 0xFF
        case 3:
            data[place : place + 2] = rng.choice(_WORDS).to_bytes(2, rng.choice(("big", "little")))
        case 4:
            data[place : place + 4] = rng.choice(_LONGS).to_bytes(4, "big")
        case 5:  # a number, changed by a little
            number = int.from_bytes(data[place : place + 4], "big")
            width = len(data[place : place + 4])
            number = number + rng.randint(-1500, 1500) & (1 << 8 * width) - 1
            data[place : place + 4] = number.to_bytes(width, "big")
        case 6:
            del data[place:]
        case 7:
            del data[place : place + rng.choice((1, 2, 4, 8, 20))]
        case 8:
            piece = rng.choice((data[place : place + rng.choice((1, 2, 4, 12))], rng.randbytes(4)))
            data[place:place] = piece * rng.choice((1, 1, 2, 16, 200))
        case 9:
            size = rng.choice((1, 6, 46, 1000, 1500, 9000, 60000))
            data += rng.randbytes(size) if rng.random() < 0.5 else bytes(size)
        case _:
            other = rng.choice(rng.choice(seeds) or [b""])
            start = rng.randint(0, len(other))
            end = start + rng.choice((1, 4, 12, 40))
            data[place : place + end - start] = other[start:end]
    return bytes(data[:0xFFFF])
