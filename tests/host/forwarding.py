"""A forwarder for tests: what it publishes is real, what that leads to is the test's."""

from asyncio import AbstractEventLoop
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from typing import cast

from gvproxy.config import configure
from gvproxy.limits import Limit, Quota, Quotas
from gvproxy.services.forwarder import Forwarder
from gvproxy.services.listeners import Dial, Listeners
from gvproxy.virtual import VirtualNetwork

GUEST = "192.168.127.2"


def make_forwarder(
    loop: AbstractEventLoop,
    dial: Dial,
    network: VirtualNetwork | None = None,
    names: Mapping[str, Collection[str]] | None = None,
    limit: int = 4096,
) -> Forwarder:
    """Make the forwarder of the default network, in which `names` are known."""

    async def resolve(name: str) -> Collection[IPv4Address]:
        return [IPv4Address(address) for address in (names or {}).get(name, ())]

    config = configure(listen=["unix:///unused"])
    return Forwarder(
        config,
        Listeners(loop, cast(VirtualNetwork, network), dial, Quotas().udp_clients),
        resolve,
        Quota(Limit(limit, limit)),
    )
