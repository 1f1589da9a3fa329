"""Descriptors have run out in an agent, and in a daemon with guests that need some to come."""

import shutil
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.lab import dialects, frames
from tests.lab.dialects import closing
from tests.lab.limits import no_descriptors
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, Agent, Gvproxy
from tests.lab.sshd import USER, Sshd
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

WANT = "Too many open files"


def reached(guest: Namespace) -> None:
    def ping() -> None:
        if guest.try_run("ping", "-c", "1", "-W", "1", GATEWAY).returncode:
            raise NotYetError("the gateway does not answer")

    until(ping, "the gateway answers", 30)
    assert guest.run("dig", "+short", "gateway.containers.internal") == f"{GATEWAY}\n"


@contextmanager
def lived(world: World) -> Iterator[tuple[Namespace, Agent, Gvproxy]]:
    """Have an agent that ends well, without a traceback, and whose daemon the test has ended."""
    first = Gvproxy(world.folder, world.host)
    try:
        with make_guest(world, first) as (guest, agent):
            yield guest, agent, first
        assert "Traceback" not in agent.process.log.read_text()
    finally:
        first.process.stop()


def test_an_agent_that_cannot_connect(world: World) -> None:
    with lived(world) as (guest, agent, first):
        first.process.stop()
        agent.process.wait_for("no link to")
        with no_descriptors(agent.process.pid):
            agent.process.wait_for(WANT)
            second = Gvproxy(world.folder, world.host)
        try:
            reached(guest)
            assert agent.process.log.read_text().count(WANT) == 1
        finally:
            second.process.stop()


def test_an_agent_that_cannot_set_its_address(world: World) -> None:
    """It has the descriptor of the link that has ended, and no more."""
    with lived(world) as (guest, agent, first):
        descriptors = agent.process.descriptors()
        with no_descriptors(agent.process.pid):
            first.process.stop()
            second = Gvproxy(world.folder, world.host)
            try:
                said = agent.process.wait_for(f"only partly in effect: tap0: {WANT}")
                assert "lease 192.168.127.2/24" in said
                reached(guest)
            except BaseException:
                second.process.stop()
                raise
        try:
            reached(guest)
            assert agent.process.log.read_text().count(WANT) == 1
            assert agent.process.descriptors() <= descriptors
        finally:
            second.process.stop()


def test_an_agent_that_cannot_set_its_first_address(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    path = gvproxy.path
    gvproxy.process.stop()
    with Namespace("guest", world.folder) as guest:
        agent = Agent(guest, f"unix://{path}")
        agent.process.wait_for("no link to")
        with no_descriptors(agent.process.pid, spare=1):
            gvproxy = Gvproxy(world.folder, world.host)
            try:
                said = agent.process.wait_for("cannot be used")
                assert f"tap0: {WANT}; asking again every 10 s" in said
            except BaseException:
                gvproxy.process.stop()
                raise
        try:
            agent.wait(20)
            reached(guest)
            agent.process.stop()
            assert "Traceback" not in agent.process.log.read_text()
        finally:
            gvproxy.process.stop()


def test_a_guest_of_vpnkit_waits(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host, *dialects.flags(world.folder, "vpnkit"))
    try:
        gvproxy.process.wait_for("is ready")
        with ThreadPoolExecutor() as threads:
            with no_descriptors(gvproxy.process.pid):
                coming = threads.submit(dialects.come, world.folder, "vpnkit")
                gvproxy.process.wait_for(f"vpnkit.sock: {WANT}")
                assert not coming.done()
            with closing(coming.result(timeout=10)) as guest:
                frames.live(guest, world.host)
        assert gvproxy.process.log.read_text().count(f"vpnkit.sock: {WANT}") == 1
    finally:
        gvproxy.process.stop()


@pytest.mark.skipif(not shutil.which("sshd"), reason="needs sshd")
def test_clients_of_a_socket_behind_ssh_wait(world: World, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path)
    path, service = tmp_path / "host.sock", tmp_path / "service.sock"
    remote = f"ssh-tunnel://{USER}@{DEVICE}:22{quote(str(service))}?key={quote(str(sshd.key))}"
    gvproxy = Gvproxy(world.folder, world.host, "-allow-path", str(tmp_path))
    try:
        with (
            make_guest(world, gvproxy) as (guest, _),
            sshd.run(guest),
            socket.socket(socket.AF_UNIX) as listener,
            socket.socket(socket.AF_UNIX) as waits,
        ):
            listener.bind(str(service))
            listener.listen()
            body = {"local": str(path), "remote": remote, "protocol": "unix"}
            gvproxy.post("/services/forwarder/expose", body)
            gvproxy.process.wait_for("is ready")
            with no_descriptors(gvproxy.process.pid):
                waits.connect(str(path))
                waits.sendall(b"in the kernel's queue")
                gvproxy.process.wait_for(f"host.sock: {WANT}")
            listener.settimeout(20)
            with listener.accept()[0] as server:
                server.settimeout(10)
                assert server.recv(100) == b"in the kernel's queue"
                server.sendall(b"through")
                waits.settimeout(10)
                assert waits.recv(100) == b"through"
        assert gvproxy.process.log.read_text().count(f"{path}: {WANT}") == 1
        assert "Traceback" not in gvproxy.process.log.read_text()
    finally:
        gvproxy.process.stop()
