"""A zone as the API writes it, after Go's gvproxy; its decoder ignores the case of keys."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from gvproxy.config import Record, Zone
from gvproxy.errors import BadZoneError
from gvproxy.patterns import check_pattern
from gvproxy.services import dnsmessage


def encode(zone: Zone) -> dict[str, object]:
    """Return a zone as what JSON can hold."""
    return {
        "Name": zone.name,
        "Records": [_encode_record(record) for record in zone.records],
        "DefaultIP": "" if zone.default is None else str(zone.default),
    }


def _encode_record(record: Record) -> dict[str, str]:
    encoded = {"Name": record.name, "IP": str(record.address)}
    return encoded | ({"Regexp": record.pattern} if record.pattern else {})


def decode(body: Mapping[str, object]) -> Zone:
    """Read a zone, its keys in lower case at the top; raises BadZoneError."""
    name = _name(_text(body, "name"))
    if not name:
        raise BadZoneError("a zone needs a name")
    records = body.get("records") or []
    if not isinstance(records, list):
        raise BadZoneError("records is no list")
    default = _text(body, "defaultip")
    return Zone(
        f"{name}.",
        tuple(_decode_record(record, name) for record in records),
        _address(default) if default else None,
    )


def _decode_record(record: object, zone: str) -> Record:
    if not isinstance(record, dict):
        raise BadZoneError("a record is no JSON object")
    record = {key.lower(): value for key, value in record.items()}
    name, pattern = _name(_text(record, "name")), _text(record, "regexp")
    if not name and not pattern:
        raise BadZoneError("a record needs a name or a regexp")
    if name:
        _name(f"{name}.{zone}")
    try:
        check_pattern(pattern)
    except ValueError as error:
        raise BadZoneError(f"{pattern!r} is no regular expression: {error}") from None
    return Record(name, _address(_text(record, "ip")), pattern)


def _text(body: Mapping[str, object], key: str) -> str:
    value = body.get(key) or ""
    if not isinstance(value, str):
        raise BadZoneError(f"{key} is no text")
    return value


def _name(text: str) -> str:
    """Return a name without its final dot."""
    name = text.removesuffix(".")
    try:
        legal = not name or dnsmessage.is_legal(tuple(name.lower().encode().split(b".")))
    except UnicodeEncodeError:
        legal = False
    if not legal:
        raise BadZoneError(f"{text!r} is no name of DNS")
    return name


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise BadZoneError(f"{text!r} is no IP address") from None
