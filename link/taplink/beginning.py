"""What a program does first, before the modules that take their time to import."""

import os
import signal
import sys


def begin() -> None:
    """Open closed standard descriptors, and let signals end the program without a word.

    SIGTERM by a handler, until the program has one of its own, for the first process of a
    container is not ended by default; and there is nothing to clean up yet.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    open_closed()


def open_closed() -> None:
    """Open the null device in place of standard descriptors that the program's parent has closed.

    What is opened next would take their numbers: a socket would be written to by `print`, and
    libuv aborts over a pipe of its own at 0 to 2.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # it is the lowest that is free, which `open` takes
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stderr is None:  # `print` would take standard output in its place
        sys.stderr = os.fdopen(2, "w")
