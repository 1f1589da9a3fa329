"""What can be told of a machine from outside the agent.

`vsock-tap -check` says what the agent would do here, and what would keep it from that;
`vsock-tap -healthy` whether one is doing it.
"""

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

from pyroute2 import IPRoute

from taplink.endpoint import Scheme
from taplink.flags import say
from taplink.tap import DEVICE, IFF_TAP
from taplink.text import reason
from vsock_tap import modules, resolvers
from vsock_tap.capability import CAP_NET_ADMIN, has_capability
from vsock_tap.config import DEFAULT_MTU, PROGRAM, Config
from vsock_tap.network import RTPROT_DHCP

TUNGETFEATURES = 0x800454CF  # linux/if_tun.h


def reason_to_stop(config: Config) -> str | None:
    """Return the interface for whose sake there is nothing to do (-stop-if-exist)."""
    there = {name for _, name in socket.if_nameindex()}
    return next((name for name in config.stop_if_exist if name in there), None)


def report(config: Config) -> int:
    """Print it; returns the exit status: 1 where something is in the way."""
    wrong = list(_problems(config))
    lines = [*_plan(config), *(("problem", text) for text in wrong)]
    say(PROGRAM, "\n".join(f"{topic:<11}{text}" for topic, text in lines))
    return 1 if wrong else 0


def health(config: Config) -> int:
    """Print the agent's address of the interface, or that it has none; returns the exit status."""
    name = config.interface
    with IPRoute() as netlink:
        links = [link["index"] for link in netlink.link("dump", ifname=name)]
        there = [
            address
            for index in links
            for address in netlink.get_addr(index=index, family=socket.AF_INET)
        ]
    any_counts = config.preexisting or not _marks_addresses(os.uname().release)
    ours = [
        f"{address.get('local')}/{address.get('prefixlen')}"
        for address in there
        if any_counts or address.get("proto") == RTPROT_DHCP
    ]
    what = "no address of the agent's" if there else "no address" if links else "no such interface"
    say(PROGRAM, f"{name}: {' '.join(ours) or what}")
    return 0 if ours else 1


def _marks_addresses(release: str) -> bool:
    """Tell whether the kernel keeps who has set an address (IFA_PROTO)."""
    version = re.match(r"(\d+)\.(\d+)", release)
    return version is not None and tuple(map(int, version.groups())) >= (5, 18)


def _plan(config: Config) -> Iterator[tuple[str, str]]:
    yield "settings", str(config.settings or "of the command line, no file")
    yield "host", str(config.endpoint)
    if config.bearer is not None:
        used = "" if config.endpoint.scheme is Scheme.TCP else ", which only a tcp:// host gets"
        yield "token", f"of {config.bearer.path}{used}"
    if config.endpoint.scheme is Scheme.VSOCK:
        machine, module = modules.transport(config.endpoint.cid)
        yield "machine", f"{machine}, vsock by {module}"
    for name in modules.missing(config.endpoint):
        yield "module", f"{name} would be loaded"
    mtu = f"MTU {config.mtu} at most" if config.mtu else f"MTU as leased, or {DEFAULT_MTU}"
    what = "taken as it is" if config.preexisting else f"made, MAC {config.mac}, {mtu}"
    yield "interface", f"{config.interface} would be {what}"
    with suppress(OSError):  # `_problems` has it
        yield "names", f"by {_resolver(config)}"
    if (other := reason_to_stop(config)) is not None:
        yield "but", f"{other} exists (-stop-if-exist): it would end at once"


def _problems(config: Config) -> Iterator[str]:
    if not has_capability(CAP_NET_ADMIN):
        yield "CAP_NET_ADMIN is missing: interfaces cannot be set up"
    try:
        _resolver(config)
    except OSError as error:
        yield f"{error.filename}: {reason(error)}"
    if problem := _device_problem():
        yield problem
    if modules.lacks_device(config.endpoint):
        yield "this machine has no vsock device (QEMU: -device vhost-vsock-pci,guest-cid=3)"
    name = config.interface
    with IPRoute() as netlink:
        links = list(netlink.link("dump", ifname=name))
    taps = [link for link in links if link.get(("linkinfo", "data", "tun_type")) == IFF_TAP]
    if config.preexisting and not links:
        yield f"{name} does not exist (-preexisting)"
    elif config.preexisting and not taps:
        yield f"{name} is no tap"
    elif not config.preexisting and links:
        yield f"{name} exists already (-preexisting takes a tap that does)"


def _resolver(config: Config) -> resolvers.Resolver:
    return resolvers.choose(config.resolv_conf, config.interface, config.state_directory)


def _device_problem() -> str | None:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        why = modules.obstacle("tun")
        return f"the module tun cannot be loaded: {why}" if why else None
    except OSError as error:
        return f"{DEVICE}: {reason(error)}"
    try:
        fcntl.ioctl(fd, TUNGETFEATURES, bytes(4))
    except OSError:
        return f"{DEVICE} is not the kernel's"
    finally:
        os.close(fd)
    return None
