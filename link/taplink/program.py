"""A program in the place of a host: started with a socket for its standard input and output."""

import asyncio
import signal
import socket
from dataclasses import dataclass

from taplink.endpoint import Endpoint, EndpointError, set_unix_buffers
from taplink.text import reason

PATIENCE = 1.0
"""Seconds for a program that has closed its output to end as well."""

_programs: set[asyncio.Task[int]] = set()


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was started; it ends when `sock`, which is the caller's to close, does."""

    sock: socket.socket
    _waiting: asyncio.Task[int]

    async def end(self, patience: float = PATIENCE) -> str:
        """Return how it ended, once its side of the socket is closed."""
        await asyncio.wait([self._waiting], timeout=patience)
        if not self._waiting.done():
            return "the program has closed its output"
        status = self._waiting.result()
        if status >= 0:
            return f"the program ended with status {status}"
        try:
            return f"the program was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"the program was ended by signal {-status}"


async def start(endpoint: Endpoint) -> Program:
    """Start the endpoint's program; raises EndpointError where there is none that can be."""
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            set_unix_buffers(ours)
            set_unix_buffers(theirs)
            ours.setblocking(False)
            process = await asyncio.create_subprocess_exec(
                endpoint.path, *endpoint.arguments, stdin=theirs.fileno(), stdout=theirs.fileno()
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise EndpointError(f"{endpoint}: {reason(error)}") from error
            raise
    waiting = asyncio.get_running_loop().create_task(process.wait())
    _programs.add(waiting)  # whoever lets go of a process kills it
    waiting.add_done_callback(_programs.discard)
    return Program(ours, waiting)


async def programs_ended(timeout: float) -> None:
    """Wait, for so many seconds at most, until the programs have ended that were let go."""
    if _programs:
        await asyncio.wait(_programs, timeout=timeout)
