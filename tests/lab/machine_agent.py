"""What runs commands inside a machine of `machine.py`: one at a time, as root.

It is asked over a port of virtio's: a line of JSON is a request or an answer, and what goes into a
command and comes out of it is in base64 there.  It runs alone inside, from the standard library.
"""

import base64
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, TypedDict


class Request(TypedDict):
    """A command, and after how many seconds it is ended."""

    argv: list[str]
    input: str
    timeout: float


class Answer(TypedDict):
    """What became of it; a status of None is one that was ended."""

    status: int | None
    stdout: str
    stderr: str


class Greeting(TypedDict):
    """What is said once, when the machine has booted: which boot this is."""

    boot: str


def main() -> None:
    """Answer until the machine stops."""
    with open(sys.argv[1], "r+b", buffering=0) as port:
        requests, answers = io.BufferedReader(port), io.BufferedWriter(port)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        _say(answers, Greeting(boot=boot))  # blocks until somebody is there
        for line in requests:
            _say(answers, _run(json.loads(line)))


def _say(answers: BinaryIO, what: Answer | Greeting) -> None:
    answers.write(json.dumps(what).encode() + b"\n")
    answers.flush()


def _run(request: Request) -> Answer:
    # Files: a pipe would end only with the last process that a command leaves behind.
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(base64.b64decode(request["input"]))
        given.seek(0)
        try:
            process = subprocess.Popen(
                request["argv"], stdin=given, stdout=out, stderr=err, start_new_session=True
            )
        except OSError as error:
            return Answer(status=127, stdout="", stderr=_text(f"{error}\n".encode()))
        status: int | None
        try:
            status = process.wait(request["timeout"])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        return Answer(status=status, stdout=_content(out), stderr=_content(err))


def _content(file: BinaryIO) -> str:
    file.seek(0)
    return _text(file.read())


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    main()
