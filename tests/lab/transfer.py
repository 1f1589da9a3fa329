"""Random bytes over a TCP connection both ways at once, compared by their SHA-256."""

import contextlib
import hashlib
import os
import socket
import threading
import time
from dataclasses import dataclass

_CHUNK = 1 << 20


class TransferError(Exception):
    """The connection failed, is stuck, or what arrived is not what was sent; one line."""


@dataclass(slots=True)
class _Flow:
    """One direction, and how far it is."""

    name: str
    source: socket.socket
    sink: socket.socket
    size: int
    received: int = 0
    sent_digest: str = ""
    received_digest: str = ""
    error: OSError | None = None

    def send(self) -> None:
        digest = hashlib.sha256()
        try:
            for start in range(0, self.size, _CHUNK):
                block = os.urandom(min(_CHUNK, self.size - start))
                digest.update(block)
                self.source.sendall(block)
            self.source.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error
        self.sent_digest = digest.hexdigest()

    def receive(self) -> None:
        digest = hashlib.sha256()
        try:
            while block := self.sink.recv(_CHUNK):
                digest.update(block)
                self.received += len(block)
        except OSError as error:
            self.error = error
        self.received_digest = digest.hexdigest()

    def __str__(self) -> str:
        return f"{self.name} {self.received:,} of {self.size:,} bytes"


def exchange(guest: socket.socket, host: socket.socket, size: int, seconds: float) -> None:
    """Send `size` bytes each way and the end of the stream; raises TransferError.

    `seconds` is when it has to be over.  The sockets belong to the caller and are at their end.
    """
    flows = [_Flow("up", guest, host, size), _Flow("down", host, guest, size)]
    for sock in (guest, host):
        sock.settimeout(None)  # there is one deadline, and it is for all of it
    threads = [
        threading.Thread(target=call) for flow in flows for call in (flow.send, flow.receive)
    ]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    stuck = any(thread.is_alive() for thread in threads)
    progress = ", ".join(map(str, flows))
    if stuck:
        for sock in (guest, host):
            with contextlib.suppress(OSError):  # one that was reset has no ends any more
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        raise TransferError(f"not done in {seconds:g} s: {progress}")
    for flow in flows:
        if flow.error is not None:
            raise TransferError(f"{flow.name}: {flow.error}: {progress}")
        if flow.received_digest != flow.sent_digest:
            raise TransferError(f"{flow.name}: what arrived is not what was sent: {progress}")
