"""Each trace runs four times: with and without header prediction, and with numbers that wrap."""

import pytest

from .states import enter
from .trace import Trace


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
