"""A transfer that does not end, or is not whole, is an error that says how far it was."""

import socket
import threading

import pytest

from tests.lab.transfer import TransferError, exchange

SIZE = 3_000_000


def test_what_arrives_whole_is_no_error() -> None:
    guest, host = socket.socketpair()
    with guest, host:
        exchange(guest, host, SIZE, seconds=30)


def test_a_connection_that_is_stuck() -> None:
    guest, unread = socket.socketpair()
    unwritten, host = socket.socketpair()
    with (
        guest,
        unread,
        unwritten,
        host,
        pytest.raises(TransferError, match=r"not done in 0\.1 s: up 0 of 3,000,000 bytes, down 0"),
    ):
        exchange(guest, host, SIZE, seconds=0.1)


def test_a_connection_that_loses_its_end() -> None:
    guest, near = socket.socketpair()
    far, host = socket.socketpair()

    def carry(source: socket.socket, sink: socket.socket, limit: int) -> None:
        while limit > 0 and (block := source.recv(65536)):
            sink.sendall(block[:limit])
            limit -= len(block)
        sink.shutdown(socket.SHUT_WR)
        while source.recv(65536):
            pass

    threads = [
        threading.Thread(target=carry, args=(near, far, SIZE - 1)),
        threading.Thread(target=carry, args=(far, near, SIZE)),
    ]
    with guest, near, far, host:
        for thread in threads:
            thread.start()
        with pytest.raises(TransferError, match=r"up: what arrived .* up 2,999,999 of"):
            exchange(guest, host, SIZE, seconds=30)
        for thread in threads:
            thread.join()
