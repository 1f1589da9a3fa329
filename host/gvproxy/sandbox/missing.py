"""Why a layer of the sandbox is not there."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingError(Exception):
    """A layer cannot be had; the text says what lacks, in a word or two."""


@contextmanager
def library(name: str) -> Iterator[None]:
    """Have a library that cannot be imported, or not be used, end in MissingError."""
    try:
        yield
    except ImportError:
        raise MissingError(f"without {name}") from None
    except (OSError, RuntimeError, AttributeError) as error:  # a C library that is missing, or old
        raise MissingError(f"{name}: {error}") from None
