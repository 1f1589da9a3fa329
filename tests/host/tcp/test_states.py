"""A segment of every kind in every state, against RFC 9293 §3.10.7 and RFC 5961.

`TABLE` says what the RFCs want, `DEPARTURES` where and why something else happens; a cell must hold
whichever applies to it.  What is written in a cell:

    .  R  S.  R.   the flags of the reply; nothing where there is none
    e d f          the user is told: established, data, end of the guest's stream
    o r            … that the connection is over: done, or reset
    >XX            the new state, where it is another

Segments are written as in a trace.  `G` is the guest's next number; `O` acknowledges all that we
sent, and `A` nothing new (in SYN-RECEIVED: our SYN, for which everything else waits).
"""

import pytest

from gvproxy.tcp.connection import flags_name
from gvproxy.tcp.input import reset_reply
from gvproxy.tcp.states import Timer
from gvproxy.wire import tcp as wire

from .bench import Sent, Told
from .states import WAYS, enter
from .trace import Trace

_STATES = ("LI", "SS", "SR", "ES", "F1", "F2", "CW", "CL", "LA", "TW", "CD")
NAMES = dict(zip(_STATES, WAYS, strict=True))
_SHORT = {name: short for short, name in NAMES.items()}
_TOLD = {"established": "e", "received": "d", "eof": "f", "ended DONE": "o", "ended RESET": "r"}

KINDS = {
    "SYN": "S G [mss 1460]",
    "SYN again": "S 0 [mss 1460]",
    "SYN far off": "S G+2000000 [mss 1460]",
    "SYN-ACK": "S. G ack O [mss 1460]",
    "SYN-ACK too new": "S. G ack O+1 [mss 1460]",
    "SYN and FIN": "SF G [mss 1460]",
    "ACK": ". G ack O",
    "ACK old": ". G ack A-1",
    "ACK older": ". G ack A-200000",
    "ACK too new": ". G ack O+1",
    "ACK, window 0": ". G ack A win 0",
    "data": "P. G:G+100 ack A",
    "data ahead": "P. G+100:G+200 ack A",
    "data old": "P. G-100:G ack A",
    "data far off": "P. G+2000000:G+2000100 ack A",
    "data, ACK new": "P. G:G+100 ack O+1",
    "data, no ACK": "P G:G+100",
    "urgent data": "PU. G:G+100 ack A",
    "FIN": "F. G ack A",
    "FIN again": "F. G-1 ack A",
    "FIN ahead": "F. G+100 ack A",
    "FIN far off": "F. G+2000000 ack A",
    "FIN, ACK of ours": "F. G ack O",
    "FIN, no ACK": "F G",
    "RST": "R G",
    "RST and ACK": "R. G ack O",
    "RST in window": "R G+1",
    "RST old": "R G-1",
    "RST far off": "R G+2000000",
    "keep-alive": ". G-1 ack A",
    "keep-alive, 1 byte": ". G-1:G ack A",
}

_TEXT = ("data", "urgent data")

TABLE = """
                   |LI     |SS    |SR     |ES    |F1     |F2     |CW  |CL    |LA    |TW  |CD
SYN                |S.>SR  |S.>SR |>LI    |.     |.      |.      |.   |.     |.     |.   |R.
SYN again          |S.>SR  |S.>SR |.      |.     |.      |.      |.   |.     |.     |.   |R.
SYN far off        |S.>SR  |S.>SR |.      |.     |.      |.      |.   |.     |.     |.   |R.
SYN-ACK            |R      |.e>ES |>LI    |.     |.      |.      |.   |.     |.     |.   |R
SYN-ACK too new    |R      |R     |>LI    |.     |.      |.      |.   |.     |.     |.   |R
SYN and FIN        |S.>SR  |S.>SR |>LI    |.     |.      |.      |.   |.     |.     |.   |R.
ACK                |R      |      |e>ES   |      |>F2    |       |    |o>TW  |o>CD  |    |R
ACK old            |R      |R     |R      |      |       |       |    |      |      |    |R
ACK older          |R      |R     |R      |.     |.      |.      |.   |.     |.     |.   |R
ACK too new        |R      |R     |R      |.     |.      |.      |.   |.     |.     |.   |R
ACK, window 0      |R      |      |e>ES   |      |       |       |    |      |      |    |R
data               |R      |      |.ed>ES |.d    |.d     |.d     |    |      |      |    |R
data ahead         |R      |      |.e>ES  |.     |.      |.      |.   |.     |.     |.   |R
data old           |R      |      |.      |.     |.      |.      |.   |.     |.     |.   |R
data far off       |R      |      |.      |.     |.      |.      |.   |.     |.     |.   |R
data, ACK new      |R      |R     |R      |.     |.      |.      |.   |.     |.     |.   |R
data, no ACK       |       |      |       |      |       |       |    |      |      |    |R.
urgent data        |R      |      |.ed>ES |.d    |.d     |.d     |    |      |      |    |R
FIN                |R      |      |.ef>CW |.f>CW |.f>CL  |.fo>TW |.   |      |.     |.   |R
FIN again          |R      |      |.      |.     |.      |.      |.   |.     |.     |.   |R
FIN ahead          |R      |      |.e>ES  |.     |.      |.      |.   |.     |.     |.   |R
FIN far off        |R      |      |.      |.     |.      |.      |.   |.     |.     |.   |R
FIN, ACK of ours   |R      |      |.ef>CW |.f>CW |.fo>TW |.fo>TW |.   |.o>TW |o>CD  |.   |R
FIN, no ACK        |       |      |       |      |       |       |    |      |      |    |R.
RST                |       |      |>LI    |r>CD  |r>CD   |r>CD   |r>CD|>CD   |>CD   |>CD |
RST and ACK        |       |r>CD  |>LI    |r>CD  |r>CD   |r>CD   |r>CD|>CD   |>CD   |>CD |
RST in window      |       |      |.      |.     |.      |.      |.   |.     |.     |.   |
RST old            |       |      |       |      |       |       |    |      |      |    |
RST far off        |       |      |       |      |       |       |    |      |      |    |
keep-alive         |R      |      |.      |.     |.      |.      |.   |.     |.     |.   |R
keep-alive, 1 byte |R      |      |.      |.     |.      |.      |.   |.     |.     |.   |R
"""

DEPARTURES = {
    # Here LISTEN is one SYN whose user has not decided; `calls.accept` answers (`State`).
    ("SYN", "LI"): "",
    ("SYN again", "LI"): "",
    ("SYN far off", "LI"): "",
    ("SYN and FIN", "LI"): "",
    # The RFC's answer, an ACK, says nothing to a guest in SYN-SENT whose SYN-ACK was lost.
    ("SYN again", "SR"): "S.",
    # There is no LISTEN to go back to that would take the next SYN: a new connection does.  A SYN
    # is challenged as in the synchronized states, and the guest's reset ends what it finds stale.
    ("SYN", "SR"): ".",
    ("SYN-ACK", "SR"): ".",
    ("SYN-ACK too new", "SR"): ".",
    ("SYN and FIN", "SR"): ".",
    ("RST", "SR"): "r>CD",
    ("RST and ACK", "SR"): "r>CD",
    # Its user holds an outside connection to close, and had bytes that may not have arrived.
    ("RST", "CL"): "r>CD",
    ("RST", "LA"): "r>CD",
    ("RST and ACK", "CL"): "r>CD",
    ("RST and ACK", "LA"): "r>CD",
    # What "should not occur" is not taken, as the RFC says, yet answered by where the stream ends.
    **dict.fromkeys(((kind, state) for kind in _TEXT for state in ("CW", "CL", "LA", "TW")), "."),
    ("FIN", "CL"): ".",
}


def _expectations() -> dict[tuple[str, str], str]:
    """Return the table's cells by kind and short state."""
    head, *rows = [[cell.strip() for cell in line.split("|")] for line in TABLE.split("\n") if line]
    assert [row[0] for row in rows] == list(KINDS)
    assert head[1:] == list(NAMES)
    return {
        (row[0], state): cell for row in rows for state, cell in zip(head[1:], row[1:], strict=True)
    }


CELLS = _expectations()


def _text(kind: str, trace: Trace, state: str) -> str:
    """Write a kind's segment with the numbers of the connection."""
    c, bench = trace.bench.c, trace.bench
    numbers = {
        "G": c.rcv_nxt - bench.irs if c.rcv_nxt else 0,
        "O": c.snd_nxt - bench.iss,
        "A": (c.snd_nxt if state in ("SS", "SR") else c.snd_una) - bench.iss,
    }
    words = []
    for word in KINDS[kind].split():
        parts = [
            str(numbers[part[0]] + int(part[1:] or 0)) if part[0] in numbers else part
            for part in word.split(":")
        ]
        words.append(":".join(parts))
    return " ".join(words)


def _outcome(trace: Trace, text: str) -> str:
    """Feed a segment; return what came of it as a cell has it."""
    bench, c = trace.bench, trace.bench.c
    before, segment = c.state, trace.segment(text)
    bench.arrives(segment)
    replies, told = "", ""
    for entry in bench.log:
        if isinstance(entry, Told):
            told += _TOLD[entry.what.removesuffix(" 100")]
        else:
            assert not replies, "one reply at most"
            replies = flags_name(entry.flags)
            _check_reply(trace, entry, segment.ack)
    return replies + told + ("" if c.state is before else f">{_SHORT[c.state.name]}")


def _check_reply(trace: Trace, sent: Sent, acknowledged: int) -> None:
    """Assert that a reply has the numbers that make it count."""
    c = trace.bench.c
    assert not sent.payload
    if sent.flags == wire.RST:
        assert sent.seq == acknowledged
    elif sent.flags == wire.ACK:
        assert (sent.seq, sent.ack) == (c.snd_nxt % 2**32, c.rcv_nxt % 2**32)
    else:
        assert sent.flags == wire.SYN | wire.ACK
        assert (sent.seq, sent.ack) == (c.iss, c.rcv_nxt % 2**32)


@pytest.mark.parametrize("state", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_segment(trace: Trace, kind: str, state: str) -> None:
    enter(trace, NAMES[state])
    text = _text(kind, trace, state)
    if state == "CD":
        reply = reset_reply(trace.segment(text))
        outcome = flags_name(reply[2]) if reply else ""
    else:
        outcome = _outcome(trace, text)
    assert outcome == DEPARTURES.get((kind, state), CELLS[kind, state])


def test_departures_are_departures() -> None:
    assert all(CELLS[cell] != outcome for cell, outcome in DEPARTURES.items())


@pytest.mark.parametrize("state", NAMES.values())
def test_a_state_that_waits_has_a_timer(trace: Trace, state: str) -> None:
    """`Bench.check` holds it after every step of every trace; here, that it would notice."""
    waits = {"SYN_SENT", "SYN_RECEIVED", "FIN_WAIT_1", "CLOSING", "LAST_ACK", "TIME_WAIT"}
    c = enter(trace, state).bench.c
    assert (c.timer is not Timer.NONE) is (state in waits)
    c.disarm()
    if state in waits:
        with pytest.raises(AssertionError):
            trace.bench.check()


@pytest.mark.parametrize(
    "waiting",
    [
        "! send 100\n > P. 1:101 ack 1",
        "< . 1 ack 1 win 0\n ! send 100",
        "< . 1 ack 1 win 0\n ! room 0",
        "! shutdown\n > F. 1 ack 1\n < . 1 ack 2\n ! release",
    ],
)
def test_whatever_waits_has_a_timer(established: Trace, waiting: str) -> None:
    established(waiting)
    c = established.bench.c
    assert c.timer is not Timer.NONE
    c.disarm()
    with pytest.raises(AssertionError):
        established.bench.check()
