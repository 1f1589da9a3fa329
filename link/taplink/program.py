"""A program in the place of a host: started with a socket for its standard input and output."""

import asyncio
import os
import signal
import socket
import subprocess
from contextlib import suppress
from dataclasses import dataclass

from taplink.endpoint import Endpoint, EndpointError, set_unix_buffers
from taplink.text import reason

PATIENCE = 1.0
"""Seconds for a program that has closed its output to end as well."""
LAST_PATIENCE = 3.0
"""Seconds for it to end by itself, before the next one is started, and then for SIGTERM."""

_programs: dict[asyncio.Task[int], subprocess.Popen[bytes]] = {}
"""Those that run, by what waits for their ends."""


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
    """Start the endpoint's program, one at a time: what runs already is ended before.

    Raises EndpointError where there is none that can be started, OSError where that may change.
    """
    await programs_ended(LAST_PATIENCE)
    if _programs:
        raise OSError("the program before it does not end")
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            set_unix_buffers(ours)
            set_unix_buffers(theirs)
            ours.setblocking(False)
            # Not by the loop: uvloop's programs inherit further descriptors of the socket, which
            # would stay open when the program closes its own.
            process = subprocess.Popen(
                [endpoint.path, *endpoint.arguments],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
            )
            descriptor = _descriptor(process)
        except BaseException as error:
            ours.close()
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise EndpointError(f"{endpoint}: {reason(error)}") from error
            raise
    waiting = asyncio.get_running_loop().create_task(_wait(process, descriptor, ours))
    _programs[waiting] = process
    waiting.add_done_callback(_programs.pop)
    return Program(ours, waiting)


def _descriptor(process: subprocess.Popen[bytes]) -> int:
    """Return a pidfd, by which the loop learns of the program's end."""
    try:
        return os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.wait()
        raise


async def _wait(process: subprocess.Popen[bytes], descriptor: int, sock: socket.socket) -> int:
    """Wait for the program's end, which is the link's, even if a child of it has the socket."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    with suppress(OSError):  # it is closed already
        sock.shutdown(socket.SHUT_RDWR)
    return process.wait()


async def programs_ended(patience: float) -> None:
    """Wait until the programs have ended that were let go.

    After so many seconds they are told to by SIGTERM, after as many again by SIGKILL.
    """
    if _programs:
        await asyncio.wait(_programs, timeout=patience)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in _programs.values():
            with suppress(PermissionError):  # it is another user's by now
                process.send_signal(number)
        if _programs:
            await asyncio.wait(_programs, timeout=patience)
