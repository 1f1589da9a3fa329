"""Datagrams read in runs, from a kernel that makes them and from one that does not."""

import errno
import random
import socket
from collections.abc import Iterator

import pytest

from gvproxy.flows import runs
from gvproxy.stack.sessions import MAX_PAYLOAD, MAX_SEGMENTS


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets, of which the second reads runs and does not block."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        for sock in (sender, receiver):
            sock.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        receiver.setblocking(False)
        runs.enable(receiver)
        yield sender, receiver


Run = tuple[bytes, int, tuple[str, int]]


def read(sock: socket.socket, reads: int = 64) -> tuple[list[Run], OSError | None]:
    """Return the runs, and the error that came behind them."""
    got = []
    try:
        for run in runs.receive(sock, reads):
            got.append(run)
    except OSError as error:
        return got, error
    return got, None


def sizes_of(got: list[Run]) -> list[tuple[int, int]]:
    """Return the sizes of runs and of their datagrams."""
    return [(len(payload), size) for payload, size, _ in got]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([0], [(0, 0)]),
        ([5], [(5, 5)]),
        ([5, 5, 3], [(13, 5)]),
        ([5, 3, 5], [(8, 5), (5, 5)]),
        ([3, 5, 0, 5], [(3, 3), (5, 5), (0, 0), (5, 5)]),
        ([5, 0], [(5, 5), (0, 0)]),
        ([1] * 63, [(63, 1)]),
        ([1472] * 50, [(44 * 1472, 1472), (6 * 1472, 1472)]),
        ([65_507] * 4, [(65_507, 65_507)] * 4),
    ],
)
def test_what_comes_one_by_one(
    pair: tuple[socket.socket, socket.socket],
    sizes: list[int],
    expected: list[tuple[int, int]],
) -> None:
    sender, receiver = pair
    for size in sizes:
        sender.sendto(bytes(size), receiver.getsockname())
    got, end = read(receiver)
    assert sizes_of(got) == expected
    assert isinstance(end, BlockingIOError)


def test_a_run_has_no_more_datagrams_than_linux_takes(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = pair
    for _ in range(MAX_SEGMENTS + 1):
        sender.sendto(b"x", receiver.getsockname())
    assert sizes_of(read(receiver, 100)[0]) == [(MAX_SEGMENTS, 1), (1, 1)]


def test_what_comes_as_runs(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    for count, size in ((5000, 1400), (4200, 1400), (4200, 1400), (300, 100), (64_000, 1000)):
        runs.send(sender, [memoryview(bytes(count))], size, receiver.getsockname())
    assert sizes_of(read(receiver)[0]) == [(5000, 1400), (8400, 1400), (300, 100), (64_000, 1000)]


def test_runs_of_two_senders_stay_apart(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        for sock, body in ((sender, b"a"), (sender, b"b"), (other, b"c"), (sender, b"d")):
            sock.sendto(body, receiver.getsockname())
        assert [(payload, address) for payload, _, address in read(receiver)[0]] == [
            (b"ab", sender.getsockname()),
            (b"c", ("127.0.0.1", other.getsockname()[1])),
            (b"d", sender.getsockname()),
        ]


def test_reads_are_bounded(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    for number in range(5):
        sender.sendto(bytes((number,)), receiver.getsockname())
    for reads, expected in ((3, b"\0\1\2"), (2, b"\3\4")):
        got, end = read(receiver, reads)
        assert [payload for payload, _, _ in got] == [expected]
        assert end is None


def test_what_was_read_comes_before_the_error(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = pair
    sender.sendto(b"last words", receiver.getsockname())

    class Failing:
        def __init__(self) -> None:
            self.reads = 0

        def recvmsg_into(self, *arguments: object) -> object:
            self.reads += 1
            if self.reads > 1:
                raise OSError(errno.ECONNREFUSED, "refused")
            return receiver.recvmsg_into(*arguments)  # type: ignore[arg-type]

    got, end = read(Failing())  # type: ignore[arg-type]
    assert [payload for payload, _, _ in got] == [b"last words"]
    assert isinstance(end, ConnectionRefusedError)


@pytest.mark.parametrize("seed", range(10))
def test_any_mixture_arrives_whole(pair: tuple[socket.socket, socket.socket], seed: int) -> None:
    sender, receiver = pair
    rng = random.Random(seed)
    sent: list[bytes] = []
    for _ in range(40):
        size = rng.choice((1, 100, 1400))
        count = rng.choice((size, size, size // 2, size * 3, size * 20 + size // 2))
        body = rng.randbytes(count)
        if count > size:
            runs.send(sender, [memoryview(body)], size, receiver.getsockname())
        else:
            sender.sendto(body, receiver.getsockname())
        sent += [body[at : at + size] for at in range(0, max(1, count), size)]
    got: list[bytes] = []
    for payload, size, _ in read(receiver, 100)[0]:
        assert len(payload) <= min(size * MAX_SEGMENTS, MAX_PAYLOAD)
        got += [payload[at : at + size] for at in range(0, max(1, len(payload)), size or 1)]
    assert got == sent
