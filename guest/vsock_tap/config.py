"""What the agent was told, checked once; and the forms that values of the command line take."""

import re
from dataclasses import dataclass
from pathlib import Path

from taplink.bearer import Bearer
from taplink.endpoint import Endpoint

PROGRAM = "vsock-tap"
DEFAULT_URL = "vsock://2:1024/connect"
DEFAULT_INTERFACE = "tap0"
DEFAULT_MAC = "5a:94:ef:e4:0c:ee"
"""The address gvproxy leases the second address of its subnet to."""
DEFAULT_MTU = 1500
DEFAULT_STOP_IF_EXIST = "eth0,ens3,enp0s1"

MIN_MTU = 576
"""What every IPv4 host must take in one piece (RFC 791 §3.1), a DHCP client too (RFC 2131 §2)."""
MAX_MTU = 65520
"""gvproxy's; the kernel allows a tap one byte more (drivers/net/tun.c)."""

_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's settings.  `mtu` is None where the lease may say; `mac` is in lower case."""

    endpoint: Endpoint
    bearer: Bearer | None = None
    interface: str = DEFAULT_INTERFACE
    mac: str = DEFAULT_MAC
    mtu: int | None = None
    preexisting: bool = False
    stop_if_exist: tuple[str, ...] = ()
    debug: bool = False
    check: bool = False
    healthy: bool = False
    load_modules: bool = False
    settings: Path | None = None
    """The settings file that was read."""
    resolv_conf: Path = Path("/etc/resolv.conf")
    state_directory: Path = Path("/var/lib/vsock-tap")


def parse_mac(text: str) -> str:
    """Read a station's MAC address; raises ValueError for a group's, for zeros and for no MAC."""
    mac = text.lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise ValueError(f"{text!r} is no MAC address, such as {DEFAULT_MAC}")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise ValueError(f"{text!r} is no station's MAC address")
    return mac


def parse_mtu(text: str) -> int:
    """Read an MTU in bytes; raises ValueError for one out of range."""
    if not text.isascii() or not text.isdigit() or not MIN_MTU <= int(text) <= MAX_MTU:
        raise ValueError(f"{text!r} is no MTU: {MIN_MTU} to {MAX_MTU}")
    return int(text)


def parse_names(text: str) -> tuple[str, ...]:
    """Read a list of interfaces, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
