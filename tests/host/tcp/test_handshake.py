"""Opening a connection: RFC 9293 §3.5, §3.10.7.2, §3.10.7.3."""

import pytest

from .states import WAYS, enter
from .trace import Trace


@pytest.mark.parametrize("state", WAYS)
def test_every_state_is_entered(trace: Trace, state: str) -> None:
    enter(trace, state)


def test_nothing_is_sent_while_the_user_decides(trace: Trace) -> None:
    enter(trace, "LISTEN")("+3600 = state LISTEN")


def test_data_queued_before_the_handshake_waits_for_its_end(trace: Trace) -> None:
    """RFC 9293 §3.10.2: in SYN-RECEIVED the data is queued; a SYN that comes again is no reason."""
    enter(trace, "SYN_RECEIVED")(
        """
        ! send 500
              < S 0 [mss 1460 ws 7 sackok ts]
              > S. 0 ack 1
        +0.01 < . 1 ack 1
              ? established
              > P. 1:501 ack 1
        """
    )
