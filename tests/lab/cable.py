"""A bad cable, as a process: two ends, and what `impairment` does between them in each direction.

    python -m tests.lab.cable [--offload] [--seed 1] [--loss 0.01 ...] END END

An end is `PID/NAME`, a tap that it makes in the network namespace of a process, or the URL of a
gvproxy, to which it speaks as the agent does: `taplink/1` with `--offload`, else `hyperkit`.  Both
ends are of one kind: without `--offload` every frame is complete and no longer than the MTU.

Each direction is a process of its own, which may block in writing without holding up the other.  It
says `ready` when its ends are there, and at the end (SIGTERM) writes each direction's counters.
"""

import argparse
import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import NoReturn, Protocol

from taplink import endpoint, vnet
from taplink.flags import Parser, fail, integer
from taplink.framing import HYPERKIT, MAX_FRAME, TAPLINK, FrameReader, LinkError
from taplink.tap import Tap, TapError, open_tap
from taplink.vnet import Offload
from tests.lab.impairment import Channel, Frame, Impairment
from tests.lab.namespace import entered
from vsock_tap.link import open_link

_PROGRAM = "tests.lab.cable"
_FIELDS = [field.name for field in fields(Impairment)]
OFFLOADS = Offload.CSUM | Offload.TSO4 | Offload.TSO6
_BATCH = 64
"""Frames one wake-up may take from a tap."""
_IOV_MAX = 1024  # linux/uio.h
CONNECT = b"POST /connect HTTP/1.1\r\nHost: gvproxy\r\nContent-Length: 0\r\n\r\n"
_DIRECTIONS = ("up", "down")
"""From the first end to the second, and back."""


def command(
    near: str, far: str, impairment: Impairment, *, offload: bool, seed: int
) -> list[str | Path]:
    """Return the command that lays a cable with the same impairment in both directions."""
    flags = [f"--{name}={value}" for name, value in asdict(impairment).items() if value]
    offloads = ["--offload"] if offload else []
    return [sys.executable, "-m", __name__, *flags, *offloads, f"--seed={seed}", near, far]


class End(Protocol):
    def fileno(self) -> int: ...

    def read(self) -> Sequence[Frame]:
        """Return what is there; views are valid until the next call."""

    def write(self, frames: Sequence[Frame]) -> None: ...


class _TapEnd:
    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def fileno(self) -> int:
        return self._tap.fd

    def read(self) -> Sequence[Frame]:
        frames: list[Frame] = []
        try:
            for _ in range(_BATCH):
                frames.append(os.read(self._tap.fd, vnet.SIZE + MAX_FRAME))
        except BlockingIOError:
            pass
        return frames

    def write(self, frames: Sequence[Frame]) -> None:
        fd = self._tap.fd
        for frame in frames:
            # Refused while the interface is not up, and when corruption made a frame that is none.
            with contextlib.suppress(OSError):
                os.write(fd, frame)


class StreamEnd:
    def __init__(self, sock: socket.socket, offload: bool) -> None:
        self._sock = sock
        self._framing = TAPLINK if offload else HYPERKIT
        self._reader = FrameReader(self._framing)

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> Sequence[Frame]:
        frames = self._reader.receive(self._sock)
        return frames if self._framing.offset else [vnet.PLAIN + frame for frame in frames]

    def write(self, frames: Sequence[Frame]) -> None:
        start, pack = vnet.SIZE - self._framing.offset, self._framing.length.pack
        parts: list[Frame] = []
        for frame in frames:
            parts += (pack(len(frame) - start), memoryview(frame)[start:])
        for first in range(0, len(parts), _IOV_MAX):
            block = parts[first : first + _IOV_MAX]
            sent = self._sock.sendmsg(block)
            if sent < sum(map(len, block)):
                self._sock.sendall(b"".join(block)[sent:])


def _open(name: str, offload: bool) -> End:
    if "://" not in name:
        pid, _, device = name.partition("/")
        try:
            with entered(int(pid)):
                if device in (there for _, there in socket.if_nameindex()):
                    raise TapError(f"{name}: the interface exists already")
                tap = open_tap(device)
        except ValueError:
            raise TapError(f"{name}: {pid!r} is no process id") from None
        except OSError as error:
            raise TapError(f"{name}: no network of a process: {error.strerror}") from error
        tap.set_offload(OFFLOADS if offload else Offload.NONE)
        return _TapEnd(tap)
    try:
        sock = asyncio.run(_connect(endpoint.parse(name), offload))
    except OSError as error:
        raise LinkError(f"{name}: {error.strerror or error}") from error
    sock.setblocking(True)
    return StreamEnd(sock, offload)


async def _connect(where: endpoint.Endpoint, offload: bool) -> socket.socket:
    if offload:
        link = await open_link(where, OFFLOADS)
        if link.agreed.framing is not TAPLINK or link.agreed.offload != OFFLOADS:
            raise OSError("the host does not agree to the offloads")
        assert not link.agreed.rest, "the host speaks first"
        return link.sock
    sock = await endpoint.connect(where, timeout=10)
    await asyncio.get_running_loop().sock_sendall(sock, CONNECT)
    return sock


def carry(source: End, channel: Channel, sink: End) -> NoReturn:
    """Carry frames in one direction, until the process ends."""
    while True:
        due = channel.due
        # Unlike poll and epoll, select takes its time in microseconds.
        timeout = None if due is None else max(0.0, due - time.monotonic())
        if select.select([source], [], [], timeout)[0]:
            now = time.monotonic()
            for frame in source.read():
                channel.put(frame, now)
        if frames := channel.take(time.monotonic()):
            sink.write(frames)


def _terminated(number: int, frame: object) -> NoReturn:
    sys.exit(0)


def _read_flags(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(_PROGRAM, __doc__.partition("\n")[0])
    parser.add_switch("--offload", "taps with offloads, and taplink/1")
    parser.add_argument("--seed", type=integer, default=1, help="of what happens by chance")
    for field in fields(Impairment):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    parser.add_argument("ends", nargs=2, metavar="END", help="PID/NAME, or a gvproxy's URL")
    return parser.read(arguments)


def main(arguments: Sequence[str]) -> None:
    """Lay the cable, until SIGTERM."""
    flags = _read_flags(arguments)
    try:
        impairment = Impairment(**{name: getattr(flags, name) for name in _FIELDS})
        near, far = (_open(end, flags.offload) for end in flags.ends)
    except (ValueError, TapError, LinkError) as error:
        fail(_PROGRAM, error)
    signal.signal(signal.SIGTERM, _terminated)
    print("ready", flush=True)
    child = os.fork()
    direction = _DIRECTIONS[0 if child else 1]
    channel = Channel(impairment, f"{flags.seed} {direction}")
    try:
        if child:
            carry(near, channel, far)
        else:
            carry(far, channel, near)
    except (EOFError, OSError) as error:
        fail(_PROGRAM, f"{direction}: an end is gone: {error}")
    finally:
        if child:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
        print(direction, json.dumps(asdict(channel.counters)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
