"""What `make run` does when it is interrupted, and the shell it leaves its user in."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import demo
from tests.lab.process import Process


@pytest.fixture(autouse=True)
def _signals_restored() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_interrupted_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program ends as SIGTERM ends it, as it has not come to setting handlers yet."""

    def interrupt(show: demo.Show) -> str:
        show._own(Process("young", ["cat", "/dev/zero"], show.folder / "young.log"))
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(demo, "_steps", lambda show: [("it starts", lambda: interrupt(show))])
    assert demo.main([]) == 130
    output = capsys.readouterr()
    assert "FAILED" not in output.out
    assert output.err == "\nmake run: interrupted, everything is ended\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second signal comes while everything is being ended."""

    def end(show: demo.Show) -> str:
        show._own(Process("young", ["cat", "/dev/zero"], show.folder / "young.log"))
        show.stack.callback(os.kill, os.getpid(), number)
        os.kill(os.getpid(), number)
        raise AssertionError

    signal.signal(number, lambda *_: pytest.fail("nobody takes it"))
    monkeypatch.setattr(demo, "_steps", lambda show: [("it starts", lambda: end(show))])
    with pytest.raises(SystemExit) as ended:
        demo.main([])
    assert ended.value.code == 128 + number
    assert "FAILED" not in capsys.readouterr().out


def test_a_step_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise demo.StepError("why")

    monkeypatch.setattr(demo, "_steps", lambda show: [("one", lambda: "1"), ("two", fail)])
    assert demo.main([]) == 1
    output = capsys.readouterr()
    assert output.out.endswith("FAILED\n\n")
    assert output.err == "make run: two: why\n"


def test_a_shell_that_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/none")
    monkeypatch.setattr(demo, "_steps", lambda show: pytest.fail("told too late"))
    assert demo.main(["--stay"]) == 1
    said = "make run: there is no program /none: set SHELL to another\n"
    assert capsys.readouterr() == ("", said)


def test_the_shell_is_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C interrupts what runs in it, the prompt tells where it is, its folder is ours."""
    shell, seen = tmp_path / "shell", tmp_path / "seen"
    shell.write_text(f"#!/bin/sh\n{{ grep SigIgn /proc/$$/status; pwd; echo $PS1; }} >{seen}\n")
    shell.chmod(0o700)
    monkeypatch.setenv("SHELL", str(shell))
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        show = demo.Show(tmp_path, stack)
        show.gvproxy = SimpleNamespace(path="x")  # type: ignore[assignment]
        show.guest = SimpleNamespace(command=lambda *argv: list(argv))  # type: ignore[assignment]
        demo._stay(show, demo._shell())
    ignored, folder, prompt = seen.read_text().splitlines()
    assert not int(ignored.split()[1], 16) >> signal.SIGINT - 1 & 1
    assert (folder, prompt) == (str(tmp_path), "guest#")


@pytest.mark.root
def test_a_machine_without_tun_is_told_first(tmp_path: Path) -> None:
    """Before anything is installed: there is no Python to make a virtual environment with."""
    makefile = Path(demo.__file__).parents[1] / "Makefile"
    (tmp_path / "pyproject.toml").touch()
    hide = 'mount -t tmpfs none /dev/net && exec make -f "$0" run PYTHON=/none'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, str(makefile)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    said = "make run needs /dev/net/tun, which is not there: type (as root) modprobe tun"
    assert done.stderr.splitlines()[0] == said
    assert not (tmp_path / ".venv").exists()
