"""Standard descriptors that whoever started the program has closed.

What is opened next would take their numbers: a socket would be written to by `print`, and libuv
aborts over a pipe of its own at 0 to 2.
"""

import os
import sys


def open_closed() -> None:
    """Open the null device in place of those that are closed; to be called first of all."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is the lowest that is free, which `open` takes
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:  # `print` would take standard output in its place
        sys.stderr = os.fdopen(2, "w")
