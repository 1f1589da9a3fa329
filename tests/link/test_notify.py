"""systemd is told, where it asks and where systemd-python is there; otherwise nothing happens."""

import logging
import sys
from types import ModuleType

import pytest

from taplink.notify import notifier


def test_outside_systemd(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier()("READY=1")
    assert caplog.records == []


def test_without_systemd_python_it_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setitem(sys.modules, "systemd", None)
    monkeypatch.setitem(sys.modules, "systemd.daemon", None)
    notify = notifier()
    notify("READY=1")
    notify("STOPPING=1")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("fails", [False, True])
def test_with_systemd_python(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    told = []

    def notify(state: str) -> None:
        told.append(state)
        if fails:
            raise OSError("no socket")

    daemon = ModuleType("systemd.daemon")
    daemon.notify = notify  # type: ignore[attr-defined]
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setitem(sys.modules, "systemd", ModuleType("systemd"))
    monkeypatch.setitem(sys.modules, "systemd.daemon", daemon)
    notifier()("READY=1")
    assert told == ["READY=1"]
