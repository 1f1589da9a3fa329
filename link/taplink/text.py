"""Text for people, whatever strangers' values are in it."""

import re

_BYTES = re.compile(r"""(?:bytearray\()?\bb["'].*""", re.DOTALL)


def one_line(text: object) -> str:
    """Return `text` in one line that can be printed anywhere: what is unprintable is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def reason(error: Exception) -> str:
    """Return what to tell of an error: a system call's without its number."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def without_bytes(text: str) -> str:
    """Return a message of an HTTP library without the bytes that it quotes, which may be secret.

    Libraries quote at the end, as `repr` has it.
    """
    return _BYTES.sub("...", text)
