"""A Debian machine with systemd: QEMU without KVM, on a disk that `debian.sh` has made.

It boots in some fifteen seconds.  Commands go in over a port of virtio's to `machine_agent.py`: no
network is needed, nor touched.  Every wait has a limit.  What is written to the disk lives as long
as QEMU does: a reboot keeps it, and the next machine does not know of it.
"""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.lab import qemu
from tests.lab.machine_agent import Answer, Request
from tests.lab.namespace import Argument
from tests.lab.process import Process
from tests.lab.wait import until

DISK = qemu.VENV / "debian" / "disk.qcow2"
"""Where `debian.sh` has put it."""
_CONSOLE = "console=ttyS0 loglevel=4 TERM=dumb"
_BOOT_TIMEOUT = 120.0
_STOP_TIMEOUT = 120.0
"""A unit that does not stop is killed after 90 s."""
_GRACE = 15.0
"""How much longer than its command the machine may take to answer."""

needs_machine = pytest.mark.skipif(
    not (DISK.exists() and shutil.which(qemu.QEMU)),
    reason="needs QEMU and a disk with Debian, which make test-vm makes",
)


class MachineError(Exception):
    """A command inside failed or took too long, or the machine has ended."""


class Machine:
    """A running machine; ends with `close`, or as a context manager.

    `folder` takes its console's log, and must outlive it; `memory` is in MiB.
    """

    def __init__(self, folder: Path, *, memory: int = 1024) -> None:
        self._log, port = folder / "machine.console", folder / "machine.commands"
        self._process = Process(
            "qemu",
            [
                *("setpriv", "--pdeathsig", "KILL"),  # it outlives nobody
                *qemu.command(memory, f"root=/dev/nvme0n1 rw {_CONSOLE}"),
                *("-drive", f"file={DISK},if=none,id=disk,snapshot=on,cache=unsafe"),
                *("-device", "nvme,drive=disk,serial=disk"),
                *("-serial", f"file:{self._log}"),
                *("-chardev", f"socket,id=commands,path={port},server=on,wait=off"),
                *("-device", "virtio-serial-pci"),
                *("-device", "virtserialport,chardev=commands,name=commands"),
            ],
            folder / "machine.qemu",
        )
        try:
            self._port = until(lambda: qemu.connected(port), "the machine's port is there")
        except BaseException:
            self._process.kill()
            raise
        self._answers = self._port.makefile("rb")
        try:
            self._wait_for_boot(_BOOT_TIMEOUT)
        except BaseException:
            self.close()
            raise

    def run(self, *argv: Argument, timeout: float = 60.0, input: str | bytes = b"") -> str:
        """Run a command as root to its end and return what it wrote; raises MachineError."""
        done = self.try_run(*argv, timeout=timeout, input=input)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "no message")[-1000:]
            raise MachineError(f"{' '.join(map(str, argv))}: status {done.returncode}: {said}")
        return done.stdout

    def try_run(
        self, *argv: Argument, timeout: float = 60.0, input: str | bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root to its end, whichever that is; raises MachineError after `timeout`.

        It is killed then, with its process group, and the machine can be used further.
        """
        what = self._ask(*argv, timeout=timeout, input=input)
        answer: Answer = self._receive(what)
        out, err = (
            base64.b64decode(text).decode(errors="replace")
            for text in (answer["stdout"], answer["stderr"])
        )
        if answer["status"] is None:
            raise self._error(f"{what}: not done in {timeout:g} s: {(err or out)[-1000:]}")
        return subprocess.CompletedProcess(argv, answer["status"], out, err)

    def write(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Write a file, and make the folders that lead to it."""
        data = content.encode() if isinstance(content, str) else content
        member = tarfile.TarInfo(path.lstrip("/"))
        member.size, member.mode = len(data), mode
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(member, io.BytesIO(data))
        self._unpack(archive.getvalue())

    def copy_in(self, source: Path, path: str, timeout: float = 60.0) -> None:
        """Copy a file, or a folder with all that is in it, to a path; root owns it there."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(source, path.lstrip("/"), filter=_owned_by_root)
        self._unpack(archive.getvalue(), timeout)

    def _unpack(self, archive: bytes, timeout: float = 60.0) -> None:
        keep = ("--no-overwrite-dir", "--keep-directory-symlink")  # /lib leads to /usr/lib
        self.run("tar", "-xm", *keep, "-C", "/", timeout=timeout, input=archive)

    def journal(self, unit: str | None = None) -> list[Mapping[str, Any]]:
        """Return the journal of this boot, or a unit's part of it (systemd.journal-fields(7))."""
        self.run("journalctl", "--sync")  # what was logged by now is in it
        chosen = () if unit is None else ("--unit", unit)
        said = self.run("journalctl", "--boot", "--output=json", "--no-pager", *chosen)
        return [json.loads(line) for line in said.splitlines()]

    def wait_for(self, text: str, unit: str, timeout: float = 60.0) -> str:
        """Wait until a unit has logged a line with `text` in it in this boot, and return that."""
        follow = 'journalctl --boot --follow --lines=all --output=cat --unit="$1"'
        script = f'{follow} | grep --max-count=1 --fixed-strings -e "$0"'
        return self.run("sh", "-c", script, text, unit, timeout=timeout).rstrip("\n")

    def reboot(self) -> None:
        """Shut it down as a user would, and wait until it is up again."""
        self._ask("systemctl", "reboot", "--no-block")
        self._wait_for_boot(_STOP_TIMEOUT + _BOOT_TIMEOUT)

    def power_off(self) -> None:
        """Shut it down as a user would; QEMU ends then."""
        self._ask("systemctl", "poweroff", "--no-block")
        try:
            status = self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise self._error(f"not powered off in {_STOP_TIMEOUT:g} s") from None
        if status:
            raise MachineError(f"QEMU ended with status {status}: {self._process.last_line()}")

    def console(self) -> str:
        """Return the end of what it has said on its console, or QEMU of why it has none."""
        said = self._log.read_text(errors="replace") if self._log.exists() else ""
        lines = [line for line in said.splitlines() if line.strip()]
        return "\n".join(lines[-30:]) or self._process.last_line()

    def close(self) -> None:
        """Pull the plug."""
        self._answers.close()
        self._port.close()
        self._process.kill()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait_for_boot(self, timeout: float) -> None:
        """Wait until all units that are wanted at boot are up, or have failed."""
        self._port.settimeout(timeout)
        # What asks for a reboot may get its answer, or be stopped before.
        while (boot := self._receive("it boots").get("boot")) is None:
            pass
        self.boot: str = boot
        self.try_run("systemctl", "is-system-running", "--wait", timeout=_BOOT_TIMEOUT)

    def _ask(self, *argv: Argument, timeout: float = 60.0, input: str | bytes = b"") -> str:
        """Send a request, and return what to call it; its answer is waited for so long at most."""
        data = input.encode() if isinstance(input, str) else input
        words = [str(argument) for argument in argv]
        request = Request(argv=words, input=base64.b64encode(data).decode(), timeout=timeout)
        what = " ".join(words)
        with self._unplugged_if_stuck(what):
            self._port.settimeout(timeout + _GRACE)
            self._port.sendall(json.dumps(request).encode() + b"\n")
        return what

    def _receive(self, what: str) -> Any:
        """Return the next line that the agent says."""
        with self._unplugged_if_stuck(what):
            line = self._answers.readline()
            if not line:
                raise EOFError("the machine has ended")
        return json.loads(line)

    @contextlib.contextmanager
    def _unplugged_if_stuck(self, what: str) -> Iterator[None]:
        """Raise MachineError where the machine does not answer; it is of no further use."""
        try:
            yield
        except (OSError, EOFError) as error:
            self.close()
            raise self._error(f"{what}: {error}") from None

    def _error(self, reason: str) -> MachineError:
        return MachineError(f"{reason}\nThe machine's console ends with:\n{self.console()}")


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
