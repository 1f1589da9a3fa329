"""What the second guest does: one stream each way, and small requests; run as a program inside it.

A request is made every 5 ms, in turns on a connection that is kept and on a new one.  Prints JSON.
"""

import ctypes
import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

ROOT = Path(__file__).parents[3]
INTERVAL = 0.005
WARM_UP = 0.2
TIMEOUT = 5.0
_GET = b"GET / HTTP/1.1\r\nHost: host\r\n\r\n"
_CHUNK = 256 << 10
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tests.bench.floods.servers import HTTP_PORT, SINK_PORT, SOURCE_PORT  # noqa: E402

Figures = dict[str, list[float]]


def command(address: str, seconds: float) -> list[str | Path]:
    """Return the command that does it for some seconds."""
    return [sys.executable, "-P", "-u", Path(__file__), address, f"{seconds:g}"]


def _rate(call: Callable[[], int], seconds: float) -> float:
    """Return how many Mbit/s a call moves that is made again and again."""
    begins = monotonic() + WARM_UP
    while monotonic() < begins:
        call()
    begins, moved = monotonic(), 0
    try:
        while monotonic() < begins + seconds - WARM_UP:
            moved += call()
    except OSError:
        pass  # nothing moves any more: what has moved by now counts
    return moved * 8 / 1e6 / (monotonic() - begins)


def _up(address: str, seconds: float) -> Figures:
    with socket.create_connection((address, SINK_PORT), TIMEOUT) as sock:
        sock.settimeout(seconds)
        zeros = bytes(_CHUNK)
        return {"up": [_rate(lambda: sock.send(zeros), seconds)]}


def _down(address: str, seconds: float) -> Figures:
    with socket.create_connection((address, SOURCE_PORT), TIMEOUT) as sock:
        sock.settimeout(seconds)
        buffer = bytearray(_CHUNK)
        return {"down": [_rate(lambda: sock.recv_into(buffer), seconds)]}


def _get(sock: socket.socket) -> None:
    sock.sendall(_GET)
    if not sock.recv(4096):
        raise ConnectionResetError


def _requests(address: str, seconds: float) -> Figures:
    """Return how many ms each request took; one that fails took as long as is waited for it."""
    taken: Figures = {"kept": [], "new": []}
    kept = socket.create_connection((address, HTTP_PORT), TIMEOUT)
    ends = monotonic() + seconds
    while (begins := monotonic()) < ends:
        name = "kept" if len(taken["kept"]) <= len(taken["new"]) else "new"
        try:
            if name == "kept":
                _get(kept)
            else:
                with socket.create_connection((address, HTTP_PORT), TIMEOUT) as sock:
                    _get(sock)
            taken[name].append((monotonic() - begins) * 1e3)
        except OSError:
            taken[name].append(TIMEOUT * 1e3)
            if name == "kept":
                kept.close()
                kept = socket.create_connection((address, HTTP_PORT), TIMEOUT)
        sleep(max(0.0, begins + INTERVAL - monotonic()))
    kept.close()
    return taken


def _child(
    work: Callable[[str, float], Figures], address: str, seconds: float, results: object
) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        figures = work(address, seconds)
    except OSError as error:
        print(f"{work.__name__}: {error}", file=sys.stderr)
        figures = {}
    results.put(figures)  # type: ignore[attr-defined]


def main(address: str, seconds: float) -> None:
    """Do all at the same time."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    works = (_up, _down, _requests)
    children = [
        context.Process(target=_child, args=(work, address, seconds, results)) for work in works
    ]
    for child in children:
        child.start()
    figures: Figures = {"up": [0.0], "down": [0.0], "kept": [], "new": []}
    for _ in children:
        figures |= results.get()
    print(json.dumps(figures))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
