"""The virtio-net header's constants and the words offloads are negotiated in."""

import pytest

from taplink import vnet
from taplink.vnet import Offload, format_offload, parse_offload

ALL = Offload.CSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN | Offload.USO4 | Offload.USO6


def test_header() -> None:
    assert vnet.SIZE == 12
    assert bytes(12) == vnet.PLAIN
    header = vnet.HEADER.pack(vnet.F_NEEDS_CSUM, vnet.GSO_TCPV4, 54, 1448, 34, 16, 0)
    assert header == bytes.fromhex("0101 3600 a805 2200 1000 0000")


@pytest.mark.parametrize(
    ("offload", "value"),
    [
        (Offload.NONE, ""),
        (Offload.CSUM, "csum"),
        (Offload.CSUM | Offload.TSO6, "csum,tso6"),
        (ALL, "csum,tso4,tso6,ecn,uso4,uso6"),
    ],
)
def test_offload_both_ways(offload: Offload, value: str) -> None:
    assert format_offload(offload) == value
    assert parse_offload(value) == offload


@pytest.mark.parametrize(
    ("value", "offload"),
    [
        (" CSUM ,\tTso4", Offload.CSUM | Offload.TSO4),
        ("csum,lro,csum", Offload.CSUM),
        ("tso4,tso6", Offload.NONE),
        (",,", Offload.NONE),
        ("csum;tso4", Offload.NONE),
    ],
)
def test_parse_offload_of_others(value: str, offload: Offload) -> None:
    assert parse_offload(value) == offload
