"""What gvproxy is told to do, checked once, so that nothing behind it has to check again.

`configure` takes the values as they are written on the command line and returns a `Config`, or
raises ConfigError.  Addresses are `ipaddress` objects here; what works on packets packs them.  The
defaults are gvproxy's, so that clients find everything where they expect it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from math import inf
from pathlib import Path

from gvproxy.errors import GvproxyError
from taplink import endpoint
from taplink.endpoint import Endpoint

DEFAULT_LISTEN = "vsock://:1024"
DEFAULT_MTU = 1500
MIN_MTU = 576
"""What every IPv4 host must take in one piece (RFC 791 §3.1)."""
MAX_MTU = 65520
"""The largest that Go's gvproxy is run with; an IP packet's own limit is 65535."""
DEFAULT_SSH_PORT = 2222
MIN_SSH_PORT = 1024
NO_SSH_PORT = -1
DEFAULT_SUBNET = "192.168.127.0/24"
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")
DEVICE_MAC = bytes.fromhex("5a94efe40cee")
LOOPBACK = IPv4Address("127.0.0.1")
DEVICE_SSH_PORT = 22
BUILT_IN_ZONES = ("containers.internal.", "docker.internal.")
DEFAULT_CONNECT_TIMEOUT = 60
"""Seconds until a connection to the outside is given up.

A Linux guest's own SYN runs out after 127 s (tcp_syn_retries 6); a client that is told earlier
may still try another address.
"""
DEFAULT_KEEPALIVE = 7200
"""Seconds of silence until a guest is asked about a connection (RFC 9293 MUST-28: two hours)."""
NO_KEEPALIVE = 0
_MAX_SECONDS = 30 * 86400

_MIN_PREFIX, _MAX_PREFIX = 8, 29  # a /29 is the smallest with room for three addresses and a guest


class ConfigError(GvproxyError, ValueError):
    """A setting cannot be used; the text names its flag and says what it has to be."""


@dataclass(frozen=True, slots=True)
class Record:
    """A name inside a zone, one label or several, and its address.

    Where there is a `pattern`, it stands for every name that this regular expression is found in.
    """

    name: str
    address: IPv4Address | IPv6Address
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Zone:
    """A domain answered by gvproxy itself; `default` is the address of names without a record."""

    name: str
    records: tuple[Record, ...] = ()
    default: IPv4Address | IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """A port published from the start; both sides are `address:port`.

    `hint` tells what helps where that is impossible.
    """

    local: str
    remote: str
    protocol: str = "tcp"
    hint: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a daemon; made by `configure`.

    `listen` takes guests and API calls, `services` only the latter.  `notification` is the socket
    of whoever wants to hear of guests.

    `search_domains` is None where the host's resolv.conf decides.  `nat` maps addresses inside
    the virtual network to what is dialled for them outside.  `virtual_ips` answer ARP and ping as
    the gateway does.  `connect_timeout` and `keepalive` are in seconds; the latter may be infinite.
    """

    listen: tuple[Endpoint, ...]
    services: tuple[Endpoint, ...]
    mtu: int
    ssh_port: int | None
    subnet: IPv4Network
    gateway_ip: IPv4Address
    device_ip: IPv4Address
    host_ip: IPv4Address
    gateway_mac: bytes
    device_mac: bytes
    debug: bool
    log_file: Path | None
    pid_file: Path | None
    pcap: Path | None
    notification: Path | None
    ec2_metadata: bool
    zones: tuple[Zone, ...]
    search_domains: tuple[str, ...] | None
    nat: Mapping[IPv4Address, IPv4Address]
    virtual_ips: frozenset[IPv4Address]
    static_leases: Mapping[IPv4Address, bytes]
    forwards: tuple[Forward, ...]
    connect_timeout: float
    keepalive: float


def configure(
    *,
    listen: Sequence[str] = (),
    services: str | None = None,
    mtu: int = DEFAULT_MTU,
    ssh_port: int = DEFAULT_SSH_PORT,
    subnet: str = DEFAULT_SUBNET,
    gateway_ip: str | None = None,
    device_ip: str | None = None,
    host_ip: str | None = None,
    connect_timeout: int = DEFAULT_CONNECT_TIMEOUT,
    keepalive: int = DEFAULT_KEEPALIVE,
    debug: bool = False,
    log_file: str | None = None,
    pid_file: str | None = None,
    pcap: str | None = None,
    notification: str | None = None,
    ec2_metadata: bool = False,
) -> Config:
    """Check the settings and fill in the defaults; raises ConfigError.

    An `ssh_port` of -1 publishes none, a `keepalive` of 0 asks nobody.  Addresses that are not
    given are the first, the second and the last one of the subnet: the gateway's, the guest's and
    the host's.
    """
    if not MIN_MTU <= mtu <= MAX_MTU:
        raise ConfigError(f"-mtu must be from {MIN_MTU} to {MAX_MTU}, not {mtu}")
    if ssh_port != NO_SSH_PORT and not MIN_SSH_PORT <= ssh_port <= 65535:
        raise ConfigError(
            f"-ssh-port must be from {MIN_SSH_PORT} to 65535, or {NO_SSH_PORT} for none, "
            f"not {ssh_port}"
        )
    if not 1 <= connect_timeout <= _MAX_SECONDS:
        raise ConfigError(
            f"-connect-timeout must be from 1 to {_MAX_SECONDS} seconds, not {connect_timeout}"
        )
    if keepalive != NO_KEEPALIVE and not 1 <= keepalive <= _MAX_SECONDS:
        raise ConfigError(
            f"-tcp-keepalive must be from 1 to {_MAX_SECONDS} seconds, or {NO_KEEPALIVE} for none, "
            f"not {keepalive}"
        )
    network = _subnet(subnet)
    gateway, device, host = _addresses(network, gateway_ip, device_ip, host_ip)
    records = (Record("gateway", gateway), Record("host", host))
    forward = Forward(
        f"{LOOPBACK}:{ssh_port}",
        f"{device}:{DEVICE_SSH_PORT}",
        hint=f"-ssh-port chooses another, {NO_SSH_PORT} none",
    )
    where = _endpoints("-listen", listen or (DEFAULT_LISTEN,))
    return Config(
        listen=where,
        services=_endpoints("-services", (services,) if services else (), where),
        mtu=mtu,
        ssh_port=None if ssh_port == NO_SSH_PORT else ssh_port,
        subnet=network,
        gateway_ip=gateway,
        device_ip=device,
        host_ip=host,
        gateway_mac=GATEWAY_MAC,
        device_mac=DEVICE_MAC,
        debug=debug,
        log_file=Path(log_file) if log_file else None,
        pid_file=Path(pid_file) if pid_file else None,
        pcap=Path(pcap) if pcap else None,
        notification=_notification(notification) if notification else None,
        ec2_metadata=ec2_metadata,
        zones=tuple(Zone(name, records) for name in BUILT_IN_ZONES),
        search_domains=None,
        nat={host: LOOPBACK},
        virtual_ips=frozenset({host}),
        static_leases={device: DEVICE_MAC},
        forwards=() if ssh_port == NO_SSH_PORT else (forward,),
        connect_timeout=connect_timeout,
        keepalive=inf if keepalive == NO_KEEPALIVE else keepalive,
    )


def _endpoints(
    flag: str, urls: Sequence[str], others: tuple[Endpoint, ...] = ()
) -> tuple[Endpoint, ...]:
    """Read the URLs of listeners, each of which is one besides `others`."""
    endpoints: tuple[Endpoint, ...] = ()
    for url in urls:
        try:
            one = endpoint.parse_listener(url)
        except endpoint.EndpointError as error:
            raise ConfigError(f"{flag}: {error}") from error
        if one in others or one in endpoints:
            raise ConfigError(f"{flag}: {one} is given twice")
        endpoints += (one,)
    return endpoints


def _notification(text: str) -> Path:
    """Read the path of a unix socket, as such or as a URL."""
    path = text.removeprefix("unix://")
    if "://" in path or "\0" in path or not path:
        raise ConfigError(f"-notification must be the path of a unix socket, not {text!r}")
    return Path(path)


def _subnet(text: str) -> IPv4Network:
    """Read a network in CIDR notation; bits of a host in it are no error, as in Go's ParseCIDR."""
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "/" not in text:
        raise ConfigError(f"-subnet must be an IPv4 network such as {DEFAULT_SUBNET}, not {text!r}")
    if not _MIN_PREFIX <= network.prefixlen <= _MAX_PREFIX:
        raise ConfigError(f"-subnet must be a /{_MIN_PREFIX} to /{_MAX_PREFIX}, not {text}")
    if not _is_unicast(network):
        raise ConfigError(f"-subnet {text} is reserved for another use")
    return network


def _is_unicast(network: IPv4Network) -> bool:
    """Tell whether guests may have addresses of this network (RFC 6890 §2.2.2 lists the others)."""
    special = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
    return not any(network.overlaps(IPv4Network(other)) for other in special)


def _addresses(
    network: IPv4Network, gateway: str | None, device: str | None, host: str | None
) -> tuple[IPv4Address, IPv4Address, IPv4Address]:
    first, last = network.network_address, network.broadcast_address
    addresses = (
        _address("-gatewayIP", gateway, network) if gateway else first + 1,
        _address("-deviceIP", device, network) if device else first + 2,
        _address("-hostIP", host, network) if host else last - 1,
    )
    if len(set(addresses)) < len(addresses):
        raise ConfigError(
            "-gatewayIP, -deviceIP and -hostIP must differ; they are {}, {} and {}".format(
                *addresses
            )
        )
    return addresses


def _address(flag: str, text: str, network: IPv4Network) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except ValueError:
        raise ConfigError(f"{flag} must be an IPv4 address, not {text!r}") from None
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise ConfigError(f"{flag} {address} is no address of a host in the subnet {network}")
    return address
