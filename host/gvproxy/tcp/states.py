"""What a connection is in, waits for, owes, and ends by.

Each value has a name of its own in this module: on the packet path these are looked at several
times a segment, and in CPython 3.11 `State.LISTEN` takes five times as long as `LISTEN`.
"""

from enum import Enum, auto


class State(Enum):
    """RFC 9293 §3.3.2.  LISTEN here is a SYN taken whose user has not decided yet."""

    LISTEN = auto()
    SYN_SENT = auto()
    SYN_RECEIVED = auto()
    ESTABLISHED = auto()
    FIN_WAIT_1 = auto()
    FIN_WAIT_2 = auto()
    CLOSE_WAIT = auto()
    CLOSING = auto()
    LAST_ACK = auto()
    TIME_WAIT = auto()
    CLOSED = auto()


class Timer(Enum):
    """What a connection waits for; there is one at a time, so none can contradict another."""

    NONE = auto()
    RETRANSMIT = auto()
    PROBE = auto()  # of the flight's tail
    REORDER = auto()  # until what came out of order counts as lost
    PERSIST = auto()
    KEEPALIVE = auto()
    LINGER = auto()  # the end of TIME-WAIT, or of FIN-WAIT-2 without a user


class Ack(Enum):
    """Whether an acknowledgment is owed."""

    NONE = auto()
    DELAYED = auto()
    COMPRESSED = auto()  # one for several segments ahead of a gap
    NOW = auto()


class End(Enum):
    """Why a connection is over, as its user is told."""

    DONE = auto()
    RESET = auto()
    TIMED_OUT = auto()
    UNREACHABLE = auto()


(
    LISTEN,
    SYN_SENT,
    SYN_RECEIVED,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    CLOSE_WAIT,
    CLOSING,
    LAST_ACK,
    TIME_WAIT,
    CLOSED,
) = State
NO_TIMER, RETRANSMIT, PROBE, REORDER, PERSIST, KEEPALIVE, LINGER = Timer
NO_ACK, ACK_DELAYED, ACK_COMPRESSED, ACK_NOW = Ack
