"""The configuration file: YAML with the keys of Go's gvproxy, as settings for `config.configure`.

Here is what a file may say and of what kind it is; what the values mean, and whether they go
together, is checked with those of the command line.  Every error names the key and its line.  A
key without a value counts as missing, but for those where that would go unnoticed.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from gvproxy.config import Forward, Record, SshForward, Zone
from gvproxy.errors import ConfigError
from gvproxy.limits import Limit, Limits
from gvproxy.patterns import check_pattern
from gvproxy.rules import Network, Protocol, Rule, read_destination, read_network, read_ports
from taplink.text import one_line, reason

T = TypeVar("T")
Address = IPv4Address | IPv6Address

MAX_SIZE = 1 << 20
_TAG = "tag:yaml.org,2002:"
_TEXT = {_TAG + kind for kind in ("str", "int", "float", "bool", "timestamp")}
_WORD = re.compile(r"-?\b[A-Za-z][\w-]*")
_MAC = re.compile("[0-9a-f]{2}([:-][0-9a-f]{2}){5}")


@dataclass
class Settings:
    """What a file says, by the names of `configure`."""

    values: dict[str, Any] = field(default_factory=dict)
    _sources: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, setting: str, value: object, flag: str, where: str) -> None:
        """Take a setting from the key that `where` tells; errors would speak of `flag`."""
        self.values[setting] = value
        self._sources[setting] = flag, where

    def renamed(self, error: str, besides: Collection[str]) -> str:
        """Have an error speak of the file's keys, but for settings that came from elsewhere."""
        names = dict(self._sources[name] for name in self._sources.keys() - set(besides))
        return _WORD.sub(lambda word: names.get(word[0], word[0]), error)


def _read_mac(text: str) -> bytes | None:
    text = text.lower()
    return bytes.fromhex(re.sub("[:-]", "", text)) if _MAC.fullmatch(text) else None


@dataclass(frozen=True)
class _Value:
    """A node of the file, and the path of its key."""

    file: str
    path: str
    node: Node

    @property
    def where(self) -> str:
        return f"{self.path} ({self.file} line {self.node.start_mark.line + 1})"

    @property
    def given(self) -> bool:
        """It is neither null nor an empty text."""
        empty = isinstance(self.node, ScalarNode) and not self.node.value
        return self.node.tag != _TAG + "null" and not empty

    def error(self, text: str) -> ConfigError:
        return ConfigError(f"{self.where} {text}")

    def text(self) -> str:
        if not isinstance(self.node, ScalarNode) or self.node.tag not in _TEXT:
            raise self.error("must be a text")
        return str(self.node.value)

    def integer(self) -> int:
        if self.node.tag != _TAG + "int" or not re.fullmatch("[+-]?[0-9]+", self.node.value):
            raise self.error("must be a whole number")
        if len(self.node.value.lstrip("+-")) > 9:
            raise self.error("must have nine digits at most")
        return int(self.node.value)

    def positive(self) -> int:
        number = self.integer()
        if number < 1:
            raise self.error(f"must be 1 at least, not {number}")
        return number

    def boolean(self) -> bool:
        if self.node.tag != _TAG + "bool":
            raise self.error("must be true or false")
        return yaml.SafeLoader.bool_values[self.node.value.lower()]

    def address(self) -> Address:
        try:
            return ip_address(self.text())
        except ValueError:
            raise self.error(f"must be an IP address, not {self.text()!r}") from None

    def ipv4(self) -> IPv4Address:
        address = self.address()
        if not isinstance(address, IPv4Address):
            raise self.error(f"must be an IPv4 address, not {address}")
        return address

    def mac(self) -> bytes:
        mac = _read_mac(self.text())
        if mac is None:
            text = self.text().lower()
            raise self.error(f"must be a MAC address such as 5a:94:ef:e4:0c:ee, not {text!r}")
        return mac

    def items(self) -> list["_Value"]:
        if not isinstance(self.node, SequenceNode):
            raise self.error("must be a list")
        return [
            _Value(self.file, f"{self.path}[{number}]", node)
            for number, node in enumerate(self.node.value)
        ]

    def one_or_more(self, read: Callable[[str], T]) -> tuple[T, ...]:
        """Return what `read` makes of a text or of each of a list; it raises ValueError."""
        found = []
        for one in self.items() if isinstance(self.node, SequenceNode) else [self]:
            try:
                found.append(read(one.text()))
            except ValueError as error:
                raise one.error(str(error)) from None
        if not found:
            raise self.error("must not be empty")
        return tuple(found)

    def texts(self) -> list[str]:
        return [one.text() for one in self.items()]

    def mapping(self) -> dict[str, "_Value"]:
        """Return the values by their keys; those without a value are left out."""
        if not isinstance(self.node, MappingNode):
            raise self.error("must be a mapping of keys to values")
        found: dict[str, _Value] = {}
        for key, node in self.node.value:
            if not isinstance(key, ScalarNode):
                raise _Value(self.file, self.path, key).error("has a key that is no text")
            value = _Value(self.file, f"{self.path}.{key.value}".lstrip("."), node)
            if key.value in found:
                raise _Value(self.file, value.path, key).error("is given twice")
            found[key.value] = value
        return {key: value for key, value in found.items() if value.given}

    def complete(self, names: Collection[str] | None = None) -> None:
        """Refuse keys without a value, which would be as if they were left out: `names`, or all."""
        assert isinstance(self.node, MappingNode)
        for key, node in self.node.value:
            value = _Value(self.file, f"{self.path}.{key.value}".lstrip("."), node)
            if not value.given and (names is None or key.value in names):
                raise value.error("must not be empty")

    def pairs(self, key: Callable[["_Value"], T]) -> dict[T, "_Value"]:
        """Return a mapping whose keys are values themselves, read by `key`."""
        self.mapping()
        assert isinstance(self.node, MappingNode)
        found: dict[T, _Value] = {}
        for name, node in self.node.value:
            path = f"{self.path}.{name.value}"
            one = key(_Value(self.file, path, name))
            if one in found:
                raise _Value(self.file, path, name).error("is given twice")
            found[one] = _Value(self.file, path, node)
        return found


def _zones(value: _Value) -> tuple[Zone, ...]:
    return tuple(_zone(one) for one in value.items())


def _zone(value: _Value) -> Zone:
    keys = _known(value, {"name", "records", "defaultIP"})
    if "name" not in keys:
        raise value.error("needs a name")
    records = tuple(_record(one) for one in keys["records"].items()) if "records" in keys else ()
    default = keys["defaultIP"].address() if "defaultIP" in keys else None
    return Zone(keys["name"].text(), records, default)


def _record(value: _Value) -> Record:
    keys = _known(value, {"name", "ip", "regexp"})
    if "ip" not in keys or not keys.keys() & {"name", "regexp"}:
        raise value.error("needs an ip, and a name or a regexp")
    pattern = keys["regexp"].text() if "regexp" in keys else ""
    try:
        check_pattern(pattern)
    except ValueError as error:
        raise keys["regexp"].error(f"is no regular expression: {error}") from None
    name = keys["name"].text() if "name" in keys else ""
    return Record(name, keys["ip"].address(), pattern)


def _forwards(value: _Value) -> tuple[Forward, ...]:
    found = []
    for local, remote in value.pairs(_Value.text).items():
        protocol, separator, rest = local.partition(":")
        if not separator or protocol not in ("udp", "unix", "npipe"):
            protocol, rest = "tcp", local
        found.append(
            Forward(rest.removeprefix("//"), remote.text(), protocol, f"see {remote.where}")
        )
    return tuple(found)


def _ssh_forwards(value: _Value) -> tuple[SshForward, ...]:
    return tuple(_ssh_forward(one) for one in value.items())


def _ssh_forward(value: _Value) -> SshForward:
    names = [known.name for known in fields(SshForward)]
    keys = _known(value, set(names))
    for name in names:
        if name not in keys:
            raise value.error(f"needs a {name}")
    return SshForward(**{name: key.text() for name, key in keys.items()})


def _nat(value: _Value) -> dict[IPv4Address, IPv4Address]:
    return {guest: host.ipv4() for guest, host in value.pairs(_Value.ipv4).items()}


def _destinations(value: _Value) -> tuple[Rule, ...]:
    return tuple(_rule(one) for one in value.items())


def _rule(value: _Value) -> Rule:
    keys = _known(value, {"allow", "deny", "ports", "protocols", "guests"})
    actions = keys.keys() & {"allow", "deny"}
    if len(actions) != 1:
        raise value.error("needs either allow or deny")
    value.complete()
    (action,) = actions
    networks = keys[action].one_or_more(read_destination)
    ports = keys["ports"].one_or_more(read_ports) if "ports" in keys else ()
    protocols = frozenset(keys["protocols"].one_or_more(_protocol) if "protocols" in keys else ())
    if ports and protocols == {Protocol.ICMP}:
        raise keys["ports"].error("cannot be given for icmp, which has none")
    guests = keys["guests"].one_or_more(_guest) if "guests" in keys else ()
    return Rule(
        allow=action == "allow",
        networks=() if () in networks else tuple(one for some in networks for one in some),
        ports=ports,
        protocols=protocols,
        guests=tuple(one for one in guests if not isinstance(one, bytes)),
        macs=frozenset(one for one in guests if isinstance(one, bytes)),
        where=value.where,
    )


def _protocol(text: str) -> Protocol:
    try:
        return Protocol(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Protocol)}, not {text!r}") from None


def _guest(text: str) -> Network | bytes:
    """Read a guest's address, network or MAC address."""
    try:
        return _read_mac(text) or read_network(text)
    except ValueError:
        raise ValueError(
            f"must be an IP address, a network or a MAC address, not {text!r}"
        ) from None


def _static_leases(value: _Value) -> dict[IPv4Address, bytes]:
    return {address: mac.mac() for address, mac in value.pairs(_Value.ipv4).items()}


def _virtual_ips(value: _Value) -> list[IPv4Address]:
    return [one.ipv4() for one in value.items()]


def _limits(value: _Value) -> Limits:
    """Read limits by the names of `Limits`: a number of all together, or `total` and `guest`."""
    names = {one.name.replace("_", "-"): one.name for one in fields(Limits)}
    found: dict[str, Any] = {}
    for key, given in _known(value, names).items():
        default = getattr(Limits(), names[key])
        found[names[key]] = (
            _limit(given, default) if isinstance(default, Limit) else given.positive()
        )
    return Limits(**found)


def _limit(value: _Value, default: Limit) -> Limit:
    if not isinstance(value.node, MappingNode):
        return default.of(value.positive())
    keys = _known(value, {"total", "guest"})
    limit = default.of(keys["total"].positive()) if "total" in keys else default
    if "guest" not in keys:
        return limit
    guest = keys["guest"].positive()
    if guest > limit.total:
        raise keys["guest"].error(f"is more than all guests may hold, {limit.total}")
    return Limit(limit.total, guest)


def _macs_by_uuid(value: _Value) -> dict[str, bytes]:
    return {uuid.lower(): mac.mac() for uuid, mac in value.pairs(_Value.text).items()}


_Read = Callable[[_Value], object]

# Key: setting of `configure`, how its errors call it, and of what kind it is.
_STACK: Mapping[str, tuple[str, str, _Read]] = {
    "debug": ("debug", "-debug", _Value.boolean),
    "capture-file": ("pcap", "-pcap", _Value.text),
    "mtu": ("mtu", "-mtu", _Value.integer),
    "subnet": ("subnet", "-subnet", _Value.text),
    "gatewayIP": ("gateway_ip", "-gatewayIP", _Value.text),
    "deviceIP": ("device_ip", "-deviceIP", _Value.text),
    "hostIP": ("host_ip", "-hostIP", _Value.text),
    "gatewayMacAddress": ("gateway_mac", "gatewayMacAddress", _Value.mac),
    "dns": ("zones", "", _zones),
    "dnsSearchDomains": ("search_domains", "", _Value.texts),
    "forwards": ("forwards", "", _forwards),
    "nat": ("nat", "nat", _nat),
    "destinations": ("destinations", "", _destinations),
    "gatewayVirtualIPs": ("virtual_ips", "gatewayVirtualIPs", _virtual_ips),
    "dhcpStaticLeases": ("static_leases", "dhcpStaticLeases", _static_leases),
    "vpnKitUUIDMacAddresses": ("vpnkit_macs", "", _macs_by_uuid),
    "source-checks": ("source_checks", "-source-checks", _Value.boolean),
    "ec2MetadataAccess": ("ec2_metadata", "-ec2-metadata-access", _Value.boolean),
}
_TOP: Mapping[str, tuple[str, str, _Read]] = {
    "profile": ("profile", "-profile", _Value.text),
    "listen": ("listen", "-listen", _Value.texts),
    "services": ("services", "-services", _Value.text),
    "log-level": ("log_level", "log-level", _Value.text),
    "log-file": ("log_file", "-log-file", _Value.text),
    "pid-file": ("pid_file", "-pid-file", _Value.text),
    "state-dir": ("state_dir", "-state-dir", _Value.text),
    "drop-privileges": ("drop_privileges", "-drop-privileges", _Value.boolean),
    "allow-paths": ("allow_paths", "-allow-path", _Value.texts),
    "api-token-file": ("api_token_file", "-api-token-file", _Value.text),
    "guest-api": ("guest_api", "-guest-api", _Value.boolean),
    "drain": ("drain", "-drain", _Value.integer),
    "notification": ("notification", "-notification", _Value.text),
    "ec2-metadata-access": ("ec2_metadata", "-ec2-metadata-access", _Value.boolean),
    "forwards": ("ssh_forwards", "-forward-dest", _ssh_forwards),
    "limits": ("limits", "", _limits),
}
_NEEDS_VALUE = ("api-token-file", "state-dir")
"""Whose absence would go unnoticed, and leave the API open or nothing kept."""
_INTERFACES: Mapping[str, tuple[str, str, _Read]] = {
    name: (f"listen_{name}", f"-listen-{name}", _Value.text)
    for name in ("vpnkit", "qemu", "bess", "stdio", "vfkit", "tap")
}


def load(path: Path) -> Settings:
    """Read the file at `path`; raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"-config {path} cannot be read: {reason(error)}") from error
    if len(data) > MAX_SIZE:
        raise ConfigError(f"-config {path} has more than {MAX_SIZE} bytes")
    try:
        root = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"-config {path} is no YAML: {_problem(error, data)}") from None
    settings = Settings()
    if root is None or root.tag == _TAG + "null":
        return settings
    top = _Value(str(path), "", root)
    if not isinstance(root, MappingNode):
        raise ConfigError(f"-config {path} is no mapping of keys to values")
    keys = _known(top, {*_TOP, "stack", "interfaces"})
    top.complete(_NEEDS_VALUE)
    for name, table in (("stack", _STACK), ("interfaces", _INTERFACES)):
        if name in keys:
            _take(settings, _known(keys.pop(name), table), table)
    _take(settings, keys, _TOP)
    return settings


def _problem(error: Exception, data: bytes) -> str:
    """Return where a file stops being YAML, and why."""
    if isinstance(error, ReaderError):
        line = data.decode().count("\n", 0, error.position) + 1
        return f"line {line}: the character U+{error.character:04X} may not be in it"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return one_line(f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}")
    return one_line(error)


def _known(value: _Value, names: set[str] | Mapping[str, object]) -> dict[str, _Value]:
    """Return a mapping's values; raises ConfigError for a key that is not among the names."""
    keys = value.mapping()
    assert isinstance(value.node, MappingNode)
    for key, _ in value.node.value:
        if key.value not in names:
            path = f"{value.path}.{key.value}".lstrip(".")
            raise ConfigError(
                f"{path} ({value.file} line {key.start_mark.line + 1}) is no known key"
            )
    return keys


def _take(
    settings: Settings, keys: Mapping[str, _Value], table: Mapping[str, tuple[str, str, _Read]]
) -> None:
    for key, value in keys.items():
        setting, flag, read = table[key]
        found = read(value)
        if not setting or (found is False and settings.values.get(setting)):
            continue  # of two places where it may be set one is enough
        settings.add(setting, found, flag, value.where)
