"""Local names for tests: zones, and guests and a hosts(5) of the test's."""

from ipaddress import IPv4Address
from pathlib import Path

from gvproxy.config import configure
from gvproxy.services.hosts import HostsFile
from gvproxy.services.localnames import LocalNames
from gvproxy.services.zones import Zones

NOWHERE = Path("/nonexistent")
HOST = IPv4Address("192.168.127.254")


class Guests:
    """Guests by their names."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name: IPv4Address(text) for name, text in addresses.items()}

    def address_of(self, name: str, *, now: float) -> IPv4Address | None:
        return self.addresses.get(name)

    def name_of(self, address: IPv4Address, *, now: float) -> str:
        return next((name for name, at in self.addresses.items() if at == address), "")


def make_names(
    zones: Zones | None = None, guests: Guests | None = None, hosts: Path = NOWHERE
) -> LocalNames:
    """Make the names of the default network, with its zones unless others are given."""
    config = configure()
    return LocalNames(
        zones or Zones(config.zones),
        guests or Guests(),
        HostsFile(HOST, hosts),
        config.gateway_ip,
        config.subnet,
    )
