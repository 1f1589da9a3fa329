"""What can be told of a machine from outside the agent.

`vsock-tap -check` says what the agent would do here, and what would keep it from that;
`vsock-tap -healthy` whether one is doing it.
"""

import os
import socket
from collections.abc import Iterator

from pyroute2 import IPRoute

from taplink.endpoint import Scheme
from taplink.tap import DEVICE
from taplink.text import reason
from vsock_tap import modules, resolvers
from vsock_tap.capability import CAP_NET_ADMIN, has_capability
from vsock_tap.config import DEFAULT_MTU, Config


def reason_to_stop(config: Config) -> str | None:
    """Return the interface for whose sake there is nothing to do (-stop-if-exist)."""
    there = {name for _, name in socket.if_nameindex()}
    return next((name for name in config.stop_if_exist if name in there), None)


def report(config: Config) -> int:
    """Print it; returns the exit status: 1 where something is in the way."""
    wrong = list(_problems(config))
    for topic, text in _plan(config):
        print(f"{topic:<11}{text}")
    for text in wrong:
        print(f"{'problem':<11}{text}")
    return 1 if wrong else 0


def health(config: Config) -> int:
    """Print the address of the interface, or that it has none; returns the exit status."""
    name = config.interface
    with IPRoute() as netlink:
        links = [link["index"] for link in netlink.link("dump", ifname=name)]
        addresses = [
            f"{address.get('local')}/{address.get('prefixlen')}"
            for index in links
            for address in netlink.get_addr(index=index, family=socket.AF_INET)
        ]
    what = " ".join(addresses) or ("no address" if links else "no such interface")
    print(f"{name}: {what}")
    return 0 if addresses else 1


def _plan(config: Config) -> Iterator[tuple[str, str]]:
    yield "settings", str(config.settings or "of the command line, no file")
    yield "host", str(config.endpoint)
    if config.endpoint.scheme is Scheme.VSOCK:
        machine, module = modules.transport(config.endpoint.cid)
        yield "machine", f"{machine}, vsock by {module}"
    for name in modules.missing(config.endpoint):
        yield "module", f"{name} would be loaded"
    mtu = f"MTU {config.mtu} at most" if config.mtu else f"MTU as leased, or {DEFAULT_MTU}"
    what = "taken as it is" if config.preexisting else f"made, MAC {config.mac}, {mtu}"
    yield "interface", f"{config.interface} would be {what}"
    resolver = resolvers.choose(config.resolv_conf, config.interface, config.state_directory)
    yield "names", f"by {resolver}"
    if (other := reason_to_stop(config)) is not None:
        yield "but", f"{other} exists (-stop-if-exist): it would end at once"


def _problems(config: Config) -> Iterator[str]:
    if not has_capability(CAP_NET_ADMIN):
        yield "CAP_NET_ADMIN is missing: interfaces cannot be set up"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        pass  # the module is, and `_plan` says so
    except OSError as error:
        yield f"{DEVICE}: {reason(error)}"
    name = config.interface
    with IPRoute() as netlink:
        kinds = [link.get(("linkinfo", "kind")) for link in netlink.link("dump", ifname=name)]
    if config.preexisting and not kinds:
        yield f"{name} does not exist (-preexisting)"
    elif config.preexisting and kinds != ["tun"]:
        yield f"{name} is no tap"
    elif not config.preexisting and kinds:
        yield f"{name} exists already (-preexisting takes a tap that does)"
