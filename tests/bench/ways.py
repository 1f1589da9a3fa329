"""The ways from a client to the same servers: loopback, ours, slirp4netns's and pasta's.

All run in one namespace that stands for the host, with a namespace for each guest, so that their
figures differ by the way alone.  Every guest has an MTU of 1500.
"""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespace import Namespace
from tests.lab.process import Process
from tests.lab.programs import HOST, Agent, Gvproxy
from tests.lab.wait import NotYetError, until

LOOPBACK = "loopback"
OURS = "vsock-tap"
SLIRP = "slirp4netns"
PASTA = "pasta"

HTTP_PORT = 8080
IPERF_PORT = 5201
IDLE_PORT = 9000

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
import selectors, socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
print("ready", flush=True)
held = []
while True:
    held.append(server.accept())
"""


@dataclass
class Way:
    """One way: a client in `client` reaches the host's loopback at `address`."""

    name: str
    client: Namespace
    address: str
    gateway: str
    """What is pinged."""
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


def _host(folder: Path) -> Namespace:
    host = Namespace("host", folder)
    # A cable to nowhere with a default route: what pasta takes its addresses from.
    host.run("ip", "link", "add", "wan0", "type", "veth", "peer", "name", "wan1")
    for device in ("wan0", "wan1"):
        host.run("ip", "link", "set", device, "up")
    host.run("ip", "address", "add", f"{_ADDRESS}/24", "dev", "wan0")
    host.run("ip", "route", "add", "default", "via", _GATEWAY)
    host.set("net/ipv4/ping_group_range", "0 0")
    _ports(host)
    return host


def _ports(namespace: Namespace) -> None:
    """Let many short connections follow one another: the load is the path, not the port range."""
    namespace.set("net/ipv4/ip_local_port_range", "10000 65535")
    namespace.set("net/ipv4/tcp_tw_reuse", "1")


def _servers(host: Namespace) -> None:
    configuration = host.folder / "nginx.conf"
    configuration.write_text(_NGINX_CONF.format(folder=host.folder, port=HTTP_PORT))
    nginx = shutil.which("nginx") or "nginx"
    host.start("nginx", nginx, "-c", configuration)
    host.start("iperf3", "iperf3", "-s", "-B", "127.0.0.1", "-p", str(IPERF_PORT))
    host.start("idle", sys.executable, "-c", _IDLE_SERVER, str(IDLE_PORT)).wait_for("ready")
    for port in (HTTP_PORT, IPERF_PORT):
        _until_listening(host, port)


def _until_listening(host: Namespace, port: int) -> None:
    def attempt() -> None:
        if f":{port} " not in host.run("ss", "-Hltn"):
            raise NotYetError("nobody listens")

    until(attempt, f"port {port}")


def _guest(folder: Path, name: str, stack: contextlib.ExitStack) -> Namespace:
    guest = stack.enter_context(Namespace(name, folder))
    _ports(guest)
    return guest


def _until_routed(guest: Namespace, process: Process) -> None:
    def attempt() -> None:
        process.check()
        if "default " not in guest.run("ip", "-4", "route"):
            raise NotYetError("no default route")

    until(attempt, f"{process.name} has set up its guest")


def _ours(host: Namespace, stack: contextlib.ExitStack) -> Way:
    gvproxy = Gvproxy(host.folder, host)
    guest = _guest(host.folder, "guest", stack)
    agent = Agent(guest, gvproxy.url, "-mtu", "1500")
    agent.wait()
    return Way(OURS, guest, HOST, "192.168.127.1", (gvproxy.process, agent.process))


def _slirp(host: Namespace, stack: contextlib.ExitStack) -> Way:
    guest = _guest(host.folder, "guest-slirp", stack)
    process = host.start(SLIRP, SLIRP, "--configure", "--mtu=1500", str(guest.pid), "tap0")
    _until_routed(guest, process)
    return Way(SLIRP, guest, "10.0.2.2", "10.0.2.2", (process,))


def _pasta(host: Namespace, stack: contextlib.ExitStack) -> Way:
    guest = _guest(host.folder, "guest-pasta", stack)
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
    return Way(PASTA, guest, _GATEWAY, _GATEWAY, (process,))


@contextlib.contextmanager
def set_up(folder: Path) -> Iterator[Bench]:
    """Start the servers and every way that is installed."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(_host(folder))
        _servers(host)
        bench = Bench(host, [Way(LOOPBACK, host, "127.0.0.1", "127.0.0.1")], {})
        for name, make in ((SLIRP, _slirp), (PASTA, _pasta), (OURS, _ours)):
            if name != OURS and shutil.which(name) is None:
                bench.skipped[name] = "not installed"
                continue
            bench.ways.append(make(host, stack))
        yield bench
