"""Listening sockets that systemd has opened: whoever starts gvproxy here does what systemd does."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.lab import api, dialects, frames
from tests.lab.dialects import closing
from tests.lab.network import World
from tests.lab.process import piped
from tests.lab.programs import GVPROXY

pytestmark = [pytest.mark.root, pytest.mark.system]

# sd_listen_fds(3): the descriptors from 3 on, and in the environment for whom they are.
SYSTEMD = """\
import os, sys
count, names, *command = sys.argv[1:]
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""
KINDS = {
    "gvproxy.socket": socket.SOCK_STREAM,
    "services": socket.SOCK_STREAM,
    "qemu": socket.SOCK_STREAM,
    "vpnkit": socket.SOCK_STREAM,
    "bess": socket.SOCK_SEQPACKET,
    "vfkit": socket.SOCK_DGRAM,
}


@contextlib.contextmanager
def activated(
    world: World,
    *names: str,
    kinds: dict[str, socket.SocketKind] = KINDS,
    flags: Sequence[str] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Start gvproxy with sockets at NAME.sock of the world's folder, by these names."""
    with contextlib.ExitStack() as stack:
        placed = []
        for name in names:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, kinds[name]))
            sock.bind(str(world.folder / f"{name}.sock"))
            if kinds[name] != socket.SOCK_DGRAM:
                sock.listen()
            placed.append(sock.fileno())
        shell = [f"exec {' '.join(f'{3 + n}<&{fd}' for n, fd in enumerate(placed))}", 'exec "$@"']
        gvproxy = [GVPROXY, "-ssh-port", "-1", *flags]
        command = [sys.executable, "-c", SYSTEMD, str(len(names)), ":".join(names), *gvproxy]
        argv = ["bash", "-c", "; ".join(shell), "bash", *world.host.command(*command)]
        running = contextlib.ExitStack()
        process = running.enter_context(piped(argv, placed))
    with running:
        yield process


def ready(process: subprocess.Popen[str]) -> list[str]:
    """Return what it says until it is ready, or ends."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line.strip())
        if "is ready" in line:
            break
    return said


def test_every_kind(world: World) -> None:
    # Those of different kinds have one MAC address, which none of them waits for.
    with activated(world, *KINDS, flags=["-source-checks=false"]) as process:
        said = ready(process)
        assert len([line for line in said if "listening at systemd's socket" in line]) == len(KINDS)
        assert not any("vsock" in line for line in said), "there is no other by default"
        for name, come in [("gvproxy.socket", dialects.connect), *_dialects()]:
            with closing(come(world.folder / f"{name}.sock")) as guest:
                frames.live(guest, world.host)
        assert json.loads(api.call(world.folder / "services.sock", "GET", "/leases"))
    for name in KINDS:
        assert (world.folder / f"{name}.sock").exists(), "systemd's sockets outlive us"


def _dialects() -> list[tuple[str, dialects.Come]]:
    return [(name, come) for name, (_, come) in dialects.LISTENERS.items()]


@pytest.mark.parametrize(("name", "kind"), [("bess", "qemu"), ("vfkit", "bess"), ("x", "vfkit")])
def test_a_socket_of_another_type(world: World, name: str, kind: str) -> None:
    with activated(world, name, kinds={name: KINDS[kind]}) as process:
        said = ready(process)
        assert said == [f"gvproxy: systemd's socket {name} is of another type than that name needs"]
        assert process.wait(10) == 1


def test_sockets_of_another_process_are_left_alone(world: World, tmp_path: Path) -> None:
    listen = f"unix://{tmp_path}/own.sock"
    done = subprocess.Popen(
        world.host.command(GVPROXY, "-ssh-port", "-1", "-listen", listen),
        env={"LISTEN_PID": "1", "LISTEN_FDS": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any("is ready" in line for line in ready(done))
    finally:
        done.terminate()
        done.communicate(timeout=10)
    assert done.returncode == 0
