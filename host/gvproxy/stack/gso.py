"""What a network card would do: complete checksums and cut super-frames, in software.

What a guest with offloads sends to one without.  Headers come apart from the payload, with the
pseudo-header's sum in the checksum field (`vnet.F_NEEDS_CSUM`).  Our own TCP makes segments in
`stack.path`.
"""

from collections.abc import Callable, Iterator
from struct import Struct

from gvproxy.stack.sessions import MAX_GUEST_SEGMENTS
from gvproxy.wire import ethernet, ipv4, ipv6, tcp, udp
from gvproxy.wire.checksum import checksum, ones_sum
from taplink import vnet

_IP = ethernet.SIZE
_VERSIONS = {ethernet.TYPE_IPV4.to_bytes(2, "big"): 4, ethernet.TYPE_IPV6.to_bytes(2, "big"): 6}
_WORD = Struct("!H")
_LONG = Struct("!I")
_CWR = 0x80  # RFC 3168 §6.1.2: once per window, so on the first piece only

MIN_SIZE = 48
"""Smaller pieces are refused: a guest could have a thousand frames made of one (Linux:
tcp_min_snd_mss)."""
MAX_PIECES = 256
"""More are refused for the same reason: no kernel has an MSS below 256 by itself."""


def complete(
    meta: bytes, header: bytes, payload: bytes | memoryview
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Yield the finished (header, payload) frames that `meta` asks to be made of one frame.

    `header` reaches from Ethernet to the end of the transport header (`hdr_len` is not trusted), or
    to the end of the frame.  TCP and UDP over IPv4 and IPv6 are cut; anything else is only
    checksummed.
    Yields nothing for a super-frame whose headers are not what `meta` says.
    """
    flags, kind, _, size, start, offset, _ = vnet.HEADER.unpack(meta)
    if not flags & vnet.F_NEEDS_CSUM:
        yield header, payload
        return
    kind &= ~vnet.GSO_ECN
    if kind in (vnet.GSO_TCPV4, vnet.GSO_TCPV6) and 0 < size < len(payload):
        if _may_cut(size, len(payload)) and _is_tcp(header, kind, start, size):
            yield from _cut_tcp(header, payload, size, start)
        return
    if kind == vnet.GSO_UDP_L4 and 0 < size < len(payload):
        if len(payload) <= size * MAX_GUEST_SEGMENTS and _is_udp(header, start, size):
            yield from _cut_udp(header, payload, size, start)
        return
    field = start + offset
    total = ones_sum(header[start:], len(header) - start) + ones_sum(payload, len(payload))
    yield header[:field] + _WORD.pack(checksum(total)) + header[field + 2 :], payload


def _may_cut(size: int, length: int) -> bool:
    return size >= MIN_SIZE and length <= size * MAX_PIECES


def _is_tcp(header: bytes, kind: int, start: int, size: int) -> bool:
    """Tell whether TCP begins at `start`, and a piece of `size` makes a packet."""
    if len(header) < start + tcp.SIZE or len(header) - _IP + size > ipv4.MAX_PACKET:
        return False
    return _version(header, start) == (4 if kind == vnet.GSO_TCPV4 else 6)


def _is_udp(header: bytes, start: int, size: int) -> bool:
    """Tell whether UDP is all that follows `start`, and a piece of `size` makes a packet."""
    if len(header) != start + udp.SIZE or len(header) - _IP + size > ipv4.MAX_PACKET:
        return False
    return _version(header, start) != 0


def _version(header: bytes, start: int) -> int:
    """Return the version of the IP header that ends at `start`, 0 where there is none.

    Behind a tag nothing is cut.
    """
    version = header[_IP] >> 4
    if version != _VERSIONS.get(header[_IP - 2 : _IP]):
        return 0
    if version == 4:
        right = start == _IP + (header[_IP] & 0xF) * 4 >= _IP + ipv4.SIZE
    else:
        right = start >= _IP + ipv6.SIZE
    return version if right else 0


def _cut_tcp(
    header: bytes, payload: bytes | memoryview, size: int, start: int
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Cut a TCP super-frame into segments of `size` bytes of payload (RFC 9293 §3.7).

    What the pieces have in common is summed once.
    """
    view = memoryview(payload)
    block = bytearray(header)
    number_packet = _packets(header, start)
    length = len(header) - start
    field = start + tcp.CHECKSUM_OFFSET
    (seq,) = _LONG.unpack_from(header, start + 4)
    (offset_flags,) = _WORD.unpack_from(header, start + 12)
    # The pseudo-header's sum stands in the checksum field and counts the whole length, which is
    # taken out here (modulo 65535) for each piece to add its own.
    _LONG.pack_into(block, start + 4, 0)
    _WORD.pack_into(block, start + 12, 0)
    common = ones_sum(block[start:], length) + 0xFFFF * 2 - len(view) % 0xFFFF
    for number, position in enumerate(range(0, len(view), size)):
        piece = view[position : position + size]
        count = len(piece)
        place = (seq + position) & 0xFFFFFFFF
        bits = offset_flags
        if position + size < len(view):
            bits &= ~(tcp.FIN | tcp.PSH)  # for the last piece
        if number:
            bits &= ~_CWR
        _LONG.pack_into(block, start + 4, place)
        _WORD.pack_into(block, start + 12, bits)
        total = common + (place >> 16) + (place & 0xFFFF) + bits + count + ones_sum(piece, count)
        _WORD.pack_into(block, field, checksum(total))
        number_packet(block, number, count)
        yield bytes(block), piece


def _cut_udp(
    header: bytes, payload: bytes | memoryview, size: int, start: int
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Cut a super-datagram into datagrams of `size` bytes of payload."""
    view = memoryview(payload)
    block = bytearray(header)
    number_packet = _packets(header, start)
    field = start + udp.CHECKSUM_OFFSET
    # As above; the length counts twice, in the header and in the pseudo-header.
    _WORD.pack_into(block, start + 4, 0)
    common = ones_sum(block[start:], udp.SIZE) + 0xFFFF * 2 - udp.SIZE - len(view)
    for number, position in enumerate(range(0, len(view), size)):
        piece = view[position : position + size]
        length = udp.SIZE + len(piece)
        _WORD.pack_into(block, start + 4, length)
        total = common + 2 * length + ones_sum(piece, len(piece))
        _WORD.pack_into(block, field, checksum(total))
        number_packet(block, number, len(piece))
        yield bytes(block), piece


def _packets(header: bytes, start: int) -> Callable[[bytearray, int, int], None]:
    """Return what makes an IP header, which ends at `start`, that of a piece.

    It takes the headers, the piece's number and how many bytes of payload it has.
    """
    rest = len(header) - _IP
    if header[_IP] >> 4 == 6:

        def six(block: bytearray, number: int, count: int) -> None:
            _WORD.pack_into(block, _IP + 4, rest - ipv6.SIZE + count)

        return six
    (identification,) = _WORD.unpack_from(header, _IP + 4)
    blank = bytearray(header[_IP:start])
    _LONG.pack_into(blank, 2, 0)
    _WORD.pack_into(blank, 10, 0)
    common = ones_sum(blank, len(blank))

    def four(block: bytearray, number: int, count: int) -> None:
        packet, ident = rest + count, (identification + number) & 0xFFFF
        _LONG.pack_into(block, _IP + 2, packet << 16 | ident)
        _WORD.pack_into(block, _IP + 10, checksum(common + packet + ident))

    return four
