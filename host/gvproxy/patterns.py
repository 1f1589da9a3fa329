"""Which regular expressions may look at the names that guests ask for.

A guest chooses the name, and `re` goes back and tries again wherever a pattern leaves it a choice:
`(a+)+$` would keep the daemon for years over thirty letters.  So the choices are counted before a
pattern is taken.  Go's gvproxy, whose regexp never goes back, takes any.
"""

import re
from re import _parser  # type: ignore[attr-defined]  # without a public equivalent
from typing import Any

MAX_GROUPS = 100
"""`re` calls itself for each that is in another."""
NAME = 256
"""Characters a pattern may be shown."""
MAX_WAYS = 1 << 25
"""Ways to match: three repeats without bound, of which one is that the pattern may begin anywhere.
"""
MAX_CHOICES = 1 << 18
"""The same without the longest repeat of one character, for which `re` has a loop that takes no
time: 30 ms at the most."""

_CHARACTERS = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}

_Node = list[tuple[object, Any]]  # what `re` makes of a pattern: operations and their arguments


def check_pattern(pattern: str) -> None:
    """See that a pattern can be compiled and takes no time; raises ValueError with the reason."""
    if pattern.count("(") > MAX_GROUPS:
        raise ValueError(f"it has more than {MAX_GROUPS} groups")
    try:
        re.compile(pattern)
        parsed = list(_parser.parse(pattern))
    except (re.error, ValueError, OverflowError) as error:  # the latter two: of numbers and flags
        raise ValueError(str(error)) from None
    ways = _ways(parsed) * (1 if _is_anchored(parsed) else NAME)
    if ways > MAX_WAYS or ways // _longest(parsed) > MAX_CHOICES:
        raise ValueError(
            "a name could take it too long: it has too many repeats, or some in others"
        )


def _is_anchored(node: _Node) -> bool:
    return bool(node) and str(node[0][0]) == "AT" and str(node[0][1]).startswith("AT_BEGINNING")


def _ways(node: _Node) -> int:
    """Return how many ways there are through a pattern, one above `MAX_WAYS` for all more."""
    ways = 1
    for operation, argument in node:
        ways = min(ways * _ways_of(str(operation), argument), MAX_WAYS + 1)
    return ways


def _longest(node: _Node) -> int:
    """Return how many ways there are through the longest repeat of one character, but for those
    that are repeated themselves.
    """
    longest = 1
    for operation, argument in node:
        match str(operation):
            case "MAX_REPEAT" | "MIN_REPEAT":
                low, high, body = argument
                if high <= 1 or (len(body) == 1 and str(body[0][0]) in _CHARACTERS):
                    longest = max(longest, _longest(list(body)), min(high, NAME) - low + 1)
            case "SUBPATTERN":
                longest = max(longest, _longest(list(argument[3])))
    return longest


def _ways_of(operation: str, argument: Any) -> int:
    match operation:
        case "MAX_REPEAT" | "MIN_REPEAT":
            low, high, body = argument
            low, high = min(low, NAME), min(high, NAME)
            once = _ways(list(body))
            if high > 1 < once:  # powers of it are out of bounds soon
                return int(min(once, 2) ** high if high > 25 else once**high)
            return int(high - low + 1) * once
        case "BRANCH":
            return sum(_ways(list(branch)) for branch in argument[1])
        case "SUBPATTERN":
            return _ways(list(argument[3]))
        case "ASSERT" | "ASSERT_NOT":
            return _ways(list(argument[1]))
        case "ATOMIC_GROUP":
            return _ways(list(argument))
        case "POSSESSIVE_REPEAT":
            return _ways(list(argument[2])) * NAME
        case "GROUPREF_EXISTS":
            return sum(_ways(list(one)) for one in argument[1:] if one is not None)
    return 1
