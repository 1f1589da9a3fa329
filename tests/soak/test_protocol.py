"""A transfer that is not whole, or not the same, or stuck, is told apart from one that broke."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.lab.sockets import reset
from tests.soak import protocol
from tests.soak.place import seal, sealed
from tests.soak.protocol import Client, CorruptError, EarlyEndError, Kind, StuckError, answer

SIZE = 1_000_000
Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def request(kind: Kind, size: int) -> bytes:
    return protocol._HEADER.pack(protocol._MAGIC, kind, size)


def answering(sock: socket.socket) -> threading.Thread:
    thread = threading.Thread(target=answer, args=(sock,))
    thread.start()
    return thread


@pytest.mark.parametrize("size", [1, 1000, SIZE])
@pytest.mark.parametrize("transfer", [Client.upload, Client.download, Client.echo])
def test_what_arrives_whole_is_acknowledged(
    pair: Pair, transfer: Callable[[Client, int], None], size: int
) -> None:
    near, far = pair
    thread = answering(far)
    client = Client(near)
    transfer(client, size)
    transfer(client, size)
    assert client.answered
    near.shutdown(socket.SHUT_WR)
    thread.join()


OTHER = bytes(32)
"""No digest of anything here."""


@pytest.mark.parametrize("transfer", [Client.upload, Client.download, Client.echo])
def test_a_client_sees_what_is_not_the_same_at_both_ends(
    pair: Pair, transfer: Callable[[Client, int], None]
) -> None:
    near, far = pair
    far.sendall(b"x" * len(OTHER) + OTHER)
    with pytest.raises(CorruptError):
        transfer(Client(near), len(OTHER))


def test_a_server_sees_it_by_the_acknowledgment(pair: Pair) -> None:
    near, far = pair
    near.sendall(request(Kind.DOWNLOAD, 10) + OTHER)
    with pytest.raises(CorruptError):
        answer(far)


def test_a_request_out_of_step_is_corrupt(pair: Pair) -> None:
    near, far = pair
    near.sendall(request(Kind.DOWNLOAD, 10)[1:] + b"x")
    with pytest.raises(CorruptError, match="OAK"):
        answer(far)


def test_an_end_in_the_middle_is_one_that_came_early(pair: Pair) -> None:
    near, far = pair
    far.sendall(b"x" * 10)
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(EarlyEndError, match="10 of 1,000,000 bytes"):
        Client(near).download(SIZE)


def test_a_server_sees_it_as_well(pair: Pair) -> None:
    near, far = pair
    near.sendall(request(Kind.UPLOAD, SIZE))
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(EarlyEndError, match="0 of 1,000,000 bytes"):
        answer(far)


def test_a_peer_that_is_silent(pair: Pair) -> None:
    near, _ = pair
    near.settimeout(0.01)
    with pytest.raises(StuckError):
        Client(near).download(SIZE)


def test_a_reset_is_an_error_of_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        reset(listener.accept()[0])
    with near, pytest.raises(ConnectionResetError):
        Client(near).download(SIZE)


def test_a_seal_shows_every_change() -> None:
    data = seal(b"some data")
    assert sealed(data)
    for at in range(len(data)):
        assert not sealed(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])
    assert not sealed(data[:-1])
