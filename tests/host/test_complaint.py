"""Messages that a guest can cause: the first few of each minute."""

import logging

import pytest

from gvproxy.complaint import INTERVAL, Complaint

LOG = logging.getLogger("gvproxy.test")


@pytest.mark.parametrize("burst", [1, 3])
def test_the_first_of_each_minute_are_logged(burst: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gvproxy")
    complaint = Complaint(LOG, logging.INFO, burst)
    for second in range(int(2 * INTERVAL)):
        complaint.make(1000.0 + second, "second %d", second)
    minutes = (0, int(INTERVAL))
    assert caplog.messages == [f"second {m + n}" for m in minutes for n in range(burst)]
    assert {record.levelno for record in caplog.records} == {logging.INFO}


def test_a_warning_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    complaint = Complaint(LOG)
    for _ in range(3):
        complaint.make(0.0, "too much")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "too much")
    ]
