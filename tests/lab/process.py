"""A program that runs in the background: its log, its end, and what it costs."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.lab.wait import NotYetError, until

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessError(Exception):
    """A program ended when it should not have, or not as it should have; one line."""


class Process:
    """One program in the background, with standard output and error in `log`.

    A process group of its own keeps the terminal's Ctrl-C away from it: it ends when we end it.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        log: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._begins = output.tell()  # behind what another of this name has logged
            self._popen = subprocess.Popen(
                [str(argument) for argument in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if env is None else {**os.environ, **env},
                process_group=0,
            )
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def check(self) -> None:
        """Raise ProcessError if the program has ended."""
        status = self._popen.poll()
        if status is not None:
            raise ProcessError(f"{self.name} ended with status {status}: {self.last_line()}")

    def stop(self, *, status: int | None = 0, timeout: float = 5.0) -> None:
        """End it by SIGTERM; raises ProcessError unless it ends in time, and with `status`.

        A `status` of None takes any.  Stopping a program that was stopped before does nothing.
        """
        if self._popen.returncode is not None:
            return
        self._popen.send_signal(signal.SIGTERM)
        try:
            got = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProcessError(f"{self.name} did not end in {timeout:g} s of SIGTERM") from None
        if status is not None and got != status:
            raise ProcessError(f"{self.name} ended with status {got}: {self.last_line()}")

    def kill(self) -> None:
        """End it by SIGKILL, with the processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Stop it by SIGSTOP meanwhile, as a busy host does; by the first line it has stopped."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Wait for its own end and return the status."""
        return self._popen.wait(timeout)

    def last_line(self) -> str:
        """Return the last line of its log that is not empty."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it logged nothing"

    def wait_for(self, text: str, timeout: float = 10.0) -> str:
        """Wait until its log has a line with `text` in it, and return the first such line."""
        return until(lambda: self._logged(text), f"{self.name} says {text!r}", timeout)

    def _logged(self, text: str) -> str:
        logged = self.log.read_bytes()[self._begins :].decode(errors="replace")
        for line in logged.splitlines():
            if text in line:
                return line
        self.check()
        raise NotYetError(f"its last line is: {self.last_line()}")

    def cpu(self) -> float:
        """Return the seconds of CPU used so far, user and system."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK

    def resident(self) -> int:
        """Return the resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE

    def descriptors(self) -> int:
        """Return how many descriptors it has."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@contextlib.contextmanager
def piped(
    argv: Sequence[str | Path], descriptors: Sequence[int]
) -> Iterator[subprocess.Popen[str]]:
    """Run a program meanwhile, with more descriptors, and standard error at a pipe's end."""
    process = subprocess.Popen(argv, pass_fds=descriptors, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def tail(log: Path, lines: int = 20) -> str:
    """Return the end of a log file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
