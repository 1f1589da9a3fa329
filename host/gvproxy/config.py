"""What gvproxy is told to do, checked once, so that nothing behind it has to check again.

`configure` takes the values as they are written on the command line, or were read from a file, and
returns a `Config`, or raises ConfigError.  Addresses are `ipaddress` objects here; what works on
packets packs them.  The defaults are gvproxy's, so that clients find everything where they expect
it.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from math import inf
from pathlib import Path
from urllib.parse import quote

from gvproxy import listening
from gvproxy.errors import ConfigError
from gvproxy.limits import Limits
from gvproxy.listening import Dialect, Interface
from gvproxy.rules import Rule, wrong_nat
from taplink import bearer
from taplink.bearer import Bearer
from taplink.endpoint import Endpoint

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
VPNKIT_MACS = {"c3d68012-0208-11ea-9fd7-f2189899ab08": DEVICE_MAC}
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
DEFAULT_DRAIN = 2
"""Seconds; who ends gvproxy, as podman does, waits three."""
MAX_DRAIN = 30
DEFAULT_PROFILE = "containers"
LOG_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
"""By the names of logrus, which Go's gvproxy logs with."""
DEFAULT_LOG_LEVEL = "info"
_MAX_SECONDS = 30 * 86400
_MAX_DESCRIPTOR = (1 << 20) - 1

_MIN_PREFIX, _MAX_PREFIX = 8, 29  # a /29 is the smallest with room for three addresses and a guest


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
class SshForward:
    """A unix socket of the host that leads, through the guest's sshd, to one of the guest.

    `socket` and `dest` are their paths, `user` is the guest's, `identity` a private key of the
    host's.
    """

    socket: str
    dest: str
    user: str
    identity: str


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a daemon; made by `configure`.

    `listen` takes guests and API calls, `services` only the latter, `interfaces` only guests, and
    with `stdio` the program's own standard input and output are one, and each of `descriptors`.
    `notification` is the socket
    of whoever wants to hear of guests.  `vpnkit_macs` are addresses by the VM's UUID.

    `search_domains` is None where the host's resolv.conf decides.  `nat` maps addresses inside
    the virtual network to what is dialled for them outside.  Of the rules `destinations` the first
    that matches decides.  `virtual_ips` answer ARP and ping as
    the gateway does.  `connect_timeout`, `keepalive` and `drain` are in seconds, and the second may
    be infinite.
    `limits` are those of each guest and of all together.
    `state_dir` is where leases and what the API is told outlast the daemon.  `source_checks` keep
    guests from sending as others.  With `drop_privileges` it has, once it runs, `allow_paths`
    beside what it needs anyway.  `api_token` is asked for over TCP; `guest_api` tells whether
    guests find an API at the gateway.
    """

    listen: tuple[Endpoint, ...]
    services: tuple[Endpoint, ...]
    interfaces: tuple[Interface, ...]
    stdio: bool
    descriptors: tuple[int, ...]
    mtu: int
    ssh_port: int | None
    subnet: IPv4Network
    gateway_ip: IPv4Address
    device_ip: IPv4Address
    host_ip: IPv4Address
    gateway_mac: bytes
    device_mac: bytes
    debug: bool
    log_level: int
    log_file: Path | None
    pid_file: Path | None
    pcap: Path | None
    notification: Path | None
    state_dir: Path | None
    source_checks: bool
    drop_privileges: bool
    allow_paths: tuple[Path, ...]
    api_token: Bearer | None
    guest_api: bool
    ec2_metadata: bool
    zones: tuple[Zone, ...]
    search_domains: tuple[str, ...] | None
    nat: Mapping[IPv4Address, IPv4Address]
    destinations: tuple[Rule, ...]
    virtual_ips: frozenset[IPv4Address]
    static_leases: Mapping[IPv4Address, bytes]
    vpnkit_macs: Mapping[str, bytes]
    forwards: tuple[Forward, ...]
    limits: Limits
    connect_timeout: float
    keepalive: float
    drain: float


def configure(
    *,
    listen: Sequence[str] = (),
    services: str | None = None,
    listen_qemu: str | None = None,
    listen_vpnkit: str | None = None,
    listen_bess: str | None = None,
    listen_vfkit: str | None = None,
    listen_tap: str | None = None,
    listen_stdio: str | None = None,
    listen_fd: Sequence[int] = (),
    activated: bool = False,
    mtu: int = DEFAULT_MTU,
    ssh_port: int | None = None,
    subnet: str = DEFAULT_SUBNET,
    gateway_ip: str | None = None,
    device_ip: str | None = None,
    host_ip: str | None = None,
    gateway_mac: bytes = GATEWAY_MAC,
    connect_timeout: int = DEFAULT_CONNECT_TIMEOUT,
    keepalive: int = DEFAULT_KEEPALIVE,
    drain: int = DEFAULT_DRAIN,
    debug: bool = False,
    log_level: str = DEFAULT_LOG_LEVEL,
    log_file: str | None = None,
    pid_file: str | None = None,
    pcap: str | None = None,
    notification: str | None = None,
    state_dir: str | None = None,
    source_checks: bool = True,
    drop_privileges: bool = True,
    allow_paths: Sequence[str] = (),
    api_token_file: str | None = None,
    guest_api: bool = True,
    ec2_metadata: bool = False,
    profile: str = DEFAULT_PROFILE,
    zones: Sequence[Zone] | None = None,
    search_domains: Sequence[str] | None = None,
    nat: Mapping[IPv4Address, IPv4Address] | None = None,
    destinations: Sequence[Rule] = (),
    virtual_ips: Collection[IPv4Address] | None = None,
    static_leases: Mapping[IPv4Address, bytes] | None = None,
    vpnkit_macs: Mapping[str, bytes] | None = None,
    forwards: Sequence[Forward] | None = None,
    ssh_forwards: Sequence[SshForward] = (),
    limits: Limits | None = None,
) -> Config:
    """Check the settings and fill in the defaults; raises ConfigError.

    An `ssh_port` of -1 publishes none; it is -1 by default where `forwards` are given.  A
    `keepalive` of 0 asks nobody.  `drain` is how long connections have to end.  Addresses that
    are not given are the first, the second and the last one of the subnet: the gateway's, the
    guest's and the host's.  `zones` replace the profile's.  `activated` tells that there are
    listening sockets already.
    """
    # Go's gvproxy takes its own flags without a value for flags that are not given.
    if state_dir == "":
        raise ConfigError("-state-dir must not be empty")
    _check_range("-mtu", mtu, MIN_MTU, MAX_MTU)
    if ssh_port is None:
        ssh_port = DEFAULT_SSH_PORT if forwards is None else NO_SSH_PORT
    _check_range("-ssh-port", ssh_port, MIN_SSH_PORT, 65535, none=NO_SSH_PORT)
    _check_range("-connect-timeout", connect_timeout, 1, _MAX_SECONDS)
    _check_range("-drain", drain, 0, MAX_DRAIN)
    _check_range("-tcp-keepalive", keepalive, 1, _MAX_SECONDS, none=NO_KEEPALIVE)
    if log_level not in LOG_LEVELS:
        raise ConfigError(f"log-level must be one of {', '.join(LOG_LEVELS)}, not {log_level!r}")
    if profile not in PROFILES:
        raise ConfigError(f"-profile must be one of {', '.join(PROFILES)}, not {profile!r}")
    if gateway_mac[0] & 1 or not any(gateway_mac):
        raise ConfigError(f"gatewayMacAddress {gateway_mac.hex(':')} is no address of one host")
    network = _subnet(subnet)
    gateway, device, host = _addresses(network, gateway_ip, device_ip, host_ip)
    virtual = frozenset({host} if virtual_ips is None else virtual_ips)
    for address in virtual - {host}:
        if not _is_host(address, network) or address in (gateway, device):
            raise ConfigError(f"gatewayVirtualIPs {address} is no free address of {network}")
    wrong = wrong_nat(nat or {}, link_local=ec2_metadata)
    if wrong:
        raise ConfigError(wrong)
    leases = {device: DEVICE_MAC} if static_leases is None else static_leases
    _check_leases(leases, network, virtual | {gateway, host})
    dialects = {
        Dialect.QEMU: listen_qemu,
        Dialect.VPNKIT: listen_vpnkit,
        Dialect.BESS: listen_bess,
        Dialect.VFKIT: listen_vfkit,
        Dialect.TAP: listen_tap,
    }
    for descriptor in listen_fd:
        _check_range("-listen-fd", descriptor, 3, _MAX_DESCRIPTOR)
    if len(set(listen_fd)) < len(listen_fd):
        raise ConfigError("-listen-fd must not be given twice with one number")
    others = bool(listen_stdio or listen_fd) or activated
    token = _token(api_token_file) if api_token_file is not None else None
    has_token = token is not None
    where = listening.read(listen, services, dialects, others=others, token=has_token)
    return Config(
        listen=where.listen,
        services=where.services,
        interfaces=where.interfaces,
        stdio=bool(listen_stdio),
        descriptors=tuple(listen_fd),
        mtu=mtu,
        ssh_port=None if ssh_port == NO_SSH_PORT else ssh_port,
        subnet=network,
        gateway_ip=gateway,
        device_ip=device,
        host_ip=host,
        gateway_mac=gateway_mac,
        device_mac=DEVICE_MAC,
        debug=debug,
        log_level=logging.DEBUG if debug else LOG_LEVELS[log_level],
        log_file=Path(log_file) if log_file else None,
        pid_file=Path(pid_file) if pid_file else None,
        pcap=Path(pcap) if pcap else None,
        state_dir=Path(state_dir) if state_dir is not None else None,
        source_checks=source_checks,
        drop_privileges=drop_privileges,
        allow_paths=tuple(map(_allowed_path, allow_paths)),
        api_token=token,
        guest_api=guest_api,
        notification=listening.read_notification(notification) if notification else None,
        ec2_metadata=ec2_metadata,
        zones=PROFILES[profile](gateway, device, host) if zones is None else tuple(zones),
        search_domains=None if search_domains is None else tuple(search_domains),
        nat={host: LOOPBACK} if nat is None else nat,
        destinations=tuple(destinations),
        virtual_ips=virtual,
        static_leases=leases,
        vpnkit_macs=VPNKIT_MACS if vpnkit_macs is None else vpnkit_macs,
        forwards=(
            *_ssh_port_forward(ssh_port, device),
            *(forwards or ()),
            *(_ssh_forward(one, device) for one in ssh_forwards),
        ),
        limits=Limits() if limits is None else limits,
        connect_timeout=connect_timeout,
        drain=drain,
        keepalive=inf if keepalive == NO_KEEPALIVE else keepalive,
    )


def _check_range(flag: str, value: int, least: int, most: int, *, none: int | None = None) -> None:
    if value != none and not least <= value <= most:
        other = "" if none is None else f", or {none} for none"
        raise ConfigError(f"{flag} must be from {least} to {most}{other}, not {value}")


def _allowed_path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text:
        raise ConfigError(f"-allow-path must be an absolute path, not {text!r}")
    return path


def _token(path: str) -> Bearer:
    try:
        return bearer.read(path)
    except ValueError as error:
        raise ConfigError(f"-api-token-file {error}") from error


def _check_leases(
    leases: Mapping[IPv4Address, bytes], network: IPv4Network, reserved: Collection[IPv4Address]
) -> None:
    for address, mac in leases.items():
        if not _is_host(address, network) or address in reserved:
            raise ConfigError(f"dhcpStaticLeases {address} is no address for a guest")
        if mac[0] & 1 or not any(mac):
            raise ConfigError(f"dhcpStaticLeases {mac.hex(':')} is no address of one host")
    if len(set(leases.values())) < len(leases):
        raise ConfigError("dhcpStaticLeases has two addresses for one MAC address")


def _ssh_port_forward(port: int, device: IPv4Address) -> tuple[Forward, ...]:
    if port == NO_SSH_PORT:
        return ()
    hint = f"-ssh-port chooses another, {NO_SSH_PORT} none"
    return (Forward(f"{LOOPBACK}:{port}", f"{device}:{DEVICE_SSH_PORT}", hint=hint),)


def _ssh_forward(forward: SshForward, device: IPv4Address) -> Forward:
    """Return it as the forwarder takes it."""
    if not forward.dest.startswith("/"):
        raise ConfigError(f"-forward-dest must be an absolute path, not {forward.dest!r}")
    protocol, separator, path = forward.socket.partition("://")
    if not separator:
        protocol, path = "unix", forward.socket
    user, dest, key = map(quote, (forward.user, forward.dest, forward.identity))
    remote = f"ssh-tunnel://{user}@{device}:{DEVICE_SSH_PORT}{dest}?key={key}"
    return Forward(path, remote, protocol, hint="see -forward-sock")


def _containers(gateway: IPv4Address, device: IPv4Address, host: IPv4Address) -> tuple[Zone, ...]:
    records = (Record("gateway", gateway), Record("host", host))
    return tuple(Zone(name, records) for name in BUILT_IN_ZONES)


def _crc(gateway: IPv4Address, device: IPv4Address, host: IPv4Address) -> tuple[Zone, ...]:
    """Return the zones of gvproxy 0.1.0, which was CodeReady Containers'."""
    names = {"gateway": gateway, "host": host, "api": device, "api-int": device}
    records = tuple(Record(name, address) for name, address in names.items())
    master = Record("", IPv4Address("192.168.126.11"), r"crc-(.*?)-master-0")
    return (
        Zone("crc.testing.", (*records, master)),
        Zone("apps-crc.testing.", default=device),
    )


PROFILES = {DEFAULT_PROFILE: _containers, "crc": _crc}
"""The sets of built-in names."""


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
    if not _is_host(address, network):
        raise ConfigError(f"{flag} {address} is no address of a host in the subnet {network}")
    return address


def _is_host(address: IPv4Address, network: IPv4Network) -> bool:
    ends = network.network_address, network.broadcast_address
    return address in network and address not in ends
