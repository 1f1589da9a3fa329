"""Joins the parts: from the tap to the last clean-up.

    tap ── relay ── link          one relay a link, links for ever, one tap
             │
           dhcp.Client ── session drives it; its leases go, in order, to `_apply_leases`
                                            │
                                   network, resolver, systemd

The link may come and go at any time; tap, address, route and resolv.conf only follow leases.
"""

import asyncio
import logging
import random
import signal
import socket
from ipaddress import IPv4Address, IPv4Interface
from math import inf

from dpkt.arp import ARP, ARP_OP_REQUEST
from dpkt.ethernet import ETH_TYPE_ARP, Ethernet

from taplink.endpoint import EndpointError
from taplink.framing import LinkError
from taplink.notify import feed_watchdog, notifier
from taplink.program import programs_ended
from taplink.tap import Tap, open_tap
from taplink.vnet import format_offload
from vsock_tap.config import DEFAULT_MTU, MAX_MTU, MIN_MTU, Config
from vsock_tap.dhcp import REFUSED_DELAY, Bound, Client, Event, Ignored, Lost
from vsock_tap.errors import AgentError, RefusedError
from vsock_tap.lease import Lease
from vsock_tap.link import Backoff, Link, describe, open_link
from vsock_tap.network import Network
from vsock_tap.patience import Unleased
from vsock_tap.resolvers import choose
from vsock_tap.session import Session, lease_time

log = logging.getLogger(__name__)

COMPLAINT_INTERVAL = 60.0  # seconds
PROGRAM_PATIENCE = 3.0
"""Seconds for a program whose guest we were to end by itself."""


class Agent:
    """The agent, from `run` to its end."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._rng = random.Random()
        self._network = Network(config.interface)
        self._resolver = choose(config.resolv_conf, config.interface, config.state_directory)
        self._claimed = False  # names are this agent's to look after
        self._telling: asyncio.Task[None] | None = None  # of name servers
        self._told = True  # unless that failed
        self._notify = notifier()
        self._leases: asyncio.Queue[Event | Unleased] = asyncio.Queue()
        self._lease: Lease | None = None  # in effect
        self._complained_at = -inf  # of leases
        self._session: Session | None = None
        self._client: Client | None = None
        self._announcement: bytes | None = None

    async def run(self) -> None:
        """Work until a signal ends it; raises AgentError or TapError when that is impossible."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
                loop.add_signal_handler(number, stop.set)
        feed_watchdog(self._notify, loop)
        self._status("no link yet")
        with open_tap(self._config.interface, preexisting=self._config.preexisting) as tap:
            try:
                await self._claim_resolver()
                await self._set_up(tap)
                await self._work(tap, stop)
            finally:
                await self._clean_up()

    async def _set_up(self, tap: Tap) -> None:
        config = self._config
        if config.preexisting and (addresses := await self._network.foreign_addresses()):
            mac = await self._network.mac()
            self._announcement = _announcement(mac, addresses[0])
            log.info("%s has the address %s: only frames are relayed", tap.name, addresses[0])
            return
        await self._network.set_up(config.mac, config.mtu or DEFAULT_MTU)
        self._client = Client(
            bytes.fromhex(config.mac.replace(":", "")), self._rng, socket.gethostname()
        )
        log.info("%s is up, MAC %s", tap.name, config.mac)

    async def _work(self, tap: Tap, stop: asyncio.Event) -> None:
        """Run until `stop` is set or one of the tasks fails."""
        workers = [
            asyncio.create_task(self._keep_linked(tap)),
            asyncio.create_task(self._apply_leases()),
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *workers], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
            self._notify("STOPPING=1")
            log.info("ending")
            if self._session is not None:
                await self._session.release()
        finally:
            for task in (stopped, *workers):
                task.cancel()
            await asyncio.gather(stopped, *workers, return_exceptions=True)

    # The link

    async def _keep_linked(self, tap: Tap) -> None:
        """Connect and relay, again and again; raises AgentError when the tap or the URL is why."""
        offload = tap.offload  # what the kernel takes
        backoff = Backoff(self._rng)
        reason = ""
        while True:
            try:
                link = await open_link(self._config.endpoint, offload, self._config.bearer)
            except EndpointError as error:
                raise AgentError(str(error)) from error
            except (OSError, LinkError) as error:
                if reason != (reason := describe(error)):
                    log.warning("no link to %s: %s; trying again", self._config.endpoint, reason)
                    self._status(f"no link: {reason}")
            else:
                try:
                    reason = await link.why(await self._relay(tap, link, backoff))
                finally:
                    link.sock.close()
                log.warning("the link has ended: %s; connecting again", reason)
                self._status(f"no link: {reason}")
            await asyncio.sleep(backoff.next())

    async def _relay(self, tap: Tap, link: Link, backoff: Backoff) -> Exception:
        """Relay until the link ends, and return the error that ended it."""
        agreed = link.agreed
        tap.set_offload(agreed.offload)
        names = format_offload(agreed.offload) or "no offloads"
        log.info("linked to %s: %s, %s", self._config.endpoint, agreed.framing.name, names)
        loop = asyncio.get_running_loop()
        began = loop.time()
        session = Session(tap, link, self._client, self._leases)
        session.start()
        self._session = session
        self._status("linked" if self._lease is None else f"lease {self._lease}")
        if self._announcement is not None:
            session.relay.inject(self._announcement)
            self._notify("READY=1")
        try:
            await session.relay.ended()
        except (OSError, LinkError, EOFError) as error:
            return error
        finally:
            self._session = None
            session.stop()
            backoff.link_ended(loop.time() - began)
            log.debug("relayed %s", session.relay.counters)
        raise AssertionError("a relay ends by an error")

    # Leases

    async def _apply_leases(self) -> None:
        """Put each lease into effect, in order; not stopped by the end of a link."""
        while True:
            match await self._leases.get():
                case Bound(lease):
                    await self._bind(lease)
                case Lost(reason):
                    await self._unbind(reason)
                case Ignored(reason):
                    self._complain(f"the server's answer is ignored, {reason}")
                case Unleased() as unleased:
                    text = _describe_unleased(unleased)
                    self._complain(text)
                    self._status(text)

    async def _bind(self, lease: Lease) -> None:
        """Put a lease into effect; one that is already is checked, for a route is easily lost."""
        renewed = lease == self._lease
        mtu = self._mtu(lease)
        address = IPv4Interface((lease.address, lease.prefix_length))
        try:
            if not renewed:
                await self._network.set_mtu(mtu)
            await self._network.configure(address, lease.router)
        except RefusedError as error:
            if renewed:
                self._complain(f"lease {lease} is only partly in effect: {error}")
            else:
                await self._refuse(lease, error)
            return
        self._complained_at = -inf
        if renewed:
            log.debug("lease %s again", lease)
            if not self._told:
                await self._tell_resolver(lease)
            return
        log.info("lease %s", lease, extra={"ADDRESS": str(address), "ROUTER": str(lease.router)})
        route = f"default route by {lease.router}"
        if lease.router is None:
            route = f"no default route (the lease has no router in {address.network})"
        log.info("address %s, %s, MTU %d", address, route, mtu)
        if (wanted := self._config.mtu or 0) > mtu:
            log.info("the host offers an MTU of %d, so it is %d, not %d", mtu, mtu, wanted)
        self._lease = lease
        await self._tell_resolver(lease)
        self._notify("READY=1")
        self._status(f"lease {lease}")

    async def _refuse(self, lease: Lease, error: RefusedError) -> None:
        """Do without a lease the kernel does not take, until the client has another one."""
        again = f"asking again every {REFUSED_DELAY:.0f} s"
        self._complain(f"lease {lease} cannot be used: {error}; {again}")
        assert self._client is not None
        self._client.refuse(lease, now=lease_time())
        if self._session is not None:
            self._session.refused()
        await self._remove_lease()

    async def _unbind(self, reason: str) -> None:
        log.warning("the lease is lost: %s", reason)
        await self._remove_lease()

    async def _remove_lease(self) -> None:
        self._lease = None
        self._status("no lease")
        try:
            await self._network.clear()
        except RefusedError as error:
            log.warning("address and route are not removed: %s", error)

    def _complain(self, text: str) -> None:
        """Log a warning, once a minute: a server with bad leases is asked again and again."""
        now = asyncio.get_running_loop().time()
        warn = now - self._complained_at >= COMPLAINT_INTERVAL
        if warn:
            self._complained_at = now
        log.log(logging.WARNING if warn else logging.DEBUG, "%s", text)

    def _mtu(self, lease: Lease) -> int:
        """Return the lease's MTU, or less if the command line says less."""
        # Deviation: less than MIN_MTU, which RFC 2132 §5.1 allows, counts as nothing said.
        offered = lease.mtu if lease.mtu is not None and lease.mtu >= MIN_MTU else None
        return min(self._config.mtu or offered or DEFAULT_MTU, offered or MAX_MTU, MAX_MTU)

    async def _claim_resolver(self) -> None:
        self._claimed = self._resolver.claim()
        if self._claimed:
            await self._restore_resolver("left behind by an agent that did not end well")
        else:
            log.info("%s is looked after by another agent, and left alone", self._resolver)

    async def _tell_resolver(self, lease: Lease) -> None:
        if not (self._claimed and lease.nameservers):
            return
        telling = asyncio.to_thread(self._resolver.write, lease.nameservers, lease.search)
        self._telling = asyncio.create_task(telling)
        try:
            await asyncio.shield(self._telling)  # its thread would go on beside `restore`
            self._told = True
        except OSError as error:
            self._told = False
            log.error("%s is not written: %s", self._resolver, describe(error))
            return
        servers = ", ".join(str(address) for address in lease.nameservers)
        log.info("names are looked up at %s, by %s", servers, self._resolver)

    async def _restore_resolver(self, why: str) -> None:
        if self._telling is not None:
            await asyncio.wait([self._telling])
        try:
            if await asyncio.to_thread(self._resolver.restore):
                log.info("%s is restored: %s", self._resolver, why)
        except OSError as error:
            text = "%s is not restored: %s%s"
            log.error(text, self._resolver, describe(error), self._resolver.kept)

    # The end

    async def _clean_up(self) -> None:
        try:
            if self._client is not None:
                await self._network.clear()
        except AgentError as error:
            log.debug("nothing to remove: %s", error)
        finally:
            if self._claimed:
                await self._restore_resolver("the agent ends")
                self._resolver.release()
            await programs_ended(PROGRAM_PATIENCE)

    def _status(self, text: str) -> None:
        self._notify(f"STATUS={text}")


def _describe_unleased(unleased: Unleased) -> str:
    if unleased.answered:
        return f"no lease in {unleased.seconds:.0f} s, though a DHCP server answers"
    return (
        f"no answer to DHCP in {unleased.seconds:.0f} s: "
        "the other end may be no gvproxy, or has no address left"
    )


def _announcement(mac: str, address: IPv4Address) -> bytes:
    """Build a gratuitous ARP request (RFC 5227 §3), from which a switch learns the MAC."""
    packed = bytes.fromhex(mac.replace(":", ""))
    arp = ARP(op=ARP_OP_REQUEST, sha=packed, spa=address.packed, tpa=address.packed)
    return bytes(Ethernet(src=packed, dst=b"\xff" * 6, type=ETH_TYPE_ARP, data=arp))
