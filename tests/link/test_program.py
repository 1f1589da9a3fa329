"""Programs in the place of a host: started, spoken to, and how they end."""

import asyncio
import errno
import os
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from taplink import program as module
from taplink.endpoint import EndpointError, parse, parse_peer
from taplink.program import programs_ended, start

T = TypeVar("T")
Run = Callable[[Coroutine[object, object, T]], T]


@pytest.fixture(scope="module", autouse=True)
def libuv() -> None:
    """Let libuv make, before descriptors are counted, the pipes it keeps for good."""

    async def started() -> None:
        await (await asyncio.create_subprocess_exec("true")).wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(started())


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner
        assert not module._programs


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return write


async def closes(program: module.Program) -> bool:
    """Wait until nothing can come from it any more."""
    async with asyncio.timeout(10):
        while await asyncio.get_running_loop().sock_recv(program.sock, 100):
            pass
    return True


def test_a_program(runner: asyncio.Runner, script: Callable[[str], Path]) -> None:
    """It gets its arguments, speaks over standard input and output, and ends with them."""

    async def scenario() -> None:
        program = await start(parse_peer(f"stdio://{script('echo $*; cat')}?debug=1"))
        with program.sock as sock:
            reader, writer = await asyncio.open_connection(sock=sock)
            assert await reader.readline() == b"-debug=1\n"
            writer.write(b"frame")
            assert await reader.readexactly(5) == b"frame"
            writer.close()
        assert await program.end() == "the program ended with status 0"

    runner.run(scenario())


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("exit 3", "the program ended with status 3"),
        ("kill -KILL $$", "the program was ended by SIGKILL"),
        ("kill -40 $$", "the program was ended by signal 40"),
    ],
)
def test_how_it_ends(
    runner: asyncio.Runner, script: Callable[[str], Path], text: str, end: str
) -> None:
    async def scenario() -> str:
        program = await start(parse(f"stdio://{script(text)}"))
        with program.sock:
            return await program.end()

    assert runner.run(scenario()) == end


def test_one_that_lives_on(runner: asyncio.Runner, script: Callable[[str], Path]) -> None:
    async def scenario() -> None:
        program = await start(parse(f"stdio://{script('cat')}"))
        with program.sock:
            assert await program.end(0) == "the program has closed its output"
        await programs_ended(10)

    runner.run(scenario())


def test_one_that_closes_its_descriptors(
    runner: asyncio.Runner, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link ends; the program does when another is started, at the latest."""
    monkeypatch.setattr(module, "LAST_PATIENCE", 0.2)

    async def scenario() -> str:
        path = script("exec <&- >&-; exec cat <$0.fifo")
        os.mkfifo(f"{path}.fifo")
        endpoint = parse(f"stdio://{path}")
        first = await start(endpoint)
        with first.sock:
            assert await closes(first)
        assert await first.end(0) == "the program has closed its output"
        script("exit 3")
        second = await start(endpoint)
        with second.sock:
            assert await second.end() == "the program ended with status 3"
        return await first.end()

    assert runner.run(scenario()) == "the program was ended by SIGTERM"


def test_one_that_leaves_a_child(runner: asyncio.Runner, script: Callable[[str], Path]) -> None:
    """The child has the socket, but is no host."""

    async def scenario() -> str:
        path = script("echo $$; cat $0.fifo & exit 3")
        os.mkfifo(f"{path}.fifo")
        program = await start(parse(f"stdio://{path}"))
        with program.sock:
            assert await closes(program)
            Path(f"{path}.fifo").write_text("")
            return await program.end()

    assert runner.run(scenario()) == "the program ended with status 3"
    os.wait()


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("kill -STOP $$", "the program was ended by SIGKILL"),
        ("exec cat <$0.fifo", "the program was ended by SIGTERM"),
    ],
)
def test_one_that_does_not_end(
    runner: asyncio.Runner, script: Callable[[str], Path], text: str, end: str
) -> None:
    async def scenario() -> str:
        path = script(f"echo; {text}")
        os.mkfifo(f"{path}.fifo")
        program = await start(parse(f"stdio://{path}"))
        with program.sock:
            await asyncio.get_running_loop().sock_recv(program.sock, 1)
        await programs_ended(0.2)
        return await program.end(0)

    assert runner.run(scenario()) == end


def test_one_that_cannot_be_ended(
    runner: asyncio.Runner, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is never a second one beside it."""

    def refuse(process: object, number: int) -> None:
        raise PermissionError

    async def scenario() -> None:
        endpoint = parse(f"stdio://{script('cat')}")
        program = await start(endpoint)
        with program.sock, monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "send_signal", refuse)
            patch.setattr(module, "LAST_PATIENCE", 0.0)
            with pytest.raises(OSError, match=r"^the program before it does not end$"):
                await start(endpoint)
        await programs_ended(10)

    runner.run(scenario())


def test_no_descriptor_left_to_wait_by(
    runner: asyncio.Runner, script: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is not left alone with nobody to see its end."""

    def fail(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    path = script("exec cat <$0.fifo")
    os.mkfifo(f"{path}.fifo")
    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        runner.run(start(parse(f"stdio://{path}")))


@pytest.mark.parametrize(
    ("name", "why"), [("none", "No such file or directory"), ("file", "Permission denied")]
)
def test_one_that_cannot_be_started(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").touch()
    url = f"stdio://{tmp_path}/{name}"
    with pytest.raises(EndpointError, match=f"^{url}: {why}$"):
        asyncio.run(start(parse(url)))
