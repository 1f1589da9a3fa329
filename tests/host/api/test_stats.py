"""The tree of counters: gVisor's names, and everything we count."""

import json
from dataclasses import dataclass, field, fields

from gvproxy.api.stats import Totals, stats
from gvproxy.stack.port import StackCounters
from gvproxy.tcp.connection import Counters


@dataclass
class Service:
    """Counters of a service, one of them not a number."""

    dropped_frames: int = 0
    seen_by: dict[str, int] = field(default_factory=dict)


def test_the_names_clients_read() -> None:
    totals = Totals(
        bytes_sent=1, bytes_received=2, frames_dropped=3, established=4, failed_connections=5
    )
    tree = stats(totals, StackCounters(connections_refused=6), Counters(retransmits=7, timeouts=8))
    assert (tree["BytesSent"], tree["BytesReceived"], tree["DroppedPackets"]) == (1, 2, 3)
    tcp = tree["TCP"]
    assert isinstance(tcp, dict)
    assert {name: tcp[name] for name in tcp if tcp[name]} == {
        "CurrentEstablished": 4,
        "FailedConnectionAttempts": 5,
        "ForwardMaxInFlightDrop": 6,
        "Retransmits": 7,
        "Timeouts": 8,
    }
    groups = {"ARP", "DroppedPackets", "ICMP", "IGMP", "IP", "NICs", "TCP", "UDP"}
    assert tree.keys() >= groups
    icmp = tree["ICMP"]
    assert isinstance(icmp, dict)
    assert icmp.keys() == {"V4", "V6"}


def test_each_icmp_message_has_its_own_name() -> None:
    counters = StackCounters(echo_requests=1, echo_replies=2, unreachable_out=3, unreachable_in=4)
    tree = stats(Totals(), counters, Counters())
    assert tree["ICMP"] == {
        "V4": {
            "PacketsReceived": {"EchoRequest": 1, "DstUnreachable": 4},
            "PacketsSent": {"EchoReply": 2, "DstUnreachable": 3},
        },
        "V6": {},
    }


def test_each_counter_is_among_the_details() -> None:
    details = stats(Totals(), StackCounters(malformed=9), Counters(), {"X": Service(3)})["Details"]
    assert isinstance(details, dict)
    assert details["X"] == {"DroppedFrames": 3}
    stack = details["Stack"]
    assert isinstance(stack, dict)
    assert stack["Malformed"] == 9
    assert len(stack) == len(fields(StackCounters))
    assert details.keys() == {"Totals", "Stack", "TCP", "X"}


def test_nothing_is_shown_that_json_lacks() -> None:
    tree = stats(Totals(), StackCounters(), Counters())
    assert json.loads(json.dumps(tree)) == tree
