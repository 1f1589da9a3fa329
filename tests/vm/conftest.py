"""One machine for each module; a test that fails shows the end of its console."""

from collections.abc import Generator, Iterator

import pytest

from tests.lab.machine import Machine
from tests.lab.network import temporary_folder


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A machine that has booted, for all tests of a module; what they change stays."""
    with temporary_folder() as folder, Machine(folder) as machine:
        yield machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the machine's console to the report of a test that failed."""
    report = yield
    machine = item.funcargs.get("machine")
    if report.failed and isinstance(machine, Machine):
        report.sections.append(("The machine's console", machine.console()))
    return report
