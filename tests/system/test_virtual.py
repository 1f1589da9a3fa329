"""Virtual sockets with a kernel at the other end: a daemon in this process, a guest outside."""

import asyncio
import hashlib
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from gvproxy.config import configure
from gvproxy.daemon import Daemon
from gvproxy.virtual import VirtualNetwork
from tests.lab.namespace import Namespace
from tests.lab.network import temporary_folder
from tests.lab.process import Process
from tests.lab.programs import DEVICE, GATEWAY, Agent
from tests.lab.sockets import read_all

pytestmark = [pytest.mark.root, pytest.mark.system]

SIZE = 20_000_000
PORT = 8050
CHUNK = 1 << 18
EXAMPLE = Path(__file__).parents[2] / "docs" / "library.md"

Scenario = Callable[[VirtualNetwork, Namespace], Awaitable[None]]


def live(scenario: Scenario) -> None:
    """Run a daemon with one guest attached, and the scenario."""

    async def run() -> None:
        config = configure(listen=[f"unix://{folder}/gvproxy.sock"], ssh_port=-1)
        daemon = Daemon(config, asyncio.get_running_loop())
        try:
            await daemon.start()
            agent = Agent(guest, f"unix://{folder}/gvproxy.sock")
            await asyncio.to_thread(agent.wait)
            async with asyncio.timeout(40):
                await scenario(daemon.network, guest)
            await asyncio.to_thread(agent.process.stop)
        finally:
            await daemon.close()

    with temporary_folder() as folder, Namespace("guest", folder) as guest:
        asyncio.run(run())


async def send(writer: asyncio.StreamWriter) -> str:
    digest = hashlib.sha256()
    for _ in range(SIZE // CHUNK):
        block = os.urandom(CHUNK)
        digest.update(block)
        writer.write(block)
        await writer.drain()
    writer.write_eof()
    return digest.hexdigest()


async def receive(reader: asyncio.StreamReader) -> str:
    digest = hashlib.sha256()
    while block := await reader.read(CHUNK):
        digest.update(block)
    return digest.hexdigest()


def kernel_send(sock: socket.socket) -> str:
    digest = hashlib.sha256()
    for _ in range(SIZE // CHUNK):
        block = os.urandom(CHUNK)
        digest.update(block)
        sock.sendall(block)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


def kernel_receive(sock: socket.socket) -> str:
    digest = hashlib.sha256()
    while block := sock.recv(CHUNK):
        digest.update(block)
    return digest.hexdigest()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sock: socket.socket
) -> None:
    """Send SIZE bytes each way at once, and compare."""
    sent, received, kernel_sent, kernel_received = await asyncio.gather(
        send(writer),
        receive(reader),
        asyncio.to_thread(kernel_send, sock),
        asyncio.to_thread(kernel_receive, sock),
    )
    assert (received, kernel_received) == (kernel_sent, sent)
    writer.close()
    await writer.wait_closed()


def test_a_large_transfer_opened_by_the_host() -> None:
    async def scenario(network: VirtualNetwork, guest: Namespace) -> None:
        with guest.listen("0.0.0.0", PORT) as listener:
            reader, writer = await network.open_connection(DEVICE, PORT)
            with (await asyncio.to_thread(listener.accept))[0] as sock:
                sock.settimeout(30)
                await exchange(reader, writer, sock)

    live(scenario)


def test_a_large_transfer_opened_by_the_guest() -> None:
    async def scenario(network: VirtualNetwork, guest: Namespace) -> None:
        streams: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        async with await network.start_server(
            lambda *pair: streams.put_nowait(pair), GATEWAY, PORT
        ):
            with await asyncio.to_thread(guest.connect, GATEWAY, PORT, 30) as sock:
                await exchange(*await streams.get(), sock)

    live(scenario)


def test_ends_as_a_kernel_sees_them() -> None:
    async def scenario(network: VirtualNetwork, guest: Namespace) -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.open_connection(DEVICE, PORT)
        with guest.listen("0.0.0.0", PORT) as listener:
            for ending in ("abort", "close"):
                _, writer = await network.open_connection(DEVICE, PORT)
                with (await asyncio.to_thread(listener.accept))[0] as sock:
                    sock.settimeout(10)
                    getattr(writer.transport, ending)()
                    if ending == "abort":
                        with pytest.raises(ConnectionResetError):
                            await asyncio.to_thread(sock.recv, 1)
                    else:
                        assert await asyncio.to_thread(sock.recv, 1) == b""

    live(scenario)


def test_datagrams() -> None:
    class Echo(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
            transport.sendto(data * 2, source)

    async def scenario(network: VirtualNetwork, guest: Namespace) -> None:
        nonlocal transport
        transport, _ = await network.create_datagram_endpoint(Echo, GATEWAY, PORT)
        with guest.open_socket(socket.SOCK_DGRAM) as sock:
            for size in (1, 1000, 20_000):
                sock.sendto(bytes(size), (GATEWAY, PORT))
                assert len(await asyncio.to_thread(sock.recv, 65536)) == 2 * size

    transport: asyncio.DatagramTransport
    live(scenario)


def test_the_example_of_the_documentation() -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", EXAMPLE.read_text(), re.S | re.M)
    with temporary_folder() as folder, Namespace("guest", folder) as guest:
        path = f"{folder}/network.sock"
        assert program.count("/tmp/network.sock") == 1
        (folder / "example.py").write_text(program.replace("/tmp/network.sock", path))
        example = Process("example", [sys.executable, folder / "example.py"], folder / "log")
        try:
            example.wait_for("ready")
            agent = Agent(guest, f"unix://{path}")
            agent.wait()
            with guest.listen("0.0.0.0", PORT) as listener, guest.connect(GATEWAY, 7000) as sock:
                sock.sendall(b"%d\n" % PORT)
                with listener.accept()[0] as server:
                    server.sendall(b"SSH-2.0-example\r\n")
                assert read_all(sock) == b"192.168.127.2 says SSH-2.0-example\r\n"
            agent.process.stop()
        finally:
            example.stop(status=None)
        assert "Traceback" not in example.log.read_text()
