"""Sockets inside the virtual network for asyncio; docs/library.md shows how they are used."""

from gvproxy.virtual.network import VirtualNetwork as VirtualNetwork
from gvproxy.virtual.server import VirtualServer as VirtualServer
