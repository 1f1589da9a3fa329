"""A network namespace that stands for a machine, with a resolv.conf and a /run of its own.

It is held by a `cat` that reads from us: when this process ends, however it ends, so does the
holder, and with the last process inside the namespace.  Run by an ordinary user it is root inside
only (user_namespaces(7)).
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.lab.process import Process

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)

# A machine's /run is its own: no name service of the host's there, and nothing of ours left behind.
# Where resolv.conf is a symbolic link, it may lead there.
_MOUNT = """\
set -e
mount -t tmpfs run /run
if ! [ -e "$1" ]; then mkdir -p "${1%/*}"; touch "$1"; fi
mount --bind "$0" "$1"
"""

Argument = str | Path


class CommandError(Exception):
    """A command inside a namespace failed; one line."""


class Namespace:
    """A network and a mount namespace; ends with `close`, or as a context manager.

    `folder` takes the log files and resolv.conf of what runs inside, and must outlive it.
    """

    def __init__(self, name: str, folder: Path, resolvers: Sequence[str] = ()) -> None:
        self.name = name
        self.folder = folder
        self.user = os.geteuid() != 0
        self._processes: list[Process] = []
        self._holder = subprocess.Popen(
            [
                "unshare",
                *(["--user", "--map-root-user"] if self.user else []),
                "--net",
                "--mount",
                "cat",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
        )
        self.pid = self._holder.pid
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        try:
            # The echo comes once unshare has become cat, and the namespaces are there.
            with contextlib.suppress(BrokenPipeError):
                self._holder.stdin.write(b"\n")
            if not self._holder.stdout.read(1):
                reason = self._holder.stderr.read().decode(errors="replace").strip()
                raise CommandError(f"no namespace for {name}: {reason}")
            self.run("ip", "link", "set", "lo", "up")
            self.set_resolvers(resolvers)
            self.run("sh", "-c", _MOUNT, self._resolv_conf, os.path.realpath("/etc/resolv.conf"))
        except BaseException:
            self.close()
            raise

    @property
    def _resolv_conf(self) -> Path:
        return self.folder / f"{self.name}.resolv.conf"

    def set_resolvers(self, resolvers: Sequence[str]) -> None:
        """Write the namespace's resolv.conf."""
        self._resolv_conf.write_text("".join(f"nameserver {address}\n" for address in resolvers))

    def set(self, name: str, value: str) -> None:
        """Write to /proc/sys; `name` is a path there that each network has its own of."""
        self.run("tee", f"/proc/sys/{name}", input=value)

    def command(self, *argv: Argument) -> list[str]:
        """Return the command that runs `argv` inside."""
        user = ["--user", "--preserve-credentials"] if self.user else []
        enter = ["nsenter", "--target", str(self.pid), *user, "--net", "--mount"]
        return [*enter, "--", *map(str, argv)]

    def run(self, *argv: Argument, timeout: float = 60.0, input: str | None = None) -> str:
        """Run a command inside to its end and return what it wrote; raises CommandError."""
        done = self.try_run(*argv, timeout=timeout, input=input)
        if done.returncode:
            lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
            what = " ".join(map(str, argv))
            raise CommandError(f"{what} in {self.name}: status {done.returncode}: {lines[-1]}")
        return done.stdout

    def try_run(
        self, *argv: Argument, timeout: float = 60.0, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end, whichever that is."""
        return subprocess.run(
            self.command(*argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, name: str, *argv: Argument, env: Mapping[str, str] | None = None) -> Process:
        """Start a program inside; it is ended with the namespace at the latest."""
        log = self.folder / f"{self.name}.{name}.log"
        process = Process(name, self.command(*argv), log, env)
        self._processes.append(process)
        return process

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Be inside with this thread; see `entered`."""
        return entered(self.pid)

    def open_socket(
        self,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        timeout: float | None = 10.0,
    ) -> socket.socket:
        """Make an IPv4 socket inside."""
        with self.entered():
            sock = socket.socket(socket.AF_INET, kind)
        sock.settimeout(timeout)
        return sock

    def listen(
        self, address: str = "127.0.0.1", port: int = 0, backlog: int = 4096
    ) -> socket.socket:
        """Make a listening TCP socket inside."""
        sock = self.open_socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(backlog)
        return sock

    def connect(self, address: str, port: int, timeout: float | None = 10.0) -> socket.socket:
        """Make a TCP connection from inside; raises what `connect` raises, the socket closed."""
        sock = self.open_socket(timeout=timeout)
        try:
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """End what still runs inside, and the namespace."""
        for process in reversed(self._processes):
            if process.running:
                process.kill()
        self._processes.clear()
        self._holder.kill()
        self._holder.wait()
        for pipe in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def link(one: Namespace, one_device: str, other: Namespace, other_device: str) -> None:
    """Lay a cable between two namespaces: a veth pair, up at both ends."""
    one.run(
        *("ip", "link", "add", one_device, "type", "veth"),
        *("peer", "name", other_device, "netns", str(other.pid)),
    )
    one.run("ip", "link", "set", one_device, "up")
    other.run("ip", "link", "set", other_device, "up")


@contextlib.contextmanager
def entered(pid: int) -> Iterator[None]:
    """Be in the network of a process with this thread: sockets and taps that are made here belong
    to it for good.

    Only its network is entered; the rest of this process stays outside.  Takes root.
    """
    before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
    try:
        inside = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        try:
            _setns(inside)
        finally:
            os.close(inside)
        try:
            yield
        finally:
            _setns(before)
    finally:
        os.close(before)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
