"""One builder a state: the shortest way there from nothing, itself a trace."""

from gvproxy.tcp.states import State

from .trace import Trace

OPTIONS = "mss 1460 ws 7 sackok ts"

_LISTEN = f"< S 0 win 64240 [{OPTIONS}]\n"
_SYN_RECEIVED = (
    _LISTEN
    + f"""
    ! accept
    > S. 0 ack 1 win 65535 [{OPTIONS}]
    """
)
_SYN_SENT = f"""
    ! open
    > S 0 win 65535 [{OPTIONS}]
    """
_ESTABLISHED = (
    _SYN_RECEIVED
    + """
    +0.001 < . 1 ack 1
    ? established
    """
)
_FIN_WAIT_1 = (
    _ESTABLISHED
    + """
    ! shutdown
    > F. 1 ack 1
    """
)
_FIN_WAIT_2 = _FIN_WAIT_1 + "< . 1 ack 2\n"
_CLOSE_WAIT = (
    _ESTABLISHED
    + """
    < F. 1 ack 1
    ? eof
    > . 1 ack 2
    """
)
_CLOSING = (
    _FIN_WAIT_1
    + """
    < F. 1 ack 1
    ? eof
    > . 2 ack 2
    """
)
_LAST_ACK = (
    _CLOSE_WAIT
    + """
    ! shutdown
    > F. 1 ack 2
    """
)
_TIME_WAIT = (
    _FIN_WAIT_2
    + """
    < F. 1 ack 2
    ? eof
    ? ended DONE
    > . 2 ack 2
    """
)
_CLOSED = (
    _LAST_ACK
    + """
    < . 2 ack 2
    ? ended DONE
    """
)

WAYS = {
    "LISTEN": _LISTEN,
    "SYN_SENT": _SYN_SENT,
    "SYN_RECEIVED": _SYN_RECEIVED,
    "ESTABLISHED": _ESTABLISHED,
    "FIN_WAIT_1": _FIN_WAIT_1,
    "FIN_WAIT_2": _FIN_WAIT_2,
    "CLOSE_WAIT": _CLOSE_WAIT,
    "CLOSING": _CLOSING,
    "LAST_ACK": _LAST_ACK,
    "TIME_WAIT": _TIME_WAIT,
    "CLOSED": _CLOSED,
}


def enter(trace: Trace, state: str, options: str = OPTIONS) -> Trace:
    """Bring a fresh trace into `state`, with a guest whose SYN has `options`."""
    trace.bench.c.state = State.CLOSED if state == "SYN_SENT" else State.LISTEN
    trace(WAYS[state].replace(OPTIONS, options))
    return trace(f"= state {state}")
