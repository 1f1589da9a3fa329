"""What the daemon asks of its process."""

import os
import resource
from pathlib import Path

import pytest

from gvproxy import process
from gvproxy.errors import StartError
from gvproxy.process import descriptor_limit, pid_file, raise_descriptor_limit, resident_bytes


def test_the_pid_file_is_there_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pid_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_the_pid_file_goes_after_an_error_too(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pytest.raises(ZeroDivisionError), pid_file(path):
        raise ZeroDivisionError
    assert not path.exists()


def test_somebody_may_remove_it_first(tmp_path: Path) -> None:
    with pid_file(tmp_path / "pid"):
        (tmp_path / "pid").unlink()


def test_a_pid_file_that_is_another_s_by_now_stays(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with pid_file(path):
        path.write_text("1\n")
    assert path.read_text() == "1\n"


def test_none_is_none() -> None:
    with pid_file(None):
        pass


def test_a_pid_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "pid"
    with (
        pytest.raises(StartError, match=f"-pid-file {path} cannot be written: No such"),
        pid_file(path),
    ):
        pass


def test_resident_memory_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 1 << 20 < resident_bytes() < 1 << 40
    for text in ("", "1", "a b"):
        (tmp_path / "statm").write_text(text)
        monkeypatch.setattr(process, "_STATM", tmp_path / "statm")
        assert resident_bytes() == 0
    monkeypatch.setattr(process, "_STATM", tmp_path / "missing")
    assert resident_bytes() == 0


def test_the_descriptor_limit_goes_up_to_the_hard_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_descriptor_limit_is_the_soft_one() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
        assert descriptor_limit() == 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
