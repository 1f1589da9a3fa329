"""What a network card would do: complete checksums and cut super-frames, in software.

For a port without offloads.  The caller hands over the headers apart from the payload, with the
pseudo-header's sum in the checksum field (`vnet.F_NEEDS_CSUM`), exactly as for a port with them.
"""

from collections.abc import Iterator
from struct import Struct

from gvproxy.wire import ethernet, ipv4, tcp
from gvproxy.wire.checksum import checksum, ones_sum
from taplink import vnet

_WORD = Struct("!H")
_LONG = Struct("!I")


def complete(
    meta: bytes, header: bytes, payload: bytes | memoryview
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Yield the finished (header, payload) frames that `meta` asks to be made of one frame.

    `header` reaches from Ethernet to the end of the transport header (`hdr_len` is not trusted), or
    to the end of the frame.  IPv4 and IPv6 with TCP are cut; anything else is only checksummed.
    """
    flags, kind, _, size, start, offset, _ = vnet.HEADER.unpack(meta)
    if not flags & vnet.F_NEEDS_CSUM:
        yield header, payload
        return
    field = start + offset
    if kind & ~vnet.GSO_ECN in (vnet.GSO_TCPV4, vnet.GSO_TCPV6) and 0 < size < len(payload):
        yield from _cut(header, payload, size, start)
        return
    total = ones_sum(header[start:], len(header) - start) + ones_sum(payload, len(payload))
    yield header[:field] + _WORD.pack(checksum(total)) + header[field + 2 :], payload


def _cut(
    header: bytes, payload: bytes | memoryview, size: int, start: int
) -> Iterator[tuple[bytes, bytes | memoryview]]:
    """Cut a TCP super-frame into segments of `size` bytes of payload (RFC 9293 §3.7)."""
    view = memoryview(payload)
    ip = ethernet.SIZE
    four = header[ip] >> 4 == 4
    block = bytearray(header)
    length = len(header) - start
    field = start + tcp.CHECKSUM_OFFSET
    (seq,) = _LONG.unpack_from(header, start + 4)
    flags = header[start + 13]
    # The pseudo-header's sum stands in the checksum field and counts the whole length: take that
    # out, and let each piece add its own.
    (partial,) = _WORD.unpack_from(header, field)
    partial += 0xFFFF * 2 - (length + len(view)) % 0xFFFF
    _WORD.pack_into(block, field, 0)
    if four:
        (identification,) = _WORD.unpack_from(header, ip + 4)
        _WORD.pack_into(block, ip + 10, 0)
    for number, position in enumerate(range(0, len(view), size)):
        piece = view[position : position + size]
        last = position + size >= len(view)
        _LONG.pack_into(block, start + 4, (seq + position) & 0xFFFFFFFF)
        # FIN and PSH belong to the last piece, CWR to the first.
        block[start + 13] = flags & ~(0 if last else tcp.FIN | tcp.PSH) & ~(0x80 if number else 0)
        if four:
            _WORD.pack_into(block, ip + 2, len(header) - ip + len(piece))
            _WORD.pack_into(block, ip + 4, (identification + number) & 0xFFFF)
            total = ones_sum(block[ip : ip + ipv4.SIZE], ipv4.SIZE)
            _WORD.pack_into(block, ip + 10, checksum(total))
        else:
            _WORD.pack_into(block, ip + 4, len(header) - ip - 40 + len(piece))
        total = partial + length + len(piece)
        total += ones_sum(block[start:], length) + ones_sum(piece, len(piece))
        _WORD.pack_into(block, field, checksum(total))
        yield bytes(block), piece
        _WORD.pack_into(block, field, 0)
        if four:
            _WORD.pack_into(block, ip + 10, 0)
