"""The log is the journal's where standard error is, and text elsewhere."""

import logging
import os
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from taplink.journal import log_handler

TEXT = "%(asctime)s %(levelname)s %(message)s"


class Unit:
    """Standard error as systemd has it for a unit; `written` is what went there as text."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        with path.open("w") as file:
            there = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        self._monkeypatch = monkeypatch

    def say(self, handler: Callable[[], logging.Handler], **extra: str) -> None:
        with self._path.open("w") as file, self._monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", file)
            say(handler(), **extra)

    @property
    def written(self) -> str:
        return self._path.read_text()


@pytest.fixture
def unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Unit:
    return Unit(tmp_path / "stderr", monkeypatch)


def say(handler: logging.Handler, **extra: str) -> None:
    record = logging.getLogger("x").makeRecord(
        *("x", logging.WARNING, __file__, 1, "a %s", ("word",), None), extra=extra
    )
    handler.handle(record)
    handler.flush()


def journal(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    monkeypatch.setitem(sys.modules, "systemd", module)
    monkeypatch.setitem(sys.modules, "systemd.journal", module)


def test_the_journal_gets_fields(monkeypatch: pytest.MonkeyPatch, unit: Unit) -> None:
    sent: list[tuple[str, dict[str, str], str]] = []

    class JournalHandler(logging.Handler):
        def __init__(self, **fields: str) -> None:
            super().__init__()
            self.fields = fields

        def emit(self, record: logging.LogRecord) -> None:
            sent.append((self.format(record), self.fields, record.__dict__["ADDRESS"]))

    module = ModuleType("systemd.journal")
    module.JournalHandler = JournalHandler  # type: ignore[attr-defined]
    journal(monkeypatch, module)
    unit.say(lambda: log_handler("me", TEXT, INTERFACE="tap0"), ADDRESS="192.0.2.1")
    fields = {"SYSLOG_IDENTIFIER": "me", "INTERFACE": "tap0"}
    assert sent == [("a word", fields, "192.0.2.1")]
    assert unit.written == ""


def test_the_journal_without_systemd_python(monkeypatch: pytest.MonkeyPatch, unit: Unit) -> None:
    journal(monkeypatch, None)
    unit.say(lambda: log_handler("me", TEXT))
    assert unit.written == "WARNING a word\n"


def test_a_unit_whose_standard_error_leads_elsewhere(
    monkeypatch: pytest.MonkeyPatch, unit: Unit
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    unit.say(lambda: log_handler("me", TEXT))
    assert unit.written.endswith(" WARNING a word\n")
    assert unit.written[:2] == "20"


def test_a_standard_error_that_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    output = StringIO()
    monkeypatch.setattr(sys, "stderr", output)
    say(log_handler("me", TEXT))
    assert output.getvalue().endswith(" WARNING a word\n")
