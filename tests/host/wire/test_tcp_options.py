"""TCP options: bytes and what they say, cut short anywhere, and made of anything."""

import dpkt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvproxy.wire import tcp
from gvproxy.wire.tcp import Options, build_sack, build_syn_options, parse_options

LINUX_SYN = bytes.fromhex("020405b4 0402 080a 11223344 00000000 01 030307")

TABLE = [
    ("", Options()),
    ("00", Options()),
    ("01010101", Options()),
    ("020405b4", Options(mss=1460)),
    ("01030307", Options(window_shift=7)),
    ("0103030f", Options(window_shift=14)),  # RFC 7323 §2.3: 15 and more mean 14
    ("010303ff", Options(window_shift=14)),
    ("01010402", Options(sack_permitted=True)),
    ("0101080a0000000100000002", Options(timestamps=(1, 2))),
    ("0101050a0000000100000002", Options(sack=((1, 2),))),
    ("010105120000000100000002ffffffff00000003", Options(sack=((1, 2), (0xFFFFFFFF, 3)))),
    ("1e04abcd020405b4", Options(mss=1460)),  # unknown: stepped over (MUST-6)
    ("00020405b4", Options()),  # nothing behind the end
    ("02020405b4", Options(window_shift=None)),  # wrong length: stepped over by its own
    ("0200020405b4", Options()),  # a length of 0 and 1 would never end
    ("0201020405b4", Options()),
    ("020405b402", Options(mss=1460)),
    ("020405b40204", Options(mss=1460)),
    ("020405b4020401", Options(mss=1460)),
    ("0502", Options()),
    ("0509" + "00" * 7, Options()),  # blocks are whole
    ("0803000303070101", Options(window_shift=7)),
]


@pytest.mark.parametrize(("data", "options"), TABLE)
def test_bytes_and_meaning(data: str, options: Options) -> None:
    assert parse_options(bytes.fromhex(data)) == options


def test_linux_syn() -> None:
    assert parse_options(LINUX_SYN) == Options(1460, 7, True, (0x11223344, 0))


@pytest.mark.parametrize("end", range(len(LINUX_SYN)))
def test_every_truncation(end: int) -> None:
    """What is whole is read, what is cut short is not."""
    options = parse_options(LINUX_SYN[:end])
    assert options.mss == (1460 if end >= 4 else None)
    assert options.sack_permitted == (end >= 6)
    assert options.timestamps == ((0x11223344, 0) if end >= 16 else None)
    assert options.window_shift is None


@settings(derandomize=True, database=None)
@given(st.binary(max_size=40))
def test_anything(data: bytes) -> None:
    """MUST-7: an illegal length is no error; and everything read was there, as dpkt sees it."""
    options = parse_options(data)
    try:
        known = [option for option in dpkt.tcp.parse_opts(data) if option]
    except dpkt.UnpackError:
        return
    mss = [body for kind, body in known if kind == tcp.OPTION_MSS and len(body) == 2]
    if options.mss is not None:
        assert options.mss.to_bytes(2, "big") in mss


@pytest.mark.parametrize("shift", [None, 0, 7, 14])
@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("timestamps", [None, (1, 0xFFFFFFFF)])
def test_syn_options_are_read_back(
    shift: int | None, sack: bool, timestamps: tuple[int, int] | None
) -> None:
    data = build_syn_options(1460, shift, sack, timestamps)
    assert len(data) % 4 == 0
    assert len(data) <= 40
    assert parse_options(data) == Options(1460, shift, sack, timestamps)
    padding = (tcp.OPTION_NOP, tcp.OPTION_END)
    kinds = {kind for kind, _ in dpkt.tcp.parse_opts(data) if kind not in padding}
    assert kinds == {
        tcp.OPTION_MSS,
        *([tcp.OPTION_SACK_PERMITTED] if sack else []),
        *([tcp.OPTION_TIMESTAMPS] if timestamps else []),
        *([tcp.OPTION_WINDOW_SCALE] if shift is not None else []),
    }


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_sack_blocks_are_read_back(count: int) -> None:
    blocks = [(number * 1000, number * 1000 + 500) for number in range(count)]
    data = build_sack(blocks)
    assert len(data) == 4 + 8 * count
    assert parse_options(data) == Options(sack=tuple(blocks))


def test_three_blocks_fit_beside_timestamps() -> None:
    """RFC 2018 §3."""
    assert len(build_sack([(1, 2)] * 3)) + tcp.TIMESTAMPS.size == 40


def test_timestamps_are_as_everyone_sends_them() -> None:
    """RFC 7323 appendix A."""
    data = tcp.TIMESTAMPS.pack(tcp.TIMESTAMPS_WORD, 5, 6)
    assert data[:4] == b"\x01\x01\x08\x0a"
    assert parse_options(data) == Options(timestamps=(5, 6))
