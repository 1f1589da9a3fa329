"""Each trace runs four times: with and without header prediction, and with numbers that wrap."""

from math import inf

import pytest

from gvproxy.tcp import congestion, rtt

from .states import enter
from .trace import Trace


@pytest.fixture(autouse=True)
def _probes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the tail's probe out of the traces that are about something else."""
    if request.node.get_closest_marker("probes") is None:
        monkeypatch.setattr(rtt, "MIN_PTO", inf)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let losses take the window down as far as RFC 9438 does, from the initial one on."""
    monkeypatch.setattr(congestion, "LEAST_WINDOW", 0)


@pytest.fixture(params=["general", "predicted"])
def predicting(request: pytest.FixtureRequest) -> bool:
    return request.param == "predicted"


@pytest.fixture(params=[(1000, 2000), (2**32 - 700, 2**32 - 1)], ids=["", "wrapping"])
def trace(request: pytest.FixtureRequest, predicting: bool) -> Trace:
    iss, irs = request.param
    return Trace(iss=iss, irs=irs, predicting=predicting)


@pytest.fixture
def established(trace: Trace) -> Trace:
    """A connection that the guest opened, with all options."""
    return enter(trace, "ESTABLISHED")


@pytest.fixture
def without_sack(trace: Trace) -> Trace:
    """The same with a guest that does not know SACK."""
    return enter(trace, "ESTABLISHED", "mss 1460 ws 7 ts")
