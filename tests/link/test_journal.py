"""The log is the journal's where standard error is, and text elsewhere, which waits for nobody."""

import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import ModuleType

import pytest

from taplink.journal import LogFile, log_file, log_handler

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


def lines(handler: logging.Handler, *texts: str) -> None:
    handler.setFormatter(logging.Formatter("%(message)s"))
    for text in texts:
        handler.handle(logging.LogRecord("x", logging.INFO, __file__, 1, text, (), None))


LOSS = "lines of the log were lost, for they could not be written: {}"


def test_a_pipe_that_nobody_reads_holds_nobody_up() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as there, open(writer, "wb", buffering=0):
        handler = LogFile(writer)
        text = "x" * 9000  # more than a pipe takes at once
        lines(handler, *[text] * 20)
        got = there.read(1 << 20)
        lines(handler, "again", "and again")
        handler.close()
        os.fstat(writer)  # is still open
        got += there.read(1 << 20)
    *whole, loss, again, and_again = got.decode().splitlines()
    assert whole == [text] * len(whole)
    assert len(whole) >= 5  # pipe(7): 64 KiB, in pages
    assert [loss, again, and_again] == [LOSS.format(20 - len(whole)), "again", "and again"]


def test_a_pipe_whose_reader_has_gone() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0):
        lines(LogFile(writer), "one", "two")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file that may have 20 bytes, as on a disk with no more than that."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, before[1]))
    yield tmp_path / "log"
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(disk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handler = log_file(disk, "%(message)s")
    lines(handler, "is all there", "is cut in two", "lost", "lost too")
    assert disk.read_bytes() == b"is all there\nis cut "
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    lines(handler, "room again", "and more")
    handler.close()
    handler.close()
    expected = ["is all there", "is cut in two", LOSS.format(2), "room again", "and more"]
    assert disk.read_text().splitlines() == expected
    assert capfd.readouterr() == ("", "")


def test_what_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    handler = log_file(tmp_path / "log", "%(message)s")
    lines(handler, "\udcff \N{SNOWMAN}")
    handler.close()
    assert (tmp_path / "log").read_text() == "\\udcff \N{SNOWMAN}\n"
