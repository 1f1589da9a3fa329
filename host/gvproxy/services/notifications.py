"""Tells whoever started gvproxy what happens: JSON objects to a unix socket, as Go's gvproxy does.

Each goes over a connection of its own and ends with a newline, so that a listener which comes late,
or goes in between, misses only what it was not there for.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from gvproxy.complaint import Complaint
from gvproxy.stack.port import Port
from gvproxy.wire.ethernet import format_mac
from taplink.text import reason

log = logging.getLogger(__name__)

MAX_WAITING = 256
"""Notifications that a slow listener may be behind; then the oldest is dropped."""
PATIENCE = 5.0
"""Seconds a listener may take for one."""
MAX_TOLD = 1024
"""MAC addresses whose end is still to be told."""
LAST_PATIENCE = 1.0
"""Seconds the daemon's end waits for what is left."""


class Event(StrEnum):
    """What is told."""

    READY = "ready"
    ESTABLISHED = "connection_established"  # a guest's first frame
    CLOSED = "connection_closed"
    HYPERVISOR_ERROR = "hypervisor_error"  # a link could not be made


class Presence:
    """Turns MAC addresses behind ports into events: a guest has come, a guest has gone."""

    def __init__(self, send: Callable[[Event, str], None]) -> None:
        self._send = send
        self._ports: dict[bytes, int] = {}

    def appeared(self, mac: bytes, port: Port) -> None:
        """Take note of a frame from a MAC address that was not behind this port."""
        if mac not in self._ports:
            if len(self._ports) >= MAX_TOLD:
                return
            self._send(Event.ESTABLISHED, format_mac(mac))
        self._ports[mac] = port.number

    def closed(self, port: Port) -> None:
        """Take note of the end of a port; guests that have moved to another are still there."""
        for mac in [mac for mac, number in self._ports.items() if number == port.number]:
            del self._ports[mac]
            self._send(Event.CLOSED, format_mac(mac))


class Notifications:
    """Sends to the socket at `path`, one after the other; runs in the loop that it is made in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: deque[str] = deque(maxlen=MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._complaint = Complaint(log)

    def send(self, event: Event, mac: str = "") -> None:
        """Have `event` told; `mac` is whose, where it is a guest's."""
        message = {"notification_type": event.value} | ({"mac_address": mac} if mac else {})
        self._waiting.append(json.dumps(message, separators=(",", ":")))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._deliver())

    async def close(self) -> None:
        """Wait a little for what is on its way, and give the rest up."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=LAST_PATIENCE)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _deliver(self) -> None:
        while self._waiting:
            line = self._waiting.popleft()
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._tell(line.encode() + b"\n")
            except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
                now = asyncio.get_running_loop().time()
                self._complaint.make(now, "-notification %s: %s", self._path, reason(error))

    async def _tell(self, line: bytes) -> None:
        _, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(line)
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()
