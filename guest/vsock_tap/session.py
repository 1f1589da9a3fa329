"""One link's time: frames are relayed, and the DHCP client is driven.

Leases run while the machine is suspended, and the loop's clock stands still then.  So the client
has another one, which is looked at once a minute: the loop cannot tell that it has slept.  How long
a lease is asked for in vain (`patience`) counts while the machine is awake.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from taplink.tap import Tap
from vsock_tap.dhcp import Client, Event, State
from vsock_tap.link import Link
from vsock_tap.patience import Patience, Unleased
from vsock_tap.relay import Relay

log = logging.getLogger(__name__)

FLUSH_TIMEOUT = 1.0
"""Seconds the last frame, a DHCPRELEASE, may take to leave."""
LONGEST_SLEEP = 60.0
"""Seconds until the clock is looked at again: so late is noticed that a lease has run out."""


def lease_time() -> float:
    """Return the seconds since the machine has booted, with those that it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Session:
    """One link's time: its relay, and the DHCP client driven over it.

    `client` is None where somebody else looks after the interface's addresses.
    """

    def __init__(
        self,
        tap: Tap,
        link: Link,
        client: Client | None,
        leases: asyncio.Queue[Event | Unleased],
        clock: Callable[[], float] = lease_time,
    ) -> None:
        """`clock` is what leases run by, in seconds."""
        self.relay = Relay(tap, link.sock, link.agreed, self._on_reply)
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._leases = leases
        self._clock = clock
        self._patience = Patience()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Relay, and ask for a lease."""
        self.relay.start()
        if self._client is not None:
            self._client.link_up(now=self._clock())
            self.pump()

    def stop(self) -> None:
        """End; the lease stays with the client."""
        self.relay.stop()
        if self._client is not None:
            self._client.link_down()
            self.pump()

    def refused(self) -> None:
        """Go on after the client has given up a lease: there is a server, for all that."""
        self.pump()
        self._patience.answered()

    async def release(self) -> None:
        """Give the lease back, as far as the link takes it in time."""
        if self._client is not None:
            self._client.release()
            self.pump()
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    await self.relay.flushed()
            except TimeoutError:
                log.warning("the link is stuck: the lease is not given back")

    def _on_reply(self, frame: memoryview) -> bool:
        assert self._client is not None
        taken = self._client.receive(frame, now=self._clock())
        if taken:
            self._patience.answered()
            self.pump()
        return taken

    def _on_timer(self) -> None:
        client, now = self._client, self._clock()
        assert client is not None
        if unleased := self._patience.timer_fired(now=self._loop.time()):
            self._leases.put_nowait(unleased)
        if (due := client.next_timer()) is not None and now >= due:
            client.timer_fired(now=now)
        self.pump()

    def pump(self) -> None:
        """Carry out what the client wants after something happened to it."""
        client = self._client
        assert client is not None
        for frame in client.frames_to_send():
            self.relay.inject(frame)
        while event := client.next_event():
            self._leases.put_nowait(event)
        self.relay.watch(client.waiting)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if client.state is State.INIT or client.lease is not None:
            self._patience.over()
        else:
            self._patience.asking(now=self._loop.time())
        delays = []
        if (due := client.next_timer()) is not None:
            delays.append(min(max(0.0, due - self._clock()), LONGEST_SLEEP))
        if (due := self._patience.next_timer()) is not None:
            delays.append(due - self._loop.time())
        if delays:
            self._timer = self._loop.call_later(min(delays), self._on_timer)
