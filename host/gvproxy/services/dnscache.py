"""Answers of the host's name servers, kept for as long as their TTLs allow (RFC 1035 §7.4).

An answer is kept as it came, and given with the TTLs that are left, to queries that would have got
the same: equal in name, type, class, and in the bits that shape an answer.  Failures, truncated and
long answers are not kept, and queries with EDNS options are neither kept nor answered from here,
for the options may shape the answer too.
"""

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from struct import Struct

from gvproxy.services import dnsmessage
from gvproxy.services.dnsmessage import HEADER, Query, Rcode

MAX_BYTES = 4 * 1024 * 1024
"""Of all answers kept; some five thousand."""
MAX_ANSWER = 8192
"""Bytes; hardly any is longer, and who asks for a zone does not ask twice."""
OVERHEAD = 600
"""Bytes of memory that an answer takes besides its own, as tracemalloc has them."""
MAX_TTL = 86_400
"""Seconds; longer ones are mostly mistakes (RFC 8767 §4: a day is a reasonable cap)."""
MAX_NEGATIVE_TTL = 60
"""Seconds.  RFC 2308 §5 lets up to three hours pass; a name that does not exist may do so in a
moment, once a VPN is up, which nobody tells us."""

_SHAPING = dnsmessage.RD | dnsmessage.AD | dnsmessage.CD
_RECORD = Struct("!HHIH")  # type, class, TTL, length
_TTL = Struct("!I")
_MINIMUM = 20
"""Bytes from the end of SOA's names to its end, of which the last four are MINIMUM."""

_Key = tuple[bytes, int, bool, bool]


class _Unusable(Exception):
    """The answer may not be kept, or is malformed."""


@dataclass(slots=True)
class Counters:
    """What was found, and what is kept; `bytes` with the overhead."""

    hits: int = 0
    misses: int = 0
    entries: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Entry:
    """An answer of `kept`, good until `expires`, and where in its `rest` the TTLs are.

    Times are in seconds.
    """

    flags: int
    counts: bytes
    rest: bytes
    ttls: "array[int]"
    kept: float
    expires: float


class DnsCache:
    """Least recently used answers make room for new ones."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.counters = Counters()
        self._max_bytes = max_bytes
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()

    def find(self, query: Query, limit: int, now: float) -> bytes | None:
        """Return the answer to a query in at most `limit` bytes, with what is left of its TTLs."""
        if not query.cacheable:
            return None
        key = _key(query)
        entry = self._entries.get(key)
        if entry is not None and entry.expires <= now:
            self._drop(key)
            entry = None
        if entry is None or HEADER.size + len(query.question) + len(entry.rest) > limit:
            self.counters.misses += 1
            return None
        self.counters.hits += 1
        self._entries.move_to_end(key)
        rest, age = bytearray(entry.rest), int(now - entry.kept)
        for position in entry.ttls:
            (ttl,) = _TTL.unpack_from(rest, position)
            _TTL.pack_into(rest, position, max(ttl - age, 0))
        head = query.ident.to_bytes(2, "big") + entry.flags.to_bytes(2, "big") + entry.counts
        return head + query.question + rest

    def keep(self, query: Query, answer: bytes, now: float) -> None:
        """Keep an answer, if it may be; `now` is when the query came."""
        if not query.cacheable:
            return
        try:
            entry = _read(query, answer, now)
        except _Unusable:
            return
        key = _key(query)
        self._drop(key)
        self._entries[key] = entry
        self.counters.entries += 1
        self.counters.bytes += _size(key, entry)
        while self.counters.bytes > self._max_bytes:
            self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.counters.entries = self.counters.bytes = 0

    def _drop(self, key: _Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.counters.entries -= 1
            self.counters.bytes -= _size(key, entry)


def _key(query: Query) -> _Key:
    # No length byte of a name is a letter, and the type and class of all queries change alike.
    return query.question.lower(), query.flags & _SHAPING, query.edns, query.dnssec


def _size(key: _Key, entry: _Entry) -> int:
    """Return the bytes of memory an answer takes."""
    positions = entry.ttls.itemsize * len(entry.ttls)
    return len(key[0]) + len(entry.rest) + positions + OVERHEAD


def _read(query: Query, answer: bytes, now: float) -> _Entry:
    """Read an answer to a query; raises _Unusable."""
    if not HEADER.size <= len(answer) <= MAX_ANSWER:
        raise _Unusable
    _, flags, questions, *counts = HEADER.unpack_from(answer)
    start = HEADER.size + len(query.question)
    rcode = flags & dnsmessage.RCODE_MASK
    question = answer[HEADER.size : start]
    if (
        rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN)
        or flags & dnsmessage.TC
        or questions != 1
        or question.lower() != query.question.lower()
    ):
        raise _Unusable
    records = _records(answer, start, counts)
    ttl: float = min((one.ttl for one in records), default=0)
    if rcode or not any(one.section == 0 and one.kind == query.kind for one in records):
        # RFC 2308 §5: without the zone's SOA nothing says how long a name does not exist.
        ttl = min(ttl, min((one.minimum for one in records), default=inf), MAX_NEGATIVE_TTL)
        if not any(one.minimum < inf for one in records):
            raise _Unusable
    if ttl <= 0:
        raise _Unusable
    return _Entry(
        flags & ~dnsmessage.AA,
        answer[4 : HEADER.size],
        answer[start:],
        array("H", (one.position - start for one in records)),
        now,
        now + min(ttl, MAX_TTL),
    )


@dataclass(slots=True)
class _Record:
    """What counts of a record: the place of its TTL, and SOA's MINIMUM, infinite for others."""

    section: int
    kind: int
    position: int
    ttl: int
    minimum: float


def _records(message: bytes, position: int, counts: list[int]) -> list[_Record]:
    """Read all records but OPT, whose TTL is none; raises _Unusable."""
    found = []
    for section, count in enumerate(counts):
        for _ in range(count):
            position = _skip_name(message, position)
            end = position + _RECORD.size
            if end > len(message):
                raise _Unusable
            kind, _, ttl, length = _RECORD.unpack_from(message, position)
            if end + length > len(message):
                raise _Unusable
            if kind != dnsmessage.TYPE_OPT:
                minimum = inf
                if kind == dnsmessage.TYPE_SOA and section == 1 and length > _MINIMUM:
                    (minimum,) = _TTL.unpack_from(message, end + length - _TTL.size)
                # RFC 2181 §8: a TTL with its highest bit set is to be taken as zero.
                ttl = ttl if ttl < 1 << 31 else 0
                found.append(_Record(section, kind, position + 4, ttl, minimum))
            position = end + length
    return found


def _skip_name(message: bytes, position: int) -> int:
    """Return where a name ends, which may be compressed (RFC 1035 §4.1.4)."""
    while position < len(message):
        length = message[position]
        if not length:
            return position + 1
        if length >= 0xC0:
            return position + 2
        position += 1 + length
    raise _Unusable
