"""The tree of counters that GET /stats shows.

The names at the top are those of gVisor's `tcpip.Stats` (pkg/tcpip/tcpip.go), which clients of Go's
gvproxy read; a name is there when we count what it means.  `Details` has all of our own counters,
whatever there is, under their own names in the same spelling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, TypeAlias

from gvproxy.limits import Use
from gvproxy.stack.port import StackCounters
from gvproxy.tcp.connection import Counters

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Tree: TypeAlias = "dict[str, int | Tree]"


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all ports that there were; bytes and frames are as seen from the host."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    frames_dropped: int = 0
    ports: int = 0
    stations: int = 0
    connections: int = 0
    """TCP connections with guests, in whatever state."""
    established: int = 0
    """Those of them that are ESTABLISHED."""
    flows: int = 0
    """Sockets of the host that are joined to them, or still have something to send."""
    timers: int = 0
    """Deadlines that are queued, a few of them of connections that are over."""
    failed_connections: int = 0
    """Connections to the outside that could not be made."""
    resident_bytes: int = 0
    """Memory of the process."""


def stats(
    totals: Totals,
    stack: StackCounters,
    tcp: Counters,
    services: Mapping[str, DataclassInstance] | None = None,
    limits: Mapping[str, Use] | None = None,
) -> Tree:
    """Build the tree; `services` are further counters to show, by name, `limits` what is used."""
    details: dict[str, DataclassInstance] = {"Totals": totals, "Stack": stack, "TCP": tcp}
    details |= services or {}
    return {
        "BytesSent": totals.bytes_sent,
        "BytesReceived": totals.bytes_received,
        "DroppedPackets": totals.frames_dropped,
        "MalformedRcvdPackets": stack.malformed,
        "UnknownProtocolRcvdPackets": stack.unknown_protocol,
        "NICs": {
            "Rx": {"Packets": totals.frames_received, "Bytes": totals.bytes_received},
            "Tx": {"Packets": totals.frames_sent, "Bytes": totals.bytes_sent},
        },
        "ARP": {
            "PacketsReceived": stack.arp_requests + stack.arp_replies,
            "RequestsReceived": stack.arp_requests,
            "RepliesReceived": stack.arp_replies,
        },
        "IP": {
            "PacketsReceived": stack.ip_in,
            "PacketsSent": stack.ip_out,
            "InvalidSourceAddressesReceived": stack.ip_invalid_source,
            "MalformedPacketsReceived": stack.ip_checksum_errors,
            "MalformedFragmentsReceived": stack.reassembly_failures,
        },
        "ICMP": {
            "V4": {
                "PacketsReceived": {
                    "EchoRequest": stack.echo_requests,
                    "DstUnreachable": stack.unreachable_in,
                },
                "PacketsSent": {
                    "EchoReply": stack.echo_replies,
                    "DstUnreachable": stack.unreachable_out,
                },
            },
            "V6": {},
        },
        "IGMP": {},
        "UDP": {
            "PacketsReceived": stack.udp_in,
            "PacketsSent": stack.udp_out,
            "ChecksumErrors": stack.udp_checksum_errors,
            "UnknownPortErrors": stack.udp_unreachable,
        },
        "TCP": {
            "ActiveConnectionOpenings": tcp.active_opens,
            "PassiveConnectionOpenings": tcp.passive_opens,
            "CurrentEstablished": totals.established,
            "CurrentConnected": totals.connections,
            "FailedConnectionAttempts": totals.failed_connections,
            "ForwardMaxInFlightDrop": stack.connections_refused,
            "ValidSegmentsReceived": tcp.segments_in,
            "InvalidSegmentsReceived": tcp.invalid,
            "SegmentsSent": tcp.segments_out,
            "Retransmits": tcp.retransmits,
            "FastRetransmit": tcp.fast_recoveries,
            "Timeouts": tcp.timeouts,
            "ResetsReceived": tcp.resets_in,
            "ResetsSent": tcp.resets_out,
            "ChecksumErrors": tcp.checksum_errors,
        },
        "Details": {name: _all(counters) for name, counters in details.items()},
        "Limits": {_camel(name): _all(use) for name, use in (limits or {}).items()},
    }


def _all(counters: DataclassInstance) -> Tree:
    """Return every number of a dataclass under its name in CamelCase."""
    values = ((field.name, getattr(counters, field.name)) for field in fields(counters))
    return {_camel(name): value for name, value in values if isinstance(value, int)}


def _camel(name: str) -> str:
    return "".join(map(str.capitalize, name.split("_")))
