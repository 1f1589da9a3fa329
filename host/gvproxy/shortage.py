"""What is said where memory or descriptors have run out in the midst of something.

Who calls the kernel looks after that, and knows what is lost.  But MemoryError can come from any
line, and libraries have calls of their own.  It ends one callback of the loop, and the next may do
better: a traceback of each would fill the log.
"""

import logging
from asyncio import AbstractEventLoop

from gvproxy.complaint import Complaint
from gvproxy.errors import OUT_OF_RESOURCES
from taplink.text import reason

log = logging.getLogger(__name__)


class Shortage:
    """Its `handle` is for a loop's `set_exception_handler`."""

    def __init__(self) -> None:
        self._complaint = Complaint(log)

    def handle(self, loop: AbstractEventLoop, context: dict[str, object]) -> None:
        """Say in a line what is want; leave all else to the loop."""
        error = context.get("exception")
        if isinstance(error, MemoryError) or (
            isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES
        ):
            why = reason(error) or "out of memory"
            self._complaint.make(loop.time(), "something was left undone: %s", why)
            log.debug("what was left undone", exc_info=error)
        else:
            loop.default_exception_handler(context)
