"""A program's beginning: closed standard descriptors, and signals before there is a loop."""

import os
import signal
import subprocess
import sys

import pytest

LOOK = """
import os, sys
from taplink.beginning import open_closed
open_closed()
print("told", file=sys.stderr)
report = [os.path.realpath(f"/proc/self/fd/{number}") for number in range(3)]
inherited = [os.get_inheritable(number) for number in range(3)]
os.write(int(sys.argv[1]), repr((report.count(os.devnull), inherited)).encode())
os.write(int(sys.argv[1]), repr(sorted(map(int, os.listdir("/proc/self/fd")))[:4]).encode())
"""


@pytest.mark.parametrize(
    ("closed", "count"), [("", 0), ("<&-", 1), (">&-", 1), ("2>&-", 1), ("<&- >&- 2>&-", 3)]
)
def test_they_are_opened(closed: str, count: int) -> None:
    """By /dev/null, each one by its own number, for the programs that are started as well."""
    reader, writer = os.pipe()
    command = [sys.executable, "-c", LOOK, str(writer)]
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        input=b"",
        capture_output=True,
        pass_fds=[writer],
        timeout=30,
    )
    os.close(writer)
    with open(reader) as report:
        assert report.read() == repr((count, [True] * 3)) + repr([0, 1, 2, 3])
    assert done.returncode == 0
    assert done.stdout == b"", "standard output is not what replaces standard error"
    assert done.stderr == (b"" if "2>&-" in closed else b"told\n")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_ends_it_without_a_word(number: signal.Signals, status: int) -> None:
    code = "from taplink.beginning import begin; begin(); print(1, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.communicate(timeout=30) == (b"", b"")
        assert process.returncode == status
