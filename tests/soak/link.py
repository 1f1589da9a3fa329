"""A bad cable between an agent and gvproxy, both of which come and go; run as a program.

    python -m tests.soak.link [--plain] [--seed 1] LISTEN TARGET CONTROL

The agent comes to the unix socket LISTEN, and for each of its links one is made to TARGET; the
handshake passes as it is.  With `--plain` gvproxy is not told that the agent speaks `taplink/1`, so
that both fall back to `hyperkit`.  CONTROL takes datagrams, each a JSON object of `Impairment`'s
fields, which holds for all links from then on.
"""

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from taplink.flags import Parser
from tests.lab.cable import CONNECT, StreamEnd, carry
from tests.lab.impairment import Channel, Impairment

_PROGRAM = "tests.soak.link"
_HEAD_TIMEOUT = 10.0
_MAX_DATAGRAM = 4096
_END = b"\r\n\r\n"


def command(
    listen: Path, target: Path, control: Path, *, seed: int, plain: bool
) -> list[str | Path]:
    """Return the command that lays the cable and prints `ready`."""
    flags = ["--plain"] if plain else []
    return [sys.executable, "-m", __name__, *flags, f"--seed={seed}", listen, target, control]


def impair(control: Path, impairment: Impairment) -> None:
    """Have a cable do something else from now on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(json.dumps(asdict(impairment)).encode(), str(control))


def _bound(path: Path, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(str(path))
    return sock


def _read_head(sock: socket.socket) -> bytes:
    """Read up to the blank line, and nothing of the frames behind it."""
    head = b""
    while not head.endswith(_END):
        byte = sock.recv(1)
        if not byte:
            raise EOFError
        head += byte
    return head


class _Cable:
    """All links, and what is done to them."""

    def __init__(self, target: Path, seed: int, plain: bool) -> None:
        self._target = target
        self._seed = seed
        self._plain = plain
        self._impairment = Impairment()
        self._channels: list[Channel] = []
        self._links = 0

    def listen(self, control: socket.socket) -> None:
        """Take what is to be done to frames, for ever."""
        while True:
            self._impairment = Impairment(**json.loads(control.recv(_MAX_DATAGRAM)))
            for channel in self._channels:
                channel.impairment = self._impairment

    def join(self, agent: socket.socket) -> None:
        """Carry the frames of one link, to its end."""
        with agent, socket.socket(socket.AF_UNIX) as host, contextlib.suppress(EOFError, OSError):
            host.connect(str(self._target))
            for sock in (agent, host):
                sock.settimeout(_HEAD_TIMEOUT)
            request = _read_head(agent)
            host.sendall(CONNECT if self._plain else request)
            if not self._plain:
                agent.sendall(_read_head(host))
            for sock in (agent, host):
                sock.settimeout(None)
            self._carry(agent, host)

    def _carry(self, agent: socket.socket, host: socket.socket) -> None:
        ends = [StreamEnd(sock, not self._plain) for sock in (agent, host)]
        self._links += 1
        names = [f"{self._seed} {self._links} {direction}" for direction in ("up", "down")]
        channels = [Channel(self._impairment, name) for name in names]
        self._channels = channels
        threads = [
            threading.Thread(target=_carry_to_the_end, args=(source, channel, sink, (agent, host)))
            for source, channel, sink in zip(ends, channels, reversed(ends), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _carry_to_the_end(
    source: StreamEnd, channel: Channel, sink: StreamEnd, socks: Sequence[socket.socket]
) -> None:
    try:
        with contextlib.suppress(EOFError, OSError):
            carry(source, channel, sink)
    finally:
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def main(arguments: Sequence[str]) -> None:
    """Lay the cable, for ever."""
    parser = Parser(_PROGRAM, __doc__.partition("\n")[0])
    parser.add_switch("--plain", "hyperkit in place of taplink/1")
    parser.add_argument("--seed", type=int, default=1, help="of what happens by chance")
    for name in ("listen", "target", "control"):
        parser.add_argument(name, type=Path, help="a unix socket's path")
    flags = parser.read(arguments)
    cable = _Cable(flags.target, flags.seed, flags.plain)
    listener = _bound(flags.listen, socket.SOCK_STREAM)
    control = _bound(flags.control, socket.SOCK_DGRAM)
    listener.listen()
    threading.Thread(target=cable.listen, args=(control,), daemon=True).start()
    print("ready", flush=True)
    while True:
        agent, _ = listener.accept()
        threading.Thread(target=cable.join, args=(agent,), daemon=True).start()


if __name__ == "__main__":
    main(sys.argv[1:])
