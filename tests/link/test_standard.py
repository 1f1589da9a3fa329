"""Standard descriptors that were closed when a program began."""

import os
import subprocess
import sys

import pytest

LOOK = """
import os, sys
from taplink.standard import open_closed
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
