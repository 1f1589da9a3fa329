"""The composition root: makes the parts of a daemon, joins them, and ends them in order.

Everything runs in one loop and one thread.  `run` is the daemon as a process; `Daemon` is the same
without signals.
"""

import asyncio
import logging
import signal
import socket
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from math import inf
from secrets import token_bytes

from gvproxy import activation, heap, sandbox
from gvproxy.activation import Inherited
from gvproxy.api.profiler import Profiler
from gvproxy.api.service import ApiService, sent_away
from gvproxy.api.stats import Totals, Tree, stats
from gvproxy.api.tunnel import Tunnels
from gvproxy.config import Config
from gvproxy.errors import ForwarderError, StartError
from gvproxy.flows.destinations import Destinations
from gvproxy.flows.echo import EchoFlows
from gvproxy.flows.tcp import TcpFlows
from gvproxy.flows.udp import UdpFlows
from gvproxy.limits import Quotas, within_descriptors
from gvproxy.listening import Dialect
from gvproxy.ports.access import Access, socket_owner
from gvproxy.ports.capture import Capture
from gvproxy.ports.guestport import GuestPort
from gvproxy.ports.guests import OFFLOADS, Guests
from gvproxy.ports.interfaces import Interfaces
from gvproxy.ports.lobby import MAX_WAITING
from gvproxy.ports.pipes import Pipes
from gvproxy.ports.reception import Reception
from gvproxy.process import (
    descriptor_limit,
    log_held_back,
    pid_file,
    raise_descriptor_limit,
    resident_bytes,
)
from gvproxy.sandbox import Explain
from gvproxy.services import dns
from gvproxy.services.dhcp import DhcpServer
from gvproxy.services.dns import DnsServer
from gvproxy.services.dnstcp import DnsTcp
from gvproxy.services.forwarder import Forwarder
from gvproxy.services.hosts import HostsFile
from gvproxy.services.keeper import Keeper
from gvproxy.services.listeners import Listeners
from gvproxy.services.localnames import LocalNames
from gvproxy.services.lookup import look_up
from gvproxy.services.notifications import Event, Notifications, Presence
from gvproxy.services.resolvconf import ResolvConf
from gvproxy.services.resolver import Resolver
from gvproxy.services.state import StateFile
from gvproxy.services.virtual import serve_dhcp, serve_dns
from gvproxy.services.zones import Zones
from gvproxy.shortage import Shortage
from gvproxy.stack.port import StackConfig
from gvproxy.stack.stack import Stack
from gvproxy.tcp.states import ESTABLISHED
from gvproxy.virtual import VirtualNetwork
from gvproxy.wire import ethernet
from taplink import endpoint, upgrade
from taplink.endpoint import Endpoint, EndpointError
from taplink.framing import HYPERKIT, TAPLINK, Framing
from taplink.notify import feed_watchdog, notifier
from taplink.text import reason
from taplink.upgrade import Request
from taplink.vnet import Offload

log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

RESERVED = 256 + 64 + 2 * MAX_WAITING
"""Descriptors beside those of the limits: links, listeners, and those who have not said yet what
they want."""

CLOCK = 0.001
"""Seconds; what the loop can tell apart."""

DRAIN_STEP = 0.02
"""Seconds between two looks at whether the last connection has ended."""


def run(config: Config, inherited: Sequence[Inherited] = ()) -> int:
    """Run a daemon until SIGTERM, SIGINT or SIGHUP.

    Returns the exit status; raises GvproxyError.
    """
    raise_descriptor_limit()
    sandbox.prepare(drop=config.drop_privileges)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config, inherited))


def _loop_factory() -> Callable[[], AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.SelectorEventLoop
    factory: Callable[[], AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(config: Config, inherited: Sequence[Inherited]) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(Shortage().handle)
    stop: asyncio.Future[str] = loop.create_future()
    at_once = asyncio.Event()

    def end(why: str) -> None:
        if stop.done():
            at_once.set()
        else:
            stop.set_result(why)

    numbers = [n for n in _END_SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]  # nohup(1)
    for number in numbers:
        loop.add_signal_handler(number, end, number.name)
    notify = notifier()
    daemon = Daemon(config, loop, inherited)
    daemon.deserted = lambda: end("its only guest has gone")
    if config.drop_privileges:
        daemon.confine = sandbox.confine
    try:
        with nullcontext() if config.log_level == logging.DEBUG else log_held_back():
            await daemon.start()
        log.info("gvproxy %s is ready", version("vsock-tap"))
        notify("READY=1")
        feed_watchdog(notify, loop)
        with heap.searched_when_quiet(loop, daemon.quotas.held):
            log.info("ending (%s)", await stop)
            notify("STOPPING=1")
            await daemon.drain(config.drain, at_once)
    finally:
        await daemon.close()
        for number in numbers:  # another Ctrl-C has nothing left to end
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
    return 0


class Daemon:
    """One virtual network and everything that serves it; implements `api.app.Backend`."""

    def __init__(
        self, config: Config, loop: AbstractEventLoop, inherited: Sequence[Inherited] = ()
    ) -> None:
        """`inherited` are sockets that listen already, and belong to the daemon."""
        self._config = config
        self._inherited = inherited
        self._loop = loop
        self._alarm: TimerHandle | None = None
        limits, rest = within_descriptors(config.limits, descriptor_limit(), RESERVED)
        limits = replace(limits, dhcp_leases=limits.dhcp_leases.within(_pool(config)))
        self.quotas = quotas = Quotas(limits)
        network = config.subnet
        owned = {config.gateway_ip, *config.virtual_ips}
        self.stack = Stack(
            StackConfig(
                mac=config.gateway_mac,
                gateway=config.gateway_ip.packed,
                network=int(network.network_address),
                mask=int(network.netmask),
                owned=frozenset(ip.packed for ip in owned),
                mtu=config.mtu,
                keepalive=config.keepalive,
                reserved=frozenset(ip.packed for ip in (config.host_ip, *config.nat)),
                source_checks=config.source_checks,
            ),
            secret=token_bytes(32),
            wake=self._wake,
            quotas=quotas,
        )
        destinations = self._destinations = Destinations(
            config.nat, network, link_local=config.ec2_metadata, rules=config.destinations
        )
        self.network = VirtualNetwork(self.stack, loop)
        self._tcp = TcpFlows(self.stack, loop, destinations, config.connect_timeout, rest)
        self._udp = UdpFlows(self.stack, loop, destinations, quotas)
        self._echo = EchoFlows(self.stack, loop, destinations, quotas)
        resolv_conf = ResolvConf()
        self._resolver = Resolver(resolv_conf, loop, quota=quotas.dns_queries)
        search = config.search_domains
        self._dhcp = DhcpServer(
            config,
            resolv_conf.search if search is None else lambda _: search,
            lambda address: self.stack.user(address.to_bytes(4, "big")),
            quotas.dhcp_leases,
        )
        if self.stack.guard is not None:
            self.stack.guard.binding = self._dhcp.owner
            self._dhcp.granted = self.stack.guard.granted
            self._dhcp.is_there = self.stack.guard.is_there
        hosts = HostsFile(destinations.loopback)
        names = LocalNames(Zones(config.zones), self._dhcp, hosts, config.gateway_ip, network)
        self._dns = DnsServer(names, self._resolver)
        serve_dhcp(self.stack, self._dhcp)
        serve_dns(self.stack, self._dns)
        self._dns_tcp = DnsTcp(self._dns, quotas.dns_queries)
        self._listeners = Listeners(loop, self.network, self._tcp.dial, quotas.udp_clients)
        resolve = partial(look_up, names)
        self.forwarder = Forwarder(config, self._listeners, resolve, quotas.published)
        self.forwarder.own_ports = destinations.own_ports

        self._keeper: Keeper | None = None

        def published_changed(count: int) -> None:
            """Have connections do without the descriptors of published ports."""
            self._tcp.limit = rest - count
            if self._keeper is not None:
                self._keeper.changed()

        self.forwarder.changed = published_changed
        self._tunnels = Tunnels(self.stack, loop, self._tcp, config.connect_timeout)
        posts = {"/connect": self._take_link, "/tunnel": self._take_tunnel}
        access = Access(config.api_token)
        profiler = Profiler() if config.debug else None
        self._api = ApiService(loop, self, access, limits.api_connections, profiler)
        waiting = limits.api_connections
        self._reception = Reception(loop, posts, self._api.take, access, waiting)
        posts = {"/tunnel": self._take_tunnel}
        self._desk = Reception(loop, posts, self._api.take, access, waiting)
        self.deserted: Callable[[], None] = lambda: None
        """Called when nobody is there any more, and nobody can come."""
        self.confine: Callable[[Config], Explain] = lambda config: sandbox.unconfined
        """Called when all is open that takes rights, and before guests come."""
        self._own: list[GuestPort | None] = []  # guests that we were started with
        self._guests = Guests(self.stack, loop, self._guest_left, limits)
        self._interfaces = Interfaces(loop, self._guests, config.mtu, config.vpnkit_macs)
        self._notifications = Notifications(config.notification) if config.notification else None
        self._presence = Presence(self._notify)
        self.stack.switch.appeared = self._presence.appeared
        self._sockets: dict[str, tuple[int, int] | None] = {}
        self._held = ExitStack()
        """What is given back at the very end."""

    async def start(self) -> None:
        """Listen and publish as configured; raises StartError, and `close` cleans up."""
        pipes = Pipes() if self._config.stdio else None
        if self._config.state_dir is not None:
            file = StateFile(self._config.state_dir)
            self._keeper = Keeper(file, self._loop, self._dhcp, self.zones, self.forwarder)
            self._keeper.restore()
        await self._api.start()
        if self._config.guest_api:
            await self._api.serve_guests(
                self.network,
                self._config.gateway_ip,
                self._is_gateway,
                self.quotas.guest_api_connections,
            )
        gateway = str(self._config.gateway_ip)
        await self.network.start_server(
            self._dns_tcp.serve, gateway, dns.PORT, quota=self.quotas.dns_connections
        )
        await self._publish()
        # A start that fails should not cost another daemon its pid file or its capture, nor let
        # guests in.
        with ExitStack() as bound:
            serve = self._bind(bound)
            if self._keeper is not None:
                await self._keeper.publish()
            self._held.enter_context(pid_file(self._config.pid_file))
            if self._config.pcap is not None:
                self._guests.capture = Capture(self._config.pcap, self._loop)
            self._listeners.explain = self.confine(self._config)
            bound.pop_all()
        # From here on nothing is waited for, so the first frame comes when all of it is there.
        for begin in serve:
            begin()
        for one in self._inherited:
            self._serve_inherited(one)
        self._notify(Event.READY)
        if pipes is not None:
            self._own.append(self._guests.attach_stream(pipes))
        for descriptor in self._config.descriptors:
            self._own.append(self._interfaces.attach(descriptor))
        if self._keeper is not None:
            self._keeper.begin()

    async def _publish(self) -> None:
        for forward in self._config.forwards:
            try:
                await self.forwarder.expose(forward.local, forward.remote, forward.protocol)
            except ForwarderError as error:
                hint = f"; {forward.hint}" if forward.hint else ""
                raise StartError(f"{error}{hint}") from error

    def _bind(self, bound: ExitStack) -> list[Callable[[], None]]:
        """Have the listening sockets, which `bound` closes; returns what begins to accept."""
        config, interfaces = self._config, self._interfaces
        places: list[tuple[str, Endpoint, Callable[[socket.socket, str], None]]] = [
            *(("-listen", where, self._reception.listen) for where in config.listen),
            *(("-services", where, self._desk.listen) for where in config.services),
            *(
                (f"-listen-{one.dialect}", one.endpoint, partial(interfaces.serve, one.dialect))
                for one in config.interfaces
            ),
        ]
        serve: list[Callable[[], None]] = []
        for flag, where, take in places:
            try:
                sock = bound.enter_context(endpoint.listen(where))
            except EndpointError as error:
                raise StartError(f"{flag}: {error}") from error
            self._destinations.protect(sock)
            if where.path:
                self._sockets[where.path] = endpoint.identity(where.path)
            log.info("listening at %s (%s)", where, flag)
            serve.append(partial(take, sock, str(where)))
        return serve

    def _serve_inherited(self, inherited: Inherited) -> None:
        self._destinations.protect(inherited.sock)
        owner = socket_owner(inherited.sock)  # systemd's SocketUser= (systemd.socket(5))
        if inherited.dialect is not None:
            self._interfaces.serve(inherited.dialect, inherited.sock, str(inherited))
        elif inherited.name == activation.SERVICES:
            self._desk.listen(inherited.sock, str(inherited), owner)
        else:
            self._reception.listen(inherited.sock, str(inherited), owner)
        log.info("listening at %s", inherited)
        if not inherited.known:
            known = ", ".join((*Dialect, activation.SERVICES))
            text = "%s is served as -listen is: other names than %s have no meaning"
            log.warning(text, inherited, known)

    def _notify(self, event: Event, mac: str = "") -> None:
        if self._notifications is not None:
            self._notifications.send(event, mac)

    def refuse(self) -> None:
        """Take no new connections, of the host or of guests; those that are there go on."""
        self._reception.close()
        self._desk.close()
        self._interfaces.refuse()
        self.forwarder.refuse()
        self._tcp.closing = True
        for path, listener in self._sockets.items():
            endpoint.unlink(path, listener)

    async def drain(self, seconds: float, at_once: asyncio.Event) -> None:
        """Refuse what is new, and give what is there so many seconds to end, or until `at_once`."""
        self.refuse()
        until = self._loop.time() + seconds
        while self._busy and self._loop.time() < until and not at_once.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(at_once.wait(), DRAIN_STEP)

    @property
    def _busy(self) -> bool:
        """A guest is there, and has a connection that may end well."""
        connected = self._tcp.open or self._tunnels.opening or self.forwarder.busy
        return bool(connected and self.stack.switch.ports)

    async def close(self) -> None:
        """End everything: the guests' connections are reset, their links closed."""
        self.refuse()
        if self._keeper is not None:
            await self._keeper.close()
            self._keeper = None
        await self.forwarder.close()
        self._tunnels.close()
        self._tcp.close()
        self.network.close()
        await self._dns_tcp.close()
        await asyncio.sleep(0)  # the loop's turn in which the resets leave
        self._interfaces.close()
        self._guests.close()
        self._udp.close()
        self._echo.close()
        self._resolver.close()
        if self._alarm is not None:
            self._alarm.cancel()
        if self._guests.capture is not None:
            self._guests.capture.close()
        await self._api.close()
        if self._notifications is not None:
            await self._notifications.close()
        self._held.close()

    # The stack's clock

    def _wake(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        # Rounded up, for uvloop has a clock of whole milliseconds.  A deadline at one waits for the
        # next: by a rounding error it may lie behind it, and we would wake again and again.
        self._alarm = self._loop.call_at((at // CLOCK + 1) * CLOCK, self._run_timers)

    def _run_timers(self) -> None:
        self._alarm = None
        self.stack.run_timers(self._loop.time())
        if self._alarm is None and self.stack.connections.deadline < inf:
            self._wake(self.stack.connections.deadline)

    # Connections to the daemon

    def _take_link(self, sock: socket.socket, request: Request) -> None:
        offered = upgrade.offered(request)
        framing, offload = HYPERKIT, Offload.NONE
        if offered is not None:
            framing, offload = TAPLINK, offered & OFFLOADS
            try:
                sock.send(upgrade.switching_protocols(offload))
            except OSError as error:
                log.info("a guest left during the handshake: %s", reason(error))
                sock.close()
                self._notify(Event.HYPERVISOR_ERROR)
                return
        self.attach(sock, framing, offload, request.rest)

    def attach(
        self,
        sock: socket.socket,
        framing: Framing = HYPERKIT,
        offload: Offload = Offload.NONE,
        rest: bytes = b"",
    ) -> None:
        """Attach the guest at the other end of a connected stream socket, non-blocking.

        The socket is the daemon's from then on, and closed when the guest has gone.  Frames come
        from the first byte on, without a handshake; `rest` has been read of them already.
        """
        self._guests.attach_stream(sock, framing, offload, rest)

    def _guest_left(self, port: GuestPort) -> None:
        self._presence.closed(port)
        if port in self._own:
            self._own.remove(port)
            config = self._config
            if not (self._own or config.listen or config.interfaces or self._inherited):
                self.deserted()

    def _take_tunnel(self, sock: socket.socket, request: Request) -> None:
        if not sent_away(sock):
            self._tunnels.open(sock, request)

    # What the API shows (gvproxy.api.app.Backend)

    def stats(self) -> Tree:
        counters = self._guests.counters()
        connections = self.stack.connections
        totals = Totals(
            bytes_sent=counters.bytes_out,
            bytes_received=counters.bytes_in,
            frames_sent=counters.frames_out,
            frames_received=counters.frames_in,
            frames_dropped=counters.dropped,
            ports=len(self.stack.switch.ports),
            stations=len(self.stack.switch.stations),
            connections=len(connections.find),
            established=sum(c.state is ESTABLISHED for c in connections.find.values()),
            flows=len(self._tcp.open),
            timers=connections.timers,
            failed_connections=self._tcp.failed,
            resident_bytes=resident_bytes(),
        )
        services = self._api.counters() | {
            "DHCP": self._dhcp.counters,
            "DNS": self._dns.counters,
            "DNSCache": self._dns.cache.counters,
            "Resolver": self._resolver.counters,
            "Destinations": self._destinations.counters,
        }
        uses = self.quotas.uses | self._guests.uses | self._api.uses
        uses["tcp_buffers"] = connections.buffered
        return stats(totals, self.stack.counters, connections.tcp_counters, services, uses)

    def _is_gateway(self, name: str) -> bool:
        """Tell whether a guest means the gateway by a name, or an address."""
        gateway = self._config.gateway_ip
        if name == str(gateway):
            return True
        return gateway in (self._dns.names.addresses(name, self._loop.time()) or ())

    @property
    def zones(self) -> Zones:
        return self._dns.names.zones

    def cam(self) -> dict[str, int]:
        return {
            ethernet.format_mac(mac): number for mac, number in self.stack.switch.table().items()
        }

    def ports(self) -> list[dict[str, object]]:
        return self._guests.describe()

    def leases(self) -> dict[str, str]:
        return self._dhcp.leases(now=self._loop.time())


def _pool(config: Config) -> int:
    """Return how many addresses guests can have, so that none of them has all."""
    own = {config.gateway_ip, config.host_ip, *config.virtual_ips}
    return max(1, config.subnet.num_addresses - 2 - len(own))
