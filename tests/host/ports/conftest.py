"""What the tests of the ports share."""

import pytest
import uvloop


@pytest.fixture(scope="session", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipe it keeps for good."""
    uvloop.new_event_loop().close()
