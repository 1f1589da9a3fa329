"""The ways from a client to the same servers: loopback, ours, slirp4netns's and pasta's.

All run in one namespace that stands for the host, with a namespace for each guest, so that their
figures differ by the way alone.  Every guest has an MTU of 1500.
"""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.lab import dns
from tests.lab.cabled import MTU, Setting, lay
from tests.lab.impairment import Impairment
from tests.lab.namespace import Namespace
from tests.lab.process import Process
from tests.lab.programs import GATEWAY, HOST, Agent, Gvproxy
from tests.lab.wait import NotYetError, until

LOOPBACK = "loopback"
OURS = "vsock-tap"
SLIRP = "slirp4netns"
PASTA = "pasta"

HTTP_PORT = 8080
IDLE_PORT = 9000

PLAIN_DEVICE = "192.168.127.100"
"""Set by hand, and none that the pool begins with: it would be leased to another."""
JUMBO_MTU = 65520
STALL_PORT = 5301
DOWNLOAD_PORT = 5302
OTHER_MAC = "5a:94:ef:e4:0c:f0"
_GATEWAY = "10.99.0.1"
"""Where the host's default route leads to; pasta lends this address to the host's loopback."""
_ADDRESS = "10.99.0.2"

_NGINX_CONF = """\
daemon off;
user root;
worker_processes 2;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 "hello, world\\n"; }}
    }}
}}
"""

_IDLE_SERVER = """\
import asyncio, sys
async def hold(reader, writer):
    await reader.read()
    writer.close()
async def main():
    await asyncio.start_server(hold, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@dataclass
class Way:
    """One way: a client in `client` reaches the host's loopback at `address`."""

    name: str
    host: Namespace
    client: Namespace
    address: str
    gateway: str
    """What is pinged."""
    name_server: str = ""
    """Which keeps answers; empty where there is none, or none that does."""
    plain: "Way | None" = None
    """The same for a guest without offloads, whose frames are of an MTU; loopback is its own."""
    jumbo: "Way | None" = None
    """The same with an MTU of 65520."""
    guests: "Way | None" = None
    """From one guest to another, which stands in for the host; loopback is its own."""
    busy: Callable[[], contextlib.AbstractContextManager[None]] | None = None
    """Has another guest download meanwhile."""
    stall: Callable[[], contextlib.AbstractContextManager[None]] | None = None
    """Has another guest not read meanwhile, in the midst of a download."""
    processes: Sequence[Process] = ()
    """What carries the traffic, for its CPU time and memory."""

    def cpu(self) -> float:
        """Return the seconds of CPU that its processes have used."""
        return sum(process.cpu() for process in self.processes)


@dataclass
class Bench:
    """All ways that are there, and the names of those that are not, with the reason."""

    host: Namespace
    ways: list[Way]
    skipped: dict[str, str]


def _namespace(name: str, folder: Path, resolvers: Sequence[str] = ()) -> Namespace:
    """Make a namespace that does not run out of ports: each connection holds one for a minute."""
    namespace = Namespace(name, folder, resolvers)
    namespace.set("net/ipv4/ip_local_port_range", "2000 65000")
    namespace.set("net/ipv4/tcp_tw_reuse", "1")
    return namespace


def _host(folder: Path) -> Namespace:
    host = _namespace("host", folder, ["127.0.0.1"])
    # A cable to nowhere with a default route: what pasta takes its addresses from.
    host.run("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    for device in ("wan0", "wan1"):
        host.run("ip", "link", "set", device, "up")
    host.run("ip", "address", "add", f"{_ADDRESS}/24", "dev", "wan0")
    host.run("ip", "route", "add", "default", "via", _GATEWAY)
    host.set("net/ipv4/ping_group_range", "0 0")
    return host


def _servers(host: Namespace) -> None:
    configuration = host.folder / "nginx.conf"
    configuration.write_text(_NGINX_CONF.format(folder=host.folder, port=HTTP_PORT))
    nginx = shutil.which("nginx") or "nginx"
    host.start("nginx", nginx, "-c", configuration)
    host.start("dns", *dns.command("127.0.0.1")).wait_for("ready")
    host.start("idle", sys.executable, "-c", _IDLE_SERVER, str(IDLE_PORT)).wait_for("ready")
    until(partial(_listens, host, HTTP_PORT), "nginx")


def _listens(host: Namespace, port: int) -> None:
    if f":{port} " not in host.run("ss", "-Hltn"):
        raise NotYetError("it does not listen")


def _until_routed(guest: Namespace, process: Process) -> None:
    def attempt() -> None:
        process.check()
        if "default " not in guest.run("ip", "-4", "route"):
            raise NotYetError("no default route")

    until(attempt, f"{process.name} has set up its guest")


def _ours(host: Namespace, stack: contextlib.ExitStack) -> Way:
    gvproxy = Gvproxy(host.folder, host)
    guest = stack.enter_context(_namespace("guest", host.folder))
    agent = Agent(guest, gvproxy.url, "-mtu", "1500")
    agent.wait()
    processes = gvproxy.process, agent.process
    way = Way(OURS, host, guest, HOST, GATEWAY, GATEWAY, processes=processes)
    way.plain = _plain(host, gvproxy, stack, "plain")
    flags = "-mtu", str(JUMBO_MTU)
    jumbo = Gvproxy(host.folder, host, *flags, name="gvproxy-jumbo")
    way.jumbo = _plain(host, jumbo, stack, "jumbo", JUMBO_MTU)
    other = stack.enter_context(_namespace("guest-other", host.folder))
    other_agent = Agent(other, gvproxy.url, "-mac", OTHER_MAC)
    address = other_agent.wait().address.partition("/")[0]
    way.guests = Way(OURS, other, guest, address, GATEWAY)
    way.busy = partial(_downloading, host, other)
    way.stall = partial(_stalled, host, other, other_agent)
    return way


def _plain(
    host: Namespace, gvproxy: Gvproxy, stack: contextlib.ExitStack, name: str, mtu: int = MTU
) -> Way:
    """A guest without offloads: a cable that impairs nothing is its machine."""
    guest = stack.enter_context(_namespace(f"guest-{name}", host.folder))
    setting = Setting(Impairment(), offload=False)
    process = lay(host.folder, setting, guest, gvproxy.url, PLAIN_DEVICE, mtu)
    stack.callback(process.stop, status=None)
    return Way(OURS, host, guest, HOST, GATEWAY, processes=(gvproxy.process, process))


@contextlib.contextmanager
def _downloading(host: Namespace, guest: Namespace) -> Iterator[None]:
    """Have a guest download without an end."""
    port = str(DOWNLOAD_PORT)
    server = host.start("iperf3-busy", "iperf3", "--server", "--one-off", "--port", port)
    until(partial(_listens, host, DOWNLOAD_PORT), "iperf3")
    client = guest.start("download", "iperf3", "-c", HOST, "-p", port, "-R", "-t", "3600")
    try:
        yield
    finally:
        client.kill()
        server.kill()


@contextlib.contextmanager
def _stalled(host: Namespace, guest: Namespace, agent: Agent) -> Iterator[None]:
    """Stop a guest's agent in the midst of a download, which fills what is queued for it."""
    with host.listen(port=STALL_PORT) as listener, guest.connect(HOST, STALL_PORT):
        sock, _ = listener.accept()
        with sock:
            sock.setblocking(False)
            with agent.process.standing_still():
                with contextlib.suppress(BlockingIOError):
                    while sock.send(bytes(1 << 20)):
                        pass
                yield


def _slirp(host: Namespace, stack: contextlib.ExitStack) -> Way:
    guest = stack.enter_context(_namespace("guest-slirp", host.folder))
    process = host.start(SLIRP, SLIRP, "--configure", "--mtu=1500", str(guest.pid), "tap0")
    _until_routed(guest, process)
    return Way(SLIRP, host, guest, "10.0.2.2", "10.0.2.2", processes=(process,))


def _pasta(host: Namespace, stack: contextlib.ExitStack) -> Way:
    guest = stack.enter_context(_namespace("guest-pasta", host.folder))
    # It gives up the right to look into /proc of the process that holds the namespace.
    handle = host.folder / "guest-pasta.netns"
    handle.touch()
    host.run("mount", "--bind", f"/proc/{guest.pid}/ns/net", handle)
    process = host.start(
        *(PASTA, PASTA, "--foreground", "--config-net", "--mtu", "1500", "--runas", "0"),
        *("--ipv4-only", "--interface", "wan0", "--netns-only", "--quiet"),
        *("--tcp-ports", "none", "--udp-ports", "none"),
        *("--tcp-ns", "none", "--udp-ns", "none", "--netns", handle),
    )
    _until_routed(guest, process)
    return Way(PASTA, host, guest, _GATEWAY, _GATEWAY, processes=(process,))


@contextlib.contextmanager
def set_up(folder: Path) -> Iterator[Bench]:
    """Start the servers and every way that is installed."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(_host(folder))
        _servers(host)
        loopback = Way(LOOPBACK, host, host, "127.0.0.1", "127.0.0.1")
        loopback.plain = loopback.jumbo = loopback.guests = loopback
        bench = Bench(host, [loopback], {})
        for name, make in ((SLIRP, _slirp), (PASTA, _pasta), (OURS, _ours)):
            if name != OURS and shutil.which(name) is None:
                bench.skipped[name] = "not installed"
                continue
            bench.ways.append(make(host, stack))
        yield bench
