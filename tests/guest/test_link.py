"""Connecting and negotiating against a scripted host, and the delays between attempts."""

import asyncio
import random
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from taplink.endpoint import parse
from taplink.framing import HYPERKIT, TAPLINK, LinkError
from taplink.program import programs_ended
from taplink.upgrade import Agreed, UpgradeError, switching_protocols
from taplink.vnet import Offload
from vsock_tap.link import FIRST_DELAY, LAST_DELAY, LASTING, Backoff, Link, open_link

TSO = Offload.CSUM | Offload.TSO4 | Offload.TSO6


@pytest.fixture(params=["asyncio", "uvloop"])
def open_to(request: pytest.FixtureRequest, tmp_path: Path) -> "Open":
    """Open a link to a host that does as it is told with the accepted socket."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def open_and_close(script: Callable[[socket.socket], None]) -> Agreed:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            done = threading.Event()

            def host() -> None:
                sock, _ = listener.accept()
                with sock:
                    script(sock)
                    done.wait(10)

            thread = threading.Thread(target=host)
            thread.start()
            try:
                with asyncio.Runner(loop_factory=factory) as runner:
                    link: Link = runner.run(open_link(parse(f"unix://{path}"), TSO, silence=0.2))
                assert not link.sock.getblocking()
                link.sock.close()
                return link.agreed
            finally:
                done.set()
                thread.join()
                path.unlink()

    return open_and_close


Open = Callable[[Callable[[socket.socket], None]], Agreed]


def test_upgrade(open_to: Open) -> None:
    def script(sock: socket.socket) -> None:
        assert b"Taplink-Offload: csum,tso4,tso6\r\n" in sock.recv(65536)
        sock.sendall(switching_protocols(Offload.CSUM) + b"frames")

    assert open_to(script) == Agreed(TAPLINK, Offload.CSUM, b"frames")


def test_a_silent_host(open_to: Open) -> None:
    assert open_to(lambda sock: None) == Agreed(HYPERKIT, Offload.NONE, b"")


def test_a_host_whose_frames_come_first(open_to: Open) -> None:
    frames = b"\x03\x00abc"
    assert open_to(lambda sock: sock.sendall(frames)) == Agreed(HYPERKIT, Offload.NONE, frames)


def test_a_host_that_refuses(open_to: Open) -> None:
    with pytest.raises(UpgradeError, match="404 Not Found"):
        open_to(lambda sock: sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))


def test_a_host_that_stops_in_its_answer(open_to: Open) -> None:
    with pytest.raises(UpgradeError):
        open_to(lambda sock: sock.sendall(b"HTTP/1.1 101 Swi"))


def test_a_host_that_closes(open_to: Open) -> None:
    def script(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.shutdown(socket.SHUT_RDWR)

    with pytest.raises(LinkError, match="closed"):
        open_to(script)


def test_a_host_that_says_what_is_no_frame(open_to: Open) -> None:
    with pytest.raises(UpgradeError, match=r"refuses the link: 'SSH-2.0-x'"):
        open_to(lambda sock: sock.sendall(b"SSH-2.0-x\r\n"))


def open_program(tmp_path: Path, text: str, silence: float = 10) -> Link:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)

    async def scenario() -> Link:
        try:
            link = await open_link(parse(f"stdio://{program}"), TSO, silence=silence)
            link.sock.close()
        finally:
            await programs_ended(10)
        return link

    return asyncio.run(scenario())


def test_a_program(tmp_path: Path) -> None:
    link = open_program(tmp_path, "printf '\\003\\000abc'; exec cat")
    assert link.agreed == Agreed(HYPERKIT, Offload.NONE, b"\x03\x00abc")


def test_a_silent_program(tmp_path: Path) -> None:
    link = open_program(tmp_path, "exec cat", silence=0)
    assert link.agreed == Agreed(HYPERKIT, Offload.NONE, b"")


def test_a_program_that_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"^the program ended with status 7$"):
        open_program(tmp_path, "exit 7")


def test_a_program_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"^the host refuses the link: 'hello'$"):
        open_program(tmp_path, "echo hello")


def test_no_host(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(open_link(parse(f"unix://{tmp_path}/s"), TSO))


def test_backoff() -> None:
    delays = [FIRST_DELAY * 2**number for number in range(6)] + [LAST_DELAY] * 3
    backoff = Backoff(random.Random(1))
    for delay in delays:
        assert delay / 2 <= backoff.next() <= delay
    assert len({Backoff(random.Random(seed)).next() for seed in range(10)}) == 10


def test_only_a_link_that_lasted_ends_the_backoff() -> None:
    backoff = Backoff(random.Random(1))
    for _ in range(20):
        delay = backoff.next()
        backoff.link_ended(LASTING - 0.1)
    assert delay >= LAST_DELAY / 2
    backoff.link_ended(LASTING)
    assert backoff.next() <= FIRST_DELAY
