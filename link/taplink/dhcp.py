"""What client and server have in common of DHCP."""

from collections.abc import Iterable


def join_options(parts: Iterable[tuple[int, bytes]]) -> dict[int, bytes]:
    """Return options by their codes; one that comes several times comes in parts (RFC 3396 §5)."""
    options: dict[int, bytes] = {}
    for code, data in parts:
        options[code] = options.get(code, b"") + data
    return options
