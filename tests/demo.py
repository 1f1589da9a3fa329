"""What `make run` shows: a guest on the network, seen from inside.

The guest is a network namespace; everything else is as in a virtual machine: the agent makes the
tap and gets its lease, and all traffic goes through it and the host's daemon.  Each step is a
function that returns the figure to print, or raises.
"""

import argparse
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.lab import web
from tests.lab.namespace import Namespace
from tests.lab.network import temporary_folder
from tests.lab.process import Process, tail
from tests.lab.programs import DEVICE, GATEWAY, HOST, Agent, Gvproxy

SIZE = 256 << 20
_NO_SETTINGS = {"bash": ["--norc"], "zsh": ["--no-rcs"]}
"""How shells leave out the files in which their users set another prompt."""
PAGE = b"Greetings from the guest.\n"
GUEST_PORT = 8080


class StepError(Exception):
    """A step did not do what it should; one line."""


@dataclass
class Show:
    """What has been started so far."""

    folder: Path
    stack: ExitStack
    interrupted: bool = False
    """Then programs are ended that have hardly begun, and their status says nothing."""

    def start_host(self) -> str:
        """Start the daemon as an ordinary program of this machine, and a web server beside it."""
        begin = time.monotonic()
        self.gvproxy = Gvproxy(self.folder)
        self._own(self.gvproxy.process)
        figure = f"{(time.monotonic() - begin) * 1000:.0f} ms"
        self.files = self.folder / "files"
        self.files.mkdir()
        self.digest = _make_file(self.files / "download", SIZE)
        server = Process("web", web.command(self.files, "127.0.0.1"), self.folder / "web.log")
        self._own(server, status=-signal.SIGTERM)
        self.web_port = server.wait_for("port ").split()[1]
        return figure

    def start_guest(self) -> str:
        """Start the guest with the agent in it, and wait for its lease."""
        begin = time.monotonic()
        self.guest = self.stack.enter_context(Namespace("guest", self.folder))
        agent = Agent(self.guest, self.gvproxy.url)
        self._own(agent.process)
        settings = agent.wait()
        took = (time.monotonic() - begin) * 1000
        return f"{settings.address}, resolver {settings.resolvers[0]}, in {took:.0f} ms"

    def ping_gateway(self) -> str:
        """Ping the gateway."""
        output = self.guest.run("ping", "-n", "-c", "10", "-i", "0.01", "-w", "10", GATEWAY)
        times = [float(part.split()[0]) for part in output.split("time=")[1:]]
        return f"{median(times):.2f} ms"

    def look_up(self) -> str:
        """Ask the resolver that DHCP named, as any program does, for a name of the network."""
        answer = self.guest.run("getent", "ahostsv4", "host.containers.internal").split()
        if answer[:1] != [HOST]:
            raise StepError(f"host.containers.internal is {answer[:1]}, not {HOST}")
        return HOST

    def download(self) -> str:
        """Fetch a file from the host's loopback."""
        file = self.folder / "downloaded"
        url = f"http://{HOST}:{self.web_port}/download"
        speed = self._curl("--output", str(file), "--write-out", "%{speed_download}", url)
        self._compare(file)
        return _figure(speed)

    def upload(self) -> str:
        """Send the file to a server on the host's loopback."""
        url = f"http://{HOST}:{self.web_port}/upload"
        source = str(self.files / "download")
        speed = self._curl("--upload-file", source, "--write-out", "%{speed_upload}", url)
        self._compare(self.files / "upload")
        return _figure(speed)

    def publish(self) -> str:
        """Reach a web server in the guest through a port that the daemon publishes."""
        pages = self.folder / "pages"
        pages.mkdir()
        (pages / "index.html").write_bytes(PAGE)
        server = self.guest.start("guest-web", *web.command(pages, "0.0.0.0", GUEST_PORT))
        self._own(server, status=-signal.SIGTERM)
        server.wait_for("port ")
        port = _free_port()
        self.gvproxy.expose(f"127.0.0.1:{port}", f"{DEVICE}:{GUEST_PORT}")
        url = f"http://127.0.0.1:{port}/index.html"
        done = subprocess.run(
            ["curl", "--silent", "--show-error", "--max-time", "10", "--noproxy", "*", url],
            capture_output=True,
            check=False,
        )
        if done.stdout != PAGE:
            raise StepError(f"{url}: {done.stderr.decode().strip() or 'not the page of the guest'}")
        return url

    def _curl(self, *arguments: str) -> float:
        """Run curl in the guest and return the bytes per second it says."""
        options = ["--silent", "--show-error", "--fail", "--max-time", "60", "--noproxy", "*"]
        return float(self.guest.run("curl", *options, *arguments, timeout=90))

    def _compare(self, file: Path) -> None:
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != self.digest:
                raise StepError("what arrived is not what was sent: the checksums differ")
        file.unlink()

    def _own(self, process: Process, status: int = 0) -> None:
        def stop() -> None:
            process.stop(status=None if self.interrupted else status)

        self.stack.callback(stop)


def _make_file(path: Path, size: int) -> str:
    """Write random bytes and return their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size >> 20):
            block = os.urandom(1 << 20)
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _memory() -> Path | None:
    """Return where files are kept in memory, if there is room: a disk is slower than the link."""
    folder = Path("/dev/shm")
    roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 4 * SIZE
    return folder if roomy else None


def _figure(speed: float) -> str:
    return f"{speed * 8 / 1e9:.2f} Gbit/s, SHA-256 equal"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _steps(show: Show) -> list[tuple[str, Callable[[], str]]]:
    size = f"{SIZE >> 20} MiB"
    return [
        ("gvproxy listens", show.start_host),
        ("the guest has its lease", show.start_guest),
        (f"ping of the gateway, {GATEWAY}", show.ping_gateway),
        ("look-up of host.containers.internal", show.look_up),
        (f"download of {size} from {HOST}", show.download),
        (f"upload of {size} to {HOST}", show.upload),
        ("the guest's page on a published port", show.publish),
    ]


def _shell() -> list[str]:
    """Return the user's shell, as a command that takes its prompt from the environment."""
    shell = os.environ.get("SHELL") or "/bin/sh"
    if shutil.which(shell) is None:
        raise StepError(f"there is no program {shell}: set SHELL to another")
    return [shell, *_NO_SETTINGS.get(Path(shell).name, [])]


def _stay(show: Show, shell: list[str]) -> None:
    print(f"\nA shell in the guest; the host's daemon is at {show.gvproxy.path}. exit ends it all.")
    # Ctrl-C is the shell's: a handler, unlike SIG_IGN, is not passed on to it.
    signal.signal(signal.SIGINT, lambda *_: None)
    here = ["env", f"--chdir={os.getcwd()}", "PS1=guest# "]  # nsenter leads to /
    subprocess.run(show.guest.command(*here, *shell), check=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; 0 only if all of them, and the end of every program, went well."""
    parser = argparse.ArgumentParser(prog="make run", description="A guest on the network.")
    parser.add_argument("--stay", action="store_true", help="stay up, with a shell in the guest")
    options = parser.parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup's
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return _show(_shell() if options.stay else None)
    except StepError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake run: interrupted, everything is ended", file=sys.stderr)
        return 128 + signal.SIGINT


def _show(shell: list[str] | None) -> int:
    step = "setting up"
    with temporary_folder(_memory()) as folder:
        try:
            with ExitStack() as stack:
                show = Show(folder, stack)
                print("A guest in a namespace of its own, on a unix socket:\n")
                try:
                    for step, action in _steps(show):
                        print(f"  {step:<40} ", end="", flush=True)
                        print(f"ok   {action()}", flush=True)
                    if shell is not None:
                        _stay(show, shell)
                except (KeyboardInterrupt, SystemExit):
                    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                        signal.signal(number, signal.SIG_IGN)  # what was started has to end
                    show.interrupted = True
                    raise
                step = "ending it all"
        except Exception as error:
            print("FAILED\n", flush=True)
            print(f"make run: {step}: {error}", file=sys.stderr)
            for log in sorted(folder.glob("*.log")):
                print(f"\nThe end of {log.name}:\n{tail(log)}", file=sys.stderr)
            return 1
    print("\nAll of it worked, and everything that was started has ended.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
