"""What the user of a connection asks of it (RFC 9293 §3.10.1 to §3.10.5)."""

from gvproxy.tcp import output
from gvproxy.tcp.connection import MAX_SEGMENT, WINDOW_SHIFT, Connection
from gvproxy.tcp.states import (
    CLOSE_WAIT,
    CLOSED,
    ESTABLISHED,
    FIN_WAIT_1,
    FIN_WAIT_2,
    LAST_ACK,
    LINGER,
    LISTEN,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    End,
)
from gvproxy.tcp.timers import FIN_WAIT_2_TIME
from gvproxy.wire import tcp as wire

_ESTABLISHED = (ESTABLISHED, CLOSE_WAIT)


def open_active(c: Connection, now: float) -> None:
    """Send a SYN (RFC 9293 §3.10.1, active)."""
    assert c.state is CLOSED
    c.state = SYN_SENT
    c.rcv_shift = WINDOW_SHIFT
    c.counters.active_opens += 1
    output.emit_syn(c, now)


def accept(c: Connection, now: float) -> None:
    """Answer the SYN that `input` took in LISTEN, now that its user wants the connection."""
    assert c.state is LISTEN
    c.state = SYN_RECEIVED
    c.counters.passive_opens += 1
    output.emit_syn(c, now)


def send(c: Connection, data: bytes, now: float) -> None:
    """Add to the outgoing stream and send what may be sent; `data` must not change any more.

    Takes any amount; whoever wants the memory bounded asks `room()` first.
    """
    out, nxt = c.out, c.snd_nxt
    size = len(data)
    if (
        nxt == out.end
        and 0 < size <= MAX_SEGMENT
        and nxt + size - c.snd_una <= c.congestion.cwnd
        and nxt + size - c.snd_una <= c.snd_wnd
        and c.state in _ESTABLISHED
    ):
        out.append(data)
        c.memory.keep(size)
        output.emit(c, nxt, wire.ACK | wire.PSH, data, now)
        output.sent(c, nxt + size, now)
        return
    if not size or c.state is CLOSED:
        return
    assert not c.fin_queued
    out.append(data)
    c.memory.keep(size)
    if c.state in _ESTABLISHED:
        output.transmit(c, now)


def consumed(c: Connection, count: int, now: float) -> None:
    """Give back window for `count` bytes that `User.received` had kept.

    The guest is told once the window has grown by enough to be worth a segment.
    """
    if c.state is CLOSED:
        return
    c.rcv_held -= count
    c.memory.keep(-count)
    edge = c.rcv_nxt + c.rcv_limit - c.rcv_held
    if edge - c.rcv_adv >= c.rcv_limit >> 2:
        output.acknowledge(c, now)


def shutdown(c: Connection, now: float, last: bytes = b"") -> None:
    """End the outgoing stream behind what is queued, and behind `last`: RFC 9293's CLOSE."""
    if c.fin_queued or c.state not in (SYN_SENT, SYN_RECEIVED, *_ESTABLISHED):
        return
    if last:
        c.out.append(last)
        c.memory.keep(len(last))
    c.fin_queued = True
    c.wants_room = False
    if c.state is ESTABLISHED:
        c.state = FIN_WAIT_1
    elif c.state is CLOSE_WAIT:
        c.state = LAST_ACK
    else:
        return  # the handshake's end sends it
    output.transmit(c, now)


def release(c: Connection, now: float) -> None:
    """Let the user go, as close(2) does: what is queued is still sent, and a FIN behind it.

    Data that the user has not consumed, or that comes later, resets the connection.  The user is
    told nothing more; the connection ends by itself, at the latest when the guest stops to answer.
    """
    if c.state in (LISTEN, SYN_SENT) or c.rcv_held:
        c.user = None
        abort(c, now)
        return
    c.user = None
    shutdown(c, now)
    if c.state is FIN_WAIT_2:
        c.arm(LINGER, now + FIN_WAIT_2_TIME)


def abort(c: Connection, now: float) -> None:
    """Reset the connection, or refuse the SYN of one in LISTEN (RFC 9293 §3.10.5)."""
    if c.state in (CLOSED, TIME_WAIT):
        return
    output.reset(c)
    output.close(c, End.RESET, now)


def drop(c: Connection, now: float) -> None:
    """Forget the connection without a word to the guest, as if its SYN had been lost."""
    output.close(c, End.UNREACHABLE, now)
