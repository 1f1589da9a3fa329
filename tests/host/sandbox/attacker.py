"""A process that confines itself and then tries what a bug may have it try.

attacker.py OUTSIDE OPEN [ATTEMPT...]: OUTSIDE is a file that no rule has, OPEN a folder of
-allow-path.  Without names all is attempted, unless that may succeed.  Prints, in JSON, the name of
the error that each attempt ends with, or "done".  WITHOUT, in the environment, names libraries that
shall be missing.
"""

import ctypes
import errno
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from gvproxy import sandbox
from gvproxy.config import configure
from gvproxy.sandbox.files import Use

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH, _CLONE_NEWUSER, _SIGCHLD = 16, 0x10000000, 17


def libc(name: str, *arguments: object) -> None:
    """Call a function of libc's; raises OSError."""
    if getattr(_libc, name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write(path: Path) -> None:
    path.write_text("mine")


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    path.unlink()


def spawn() -> None:
    os.posix_spawn("/bin/true", ["true"], {})


def in_thread(attempt: Callable[[], object]) -> None:
    """Attempt something in a thread; raises what it raises."""
    caught: list[OSError] = []

    def run() -> None:
        try:
            attempt()
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if caught:
        raise caught[0]


def attempts(outside: Path, opened: Path) -> dict[str, Callable[[], object]]:
    """Return what is tried, by name."""
    new = outside.with_name("new")
    return {
        # What has to work
        "read of the system": lambda: Path("/etc/passwd").read_text(),
        "read of its memory's size": lambda: Path("/proc/self/statm").read_text(),
        "module": lambda: __import__("xml.dom.minidom"),
        "module, compiled": lambda: __import__("_bz2"),
        "name": lambda: socket.getaddrinfo("localhost", 80),
        "name in thread": lambda: in_thread(lambda: socket.getaddrinfo("localhost", 80)),
        "tcp": lambda: socket.create_server(("127.0.0.1", 0)).close(),
        "udp": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "socket, allowed": lambda: bind(opened / "sock"),
        "read, allowed": lambda: (opened / "key").read_text(),
        "socket in /tmp": lambda: bind(Path(f"/tmp/attacker-{os.getpid()}")),
        "null": lambda: Path(os.devnull).write_text("x"),
        # What must not
        "read": lambda: outside.read_text(),
        "read in thread": lambda: in_thread(outside.read_text),
        "read of another's memory": lambda: Path(f"/proc/{os.getppid()}/environ").read_text(),
        "write": lambda: write(new),
        "write, allowed": lambda: write(opened / "new"),
        "write to system": lambda: write(Path("/etc/gvproxy-attacker")),
        "truncate": lambda: os.truncate(outside, 0),
        "unlink": outside.unlink,
        "socket": lambda: bind(outside.with_name("sock")),
        "link": lambda: os.link(outside, opened / "link"),
        "symlink": lambda: os.symlink(outside, opened / "link"),
        "mode": lambda: outside.chmod(0o777),
        "owner": lambda: os.chown(outside, 1, 1),
        "execve": lambda: os.execv("/bin/true", ["true"]),
        "fork": os.fork,
        "spawn": spawn,
        "setuid": lambda: os.setuid(65534),
        "ptrace": lambda: libc("ptrace", _PTRACE_ATTACH, os.getppid(), 0, 0),
        "other's memory": lambda: libc("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
        "mount": lambda: libc("mount", b"none", b"/tmp", b"tmpfs", 0, 0),
        "user namespace": lambda: libc("unshare", _CLONE_NEWUSER),
        "personality": lambda: libc("personality", 0x0040000),
        "keyctl": lambda: libc("syscall", {"x86_64": 250}.get(os.uname().machine, 219), 0, 0),
        "bpf": lambda: libc("syscall", {"x86_64": 321}.get(os.uname().machine, 280), 0, 0, 0),
        "io_uring": lambda: libc("syscall", 425, 1, 0),
        "chroot": lambda: os.chroot("/tmp"),
        "signal": lambda: os.kill(os.getppid(), signal.SIGWINCH),
        "limits of another": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "kernel's crypto": lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
        "dumpable": lambda: libc("prctl", 4, 1, 0, 0, 0),
    }


def status() -> dict[str, str]:
    """Return what the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def main(outside: Path, opened: Path, *names: str) -> None:
    """Confine this process, and attack."""
    for name in os.environ.get("WITHOUT", "").split():
        sys.modules[name] = None  # type: ignore[assignment]
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    config = configure(listen=["tcp://127.0.0.1:1"], allow_paths=[str(opened)])
    sandbox.prepare(drop=True)
    explain = sandbox.confine(config)
    assert names or status()["Seccomp"] == "2", "mounts and the like are for those who cannot"
    results = {}
    known = attempts(outside, opened)
    for name in names or known:
        try:
            known[name]()
            results[name] = "done"
        except OSError as error:
            results[name] = errno.errorcode[error.errno or 0]
    results["why"] = explain(str(outside), Use.READ)
    results["core"] = str(resource.getrlimit(resource.RLIMIT_CORE))
    print(json.dumps({"results": results, "status": status()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
