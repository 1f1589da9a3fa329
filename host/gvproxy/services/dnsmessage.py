"""The few fields of a DNS message (RFC 1035 §4.1) that deciding about a query takes.

A query is read here rather than by dnslib, which follows compression pointers and decodes labels
as text: a guest's query has to be safe to look at, and most of them are passed on unread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

HEADER = Struct("!HHHHHH")  # id, flags, and the counts of questions, answers, authority, additional

QR = 0x8000
AA = 0x0400
TC = 0x0200
RD = 0x0100
RA = 0x0080
AD = 0x0020
CD = 0x0010
OPCODE_MASK = 0x7800
RCODE_MASK = 0x000F

TYPE_A = 1
TYPE_SOA = 6
TYPE_PTR = 12
TYPE_AAAA = 28
TYPE_OPT = 41
TYPE_SVCB = 64
TYPE_HTTPS = 65
TYPE_ANY = 255
CLASS_IN = 1
CLASS_ANY = 255

MAX_DATAGRAM = 512
"""Bytes that a client without EDNS takes over UDP (RFC 1035 §4.2.1)."""
MAX_PAYLOAD = 65507
"""Bytes that a UDP datagram over IPv4 has room for."""
MAX_NAME = 255
MAX_LABEL = 63

Labels = tuple[bytes, ...]
"""A name, its labels in lower case, without the root's empty one."""

_FIELDS = Struct("!HH")  # type, class
_RECORD = Struct("!HHHIH")
_QUESTION_NAME = 0xC000 | HEADER.size  # a pointer to it (RFC 1035 §4.1.4)
_ROOT_OPT = b"\0" + TYPE_OPT.to_bytes(2, "big")
_OPT_FIELDS = Struct("!HHHxx")  # UDP size, extended RCODE and version, flags; the length of options
_OPT_SIZE = len(_ROOT_OPT) + _OPT_FIELDS.size  # without options (RFC 6891 §6.1.2)
_DO = 0x8000


class Rcode(IntEnum):
    """RFC 1035 §4.1.1."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5


_NEXT_SERVER = (Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED)  # as glibc's res_send.c


class MessageError(Exception):
    """The message is no well-formed query."""


@dataclass(frozen=True, slots=True)
class Query:
    """What a query asks.  `question` is its section as it came, in the client's spelling.

    `limit` is how many bytes its client takes over UDP.  `dnssec` says that it wants signatures,
    `cacheable` that there is nothing else in the query that an answer could depend on.
    """

    ident: int
    flags: int
    labels: Labels
    kind: int
    klass: int
    question: bytes
    edns: bool = False
    limit: int = MAX_DATAGRAM
    dnssec: bool = False
    cacheable: bool = False

    def __str__(self) -> str:
        """Return its name, and its type's number."""
        name = b".".join(self.labels).decode("ascii", "backslashreplace")
        return f"{name or '.'} (type {self.kind})"


def labels(name: str) -> Labels:
    """Split a name written with dots, of which the last is optional."""
    return tuple(name.lower().rstrip(".").encode().split(b".")) if name.strip(".") else ()


def parse(message: bytes) -> Query:
    """Read a query with one question; raises MessageError."""
    if len(message) < HEADER.size:
        raise MessageError
    ident, flags, questions, answers, authority, additional = HEADER.unpack_from(message)
    if flags & QR or questions != 1:
        raise MessageError
    name, position = _name(message, HEADER.size)
    end = position + _FIELDS.size
    if end > len(message):
        raise MessageError
    kind, klass = _FIELDS.unpack_from(message, position)
    fixed = ident, flags, name, kind, klass, message[HEADER.size : end]
    # Wherever EDNS is used, its record comes first; nobody signs what he asks a gateway.
    edns = bool(additional) and not answers and not authority
    if not (edns and message[end : end + 3] == _ROOT_OPT and len(message) >= end + _OPT_SIZE):
        return Query(*fixed, cacheable=end == len(message))
    size, version, bits = _OPT_FIELDS.unpack_from(message, end + len(_ROOT_OPT))
    return Query(
        *fixed,
        edns=True,
        limit=min(max(size, MAX_DATAGRAM), MAX_PAYLOAD),
        dnssec=bool(bits & _DO),
        cacheable=len(message) == end + _OPT_SIZE and not version,
    )


def _name(message: bytes, position: int) -> tuple[Labels, int]:
    """Read a name that is not compressed: in the first question there is nothing to point to."""
    start = position
    found: list[bytes] = []
    while position < len(message) and position - start < MAX_NAME:
        length = message[position]
        position += 1
        if not length:
            return tuple(found), position
        if length > MAX_LABEL:
            break
        found.append(message[position : position + length].lower())
        position += length
    raise MessageError


def reply(query: Query, rcode: Rcode, *, flags: int = 0, answers: Sequence[bytes] = ()) -> bytes:
    """Build a reply; `answers` are resource records of `record`."""
    flags |= QR | RA | query.flags & (OPCODE_MASK | RD) | rcode
    head = HEADER.pack(query.ident, flags, 1, len(answers), 0, int(query.edns))
    return head + query.question + b"".join(answers) + (_OPT if query.edns else b"")


def record(kind: int, ttl: int, data: bytes) -> bytes:
    """Build a resource record of the name that is asked for."""
    return _RECORD.pack(_QUESTION_NAME, kind, CLASS_IN, ttl, len(data)) + data


def is_legal(name: Labels) -> bool:
    """Tell whether a name can be written (RFC 1035 §2.3.4)."""
    return (
        all(0 < len(one) <= MAX_LABEL for one in name)
        and sum(map(len, name)) + len(name) < MAX_NAME
    )


def encode_name(name: Labels) -> bytes:
    """Write a name, uncompressed (RFC 1035 §3.1)."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def is_answer(message: bytes, query: Query, ident: int) -> bool:
    """Tell whether a message is a server's answer: the id, and the question in any spelling."""
    if len(message) < HEADER.size:
        return False
    found, flags, questions, *_ = HEADER.unpack_from(message)
    if found != ident or not flags & QR:
        return False
    if not questions:  # a server that did not understand the query need not repeat it
        return bool(flags & RCODE_MASK)
    # No length byte of a name is a letter: lower() leaves them alone.  It may change the type and
    # class, but those of both sides alike.
    question = query.question
    return message[HEADER.size : HEADER.size + len(question)].lower() == question.lower()


def failure(answer: bytes) -> Rcode | None:
    """Return the RCODE of an answer after which another server is asked; None for all others."""
    rcode = answer[3] & RCODE_MASK
    return Rcode(rcode) if rcode in _NEXT_SERVER else None


def format_error(message: bytes) -> bytes | None:
    """Answer what could not be parsed with FORMERR; None where that would be no query at all."""
    if len(message) < HEADER.size:
        return None
    ident, flags, *_ = HEADER.unpack_from(message)
    if flags & QR:
        return None
    return HEADER.pack(ident, QR | RA | flags & (OPCODE_MASK | RD) | Rcode.FORMERR, 0, 0, 0, 0)


# RFC 6891 §6.1.2: root, OPT, the UDP size of DNS flag day 2020, no extended RCODE, flags or options
_OPT = _ROOT_OPT + Struct("!HIH").pack(1232, 0, 0)
