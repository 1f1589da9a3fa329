"""The host's hosts(5): names that whoever runs the host has given addresses.

Its loopback addresses mean the host itself.  What a guest reaches there has another address in the
network, or none, and then such names are left out; `localhost` is the guest's own affair.
"""

from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from gvproxy.services.followed import FollowedFile

Address = IPv4Address | IPv6Address

_NO_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


class HostsFile:
    """Follows the file at `path`; `loopback` is where guests reach the host's 127.0.0.1."""

    def __init__(
        self, loopback: IPv4Address | None = None, path: Path = Path("/etc/hosts")
    ) -> None:
        self._file = FollowedFile(path)
        self._loopback = loopback
        self._addresses: dict[str, tuple[Address, ...]] = {}
        self._names: dict[Address, str] = {}

    def addresses(self, name: str, now: float) -> tuple[Address, ...] | None:
        """Return the addresses of a name, in lower case and without a final dot, if it has any."""
        self._follow(now)
        return self._addresses.get(name)

    def name(self, address: Address, now: float) -> str | None:
        """Return the first name of an address that is not the host's loopback."""
        self._follow(now)
        return self._names.get(address)

    def _follow(self, now: float) -> None:
        text = self._file.changed(now)
        if text is not None:
            self._read(text)

    def _read(self, text: str) -> None:
        self._addresses, self._names = {}, {}
        # Long files are lists of names to block, all with one address.
        read, alone = cache(_read_address), cache(_alone)
        for line in text.splitlines():
            first, *names = line.partition("#")[0].split() or [""]
            address = read(first)
            if address is None or address.is_multicast:
                continue
            names = [name.lower().rstrip(".") for name in names if name.strip(".")]
            if address.is_loopback:
                address = self._loopback
            elif names:
                self._names.setdefault(address, names[0])
            if address is None:
                continue
            for name in names:
                if name in _NO_NAMES or name.endswith(".localhost"):
                    continue
                found = self._addresses.get(name)
                if found is None:
                    self._addresses[name] = alone(address)
                elif address not in found:
                    self._addresses[name] = (*found, address)


def _alone(address: Address) -> tuple[Address, ...]:
    return (address,)


def _read_address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # One with a zone (RFC 4007 §11) is an address of this machine's, and of no other's.
    return None if isinstance(address, IPv6Address) and address.scope_id else address
