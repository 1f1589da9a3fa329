"""What guests talk to on the host's loopback; run as a program, once for each kind.

`http` has a small page, `bulk` a source that sends for ever and a sink.  The others are for
attackers: `hold` sends what fits into small buffers, as if its own were elsewhere, and waits for
the end; `dumb` takes datagrams and names that are asked for, and answers none.
"""

import asyncio
import resource
import select
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

HTTP_PORT, SOURCE_PORT, SINK_PORT, HOLD_PORT, DATAGRAM_PORT, NAME_PORT = (
    8080,
    9001,
    9002,
    9003,
    9004,
    53,
)
CHUNK = 1 << 20
_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nhello, world\n"
_BACKLOG = 4096
_SMALL = 64 << 10


def command(kind: str) -> list[str | Path]:
    """Return the command that serves a kind, and prints `ready`."""
    return [sys.executable, "-P", "-u", Path(__file__), kind]


class _Page(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\r\n\r\n")):
            self._transport.write(_PAGE)


async def _http() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(_Page, "127.0.0.1", HTTP_PORT, backlog=_BACKLOG)
    print("ready")
    await asyncio.Event().wait()


def _source(sock: socket.socket) -> None:
    zeros = bytes(CHUNK)
    try:
        while True:
            sock.sendall(zeros)
    except OSError:
        sock.close()


def _sink(sock: socket.socket) -> None:
    buffer = bytearray(CHUNK)
    try:
        while sock.recv_into(buffer):
            pass
    except OSError:
        pass
    sock.close()


def _bulk() -> None:
    threading.stack_size(128 << 10)

    def serve(port: int, talk: object) -> None:
        listener = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
        listening.release()
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=talk, args=(sock,), daemon=True).start()  # type: ignore[arg-type]

    listening = threading.Semaphore(0)
    threads = [
        threading.Thread(target=serve, args=pair)
        for pair in ((SOURCE_PORT, _source), (SINK_PORT, _sink))
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        listening.acquire()
    print("ready")


def _hold() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    listener = socket.create_server(("127.0.0.1", HOLD_PORT), backlog=_BACKLOG)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SMALL)
    held: dict[int, socket.socket] = {}
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    zeros = bytes(CHUNK)
    print("ready")
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != listener.fileno():
                poll.unregister(descriptor)
                held.pop(descriptor).close()
                continue
            sock, _ = listener.accept()
            sock.setblocking(False)
            held[sock.fileno()] = sock
            poll.register(sock, select.EPOLLRDHUP)
            with suppress(OSError):  # which is told by the poll
                sock.send(zeros)


def _dumb() -> None:
    sockets = []
    for port in (DATAGRAM_PORT, NAME_PORT):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", port))
        sockets.append(sock)
    print("ready")
    threading.Event().wait()  # nobody reads: what does not fit is dropped


if __name__ == "__main__":
    kinds = {"http": lambda: asyncio.run(_http()), "bulk": _bulk, "hold": _hold, "dumb": _dumb}
    kinds[sys.argv[1]]()
