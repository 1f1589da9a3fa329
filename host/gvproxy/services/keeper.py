"""Keeps in `state` what a daemon is told while it runs, and gives it back to the next one."""

import asyncio
import logging
import time
from asyncio import AbstractEventLoop, TimerHandle
from ipaddress import IPv4Address

from gvproxy.config import Forward
from gvproxy.errors import AlreadyExposedError, BadZoneError, ForwarderError
from gvproxy.services import background
from gvproxy.services.dhcp import LEASE_TIME, DhcpServer
from gvproxy.services.forwarder import Forwarder
from gvproxy.services.leases import Lease
from gvproxy.services.state import SavedLease, State, StateFile, encode
from gvproxy.services.zones import Zones
from taplink.text import reason

log = logging.getLogger(__name__)

SAVE_DELAY = 1.0
"""Seconds from a change to the file, which has what changes meanwhile as well."""
RETRY_DELAY = 5.0
"""Seconds until a file that could not be written is tried again."""


class Keeper:
    """Saves some time after a change, and in a thread: disks may be slow."""

    def __init__(
        self,
        file: StateFile,
        loop: AbstractEventLoop,
        dhcp: DhcpServer,
        zones: Zones,
        forwarder: Forwarder,
    ) -> None:
        self._file = file
        self._loop = loop
        self._dhcp = dhcp
        self._zones = zones
        self._forwarder = forwarder
        self._ready = False
        self._last = State()
        self._configured: set[Forward] = set()
        self._timer: TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._failing = False

    def restore(self) -> None:
        """Give back the leases and names that the last daemon had; raises StartError.

        A lease that has run out, by a clock that may have been set meanwhile, is still its guest's
        to ask for.
        """
        self._last = self._file.load()
        now = self._loop.time()
        since_1970 = time.time() - now
        for saved in self._last.leases:
            self._restore_lease(saved, since_1970, now)
        for zone in self._last.zones:
            try:
                self._zones.add(zone)
            except BadZoneError as error:
                log.warning("the zone %s is not given back: %s", zone.name, error)

    async def publish(self) -> None:
        """Publish again what the last daemon had.

        What is published already is the configuration's, and not kept.  What cannot be had any more
        is said and forgotten.
        """
        self._configured = set(self._forwarder.kept())
        for forward in self._last.forwards:
            await self._restore_forward(forward)

    def begin(self) -> None:
        """Save what changes from now on; a start that fails does not get so far."""
        self._dhcp.changed = self._zones.changed = self.changed
        self._ready = True
        if self._last != self._collect():
            self.changed()

    def _restore_lease(self, saved: SavedLease, since_1970: float, now: float) -> None:
        lease = Lease(
            int(IPv4Address(saved.address)),
            bytes.fromhex(saved.key),
            bytes.fromhex(saved.mac.replace(":", "")),
            min(saved.expires - since_1970, now + LEASE_TIME),  # whatever happened to the clock
            bound=True,
            name=saved.name,
        )
        if not self._dhcp.restore(lease, now):
            log.info("%s is no longer an address for %s", saved.address, saved.mac)

    async def _restore_forward(self, forward: Forward) -> None:
        try:
            await self._forwarder.expose(forward.local, forward.remote, forward.protocol)
        except AlreadyExposedError:
            pass  # the configuration has it now
        except ForwarderError as error:
            log.warning("%s %s is not published again: %s", forward.protocol, forward.local, error)

    def changed(self) -> None:
        """Have the state saved, once all of the last daemon's is there."""
        if self._ready and self._timer is None:
            self._timer = self._loop.call_later(SAVE_DELAY, self._save)

    async def close(self) -> None:
        """Save what has changed, and let another daemon have the file."""
        if self._saving is not None:
            await self._saving
        if self._timer is not None:
            self._timer.cancel()
            try:
                self._file.save(encode(self._collect()))
            except OSError as error:
                log.warning("-state-dir: the state is not saved: %s", reason(error))
        self._file.close()

    def _collect(self) -> State:
        now = self._loop.time()
        since_1970 = time.time() - now
        return State(
            leases=[
                SavedLease(
                    address=str(IPv4Address(lease.address)),
                    key=(lease.key or b"").hex(),
                    mac=lease.mac.hex(":"),
                    name=lease.name,
                    expires=round(lease.expires + since_1970),
                )
                for lease in self._dhcp.bound(now)
            ],
            forwards=[one for one in self._forwarder.kept() if one not in self._configured],
            zones=self._zones.added,
        )

    def _save(self) -> None:
        self._timer = None
        if self._saving is not None:  # the disk is slower than the delay
            self.changed()
            return
        self._saving = self._loop.create_task(self._write(encode(self._collect())))

    async def _write(self, text: bytes) -> None:
        try:
            await background.call(lambda: self._file.save(text))
        except OSError as error:
            if not self._failing:
                log.warning("-state-dir: the state is not saved: %s; trying again", reason(error))
            self._failing = True
            if self._timer is None:
                self._timer = self._loop.call_later(RETRY_DELAY, self._save)
        else:
            if self._failing:
                log.info("-state-dir: the state is saved again")
            self._failing = False
        finally:
            self._saving = None
