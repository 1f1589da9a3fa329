"""Names that the host's resolver does not answer, and keys that are not there to be read."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import api
from tests.lab.api import ApiError
from tests.lab.network import World
from tests.lab.programs import DEVICE, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

EXPOSE = "/services/forwarder/expose"


class Caller(threading.Thread):
    """Publishes something, and keeps the answer."""

    def __init__(self, gvproxy: Gvproxy, **body: str) -> None:
        super().__init__()
        self._gvproxy, self._body = gvproxy, body
        self.answer = ""
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._gvproxy.post(EXPOSE, self._body) or "done"
        except (ApiError, OSError, EOFError) as error:
            self.answer = str(error) or type(error).__name__


@pytest.fixture
def silent(world: World) -> Iterator[socket.socket]:
    """A name server of the host's that says nothing; what it was asked is in its queue."""
    with world.host.open_socket(socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 53))
        world.host.set_resolvers(["127.0.0.1"])
        yield sock


def test_names_that_hang_keep_nobody_waiting(world: World, silent: socket.socket) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    callers = [
        Caller(gvproxy, local=f"127.0.0.1:{9200 + n}", remote=f"slow{n}.example.com:80")
        for n in range(8)
    ]
    for _ in callers:
        silent.recv(1000)
    fifo = world.folder / "key"
    os.mkfifo(fifo)
    callers.append(
        Caller(
            gvproxy,
            local=str(world.folder / "s"),
            remote=f"ssh-tunnel://root@{DEVICE}/x?key={fifo}",
            protocol="unix",
        )
    )
    gvproxy.expose("127.0.0.1:9300", f"{DEVICE}:80")
    assert [one["local"] for one in gvproxy.get("/services/forwarder/all")] == ["127.0.0.1:9300"]
    gvproxy.process.stop()  # which it has to do in time
    for caller in callers:
        caller.join(10)
    assert not any("done" in caller.answer for caller in callers)
    assert not (world.folder / "s").exists()


def test_who_hangs_up_has_nothing_published(world: World, silent: socket.socket) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(gvproxy.path))
            body = b'{"local": "127.0.0.1:9200", "remote": "late.example.com:80"}'
            head = f"POST {EXPOSE} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.send(head.encode() + body)
            query, peer = silent.recvfrom(1000)
        asked = api.get(gvproxy.path, "/services/forwarder/all")
        assert asked == []
        answer = (
            query[:2] + b"\x81\x80" + query[4:6] + b"\0\1\0\0\0\0" + query[12:]
            + b"\xc0\x0c\0\1\0\1\0\0\0\x10\0\4" + socket.inet_aton(DEVICE)
        )  # fmt: skip
        silent.sendto(answer, peer)
        # Whoever asks next is answered after the thread that had asked first.
        caller = Caller(gvproxy, local="127.0.0.1:9201", remote="late.example.com:80")
        query, peer = silent.recvfrom(1000)
        silent.sendto(query[:2] + answer[2:], peer)
        caller.join(10)
        assert caller.answer == "done"

        def published() -> None:
            if len(gvproxy.get("/services/forwarder/all")) != 1:
                raise NotYetError("not one")

        until(published, "only the second is published")
    finally:
        gvproxy.process.stop()
    assert "Traceback" not in Path(gvproxy.process.log).read_text()
