"""What -pcap records: each frame whole, when it passes; and a full disk is no reason to end."""

import io
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dpkt
import pytest

from gvproxy.errors import StartError
from gvproxy.ports import capture
from gvproxy.ports.capture import Capture, CapturedStreamPort
from taplink import vnet
from taplink.framing import HYPERKIT, TAPLINK, Framing
from taplink.vnet import Offload
from tests.manual_loop import ManualLoop

from .test_stream import FakeStack


class Bench:
    def __init__(self, path: Path, framing: Framing) -> None:
        self.loop, self.stack, self.path, self.framing = ManualLoop(), FakeStack(), path, framing
        self.capture = Capture(path, self.loop.as_loop())
        sock, self.guest = socket.socketpair()
        sock.setblocking(False)
        arguments: Any = (self.stack, self.loop.as_loop(), lambda port, reason: None)
        self.port = CapturedStreamPort(sock, framing, Offload.NONE, *arguments)
        self.port.capture = self.capture

    def recorded(self) -> list[bytes]:
        reader = dpkt.pcap.Reader(io.BytesIO(self.path.read_bytes()))
        assert reader.datalink() == dpkt.pcap.DLT_EN10MB
        return [frame for _, frame in reader]


@pytest.fixture(params=[HYPERKIT, TAPLINK], ids=["hyperkit", "taplink"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "c.pcap", request.param)
    yield bench
    bench.port.close("the test is over")
    bench.capture.close()
    bench.guest.close()
    bench.loop.run()
    assert bench.loop.idle


def test_frames_of_both_ways_are_there_after_a_second(bench: Bench) -> None:
    bench.port.start(b"")
    meta = bytes(bench.framing.offset)
    frames = [b"one" * 20, b"two" * 20]
    for frame in frames:
        size = bench.framing.length.pack(len(meta) + len(frame))
        bench.guest.send(size + meta + frame)
    bench.loop.until(lambda: len(bench.stack.frames) == 2)
    assert [frame[len(meta) :] for frame in bench.stack.frames] == frames
    bench.port.send(vnet.PLAIN, b"head", memoryview(b"payload" * 9000))
    bench.loop.run()
    assert bench.guest.recv(1 << 17).endswith(b"payload")
    bench.loop.advance(capture.FLUSH_INTERVAL)
    assert bench.recorded() == [*frames, b"head" + b"payload" * 9000]


def test_the_end_completes_the_file(bench: Bench) -> None:
    bench.port.send(vnet.PLAIN, b"last")
    bench.capture.close()
    assert bench.recorded() == [b"last"]
    bench.port.send(vnet.PLAIN, b"too late")


@pytest.mark.parametrize("nanoseconds", [1_700_000_000_999_999_999, 1_700_000_001_000_000_000])
def test_microseconds_are_whole(
    bench: Bench, nanoseconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture.time, "time_ns", lambda: nanoseconds)
    bench.capture.record(b"frame")
    bench.capture.close()
    header = bench.path.read_bytes()[24:32]  # of the first packet, after the file's own
    seconds, microseconds = (int.from_bytes(header[i : i + 4], sys.byteorder) for i in (0, 4))
    assert (seconds, microseconds) == (nanoseconds // 10**9, nanoseconds // 1000 % 10**6)


def test_a_clock_that_is_set_anew_is_what_is_recorded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    year = 365 * 24 * 3600
    times = [1_700_000_000 + jump for jump in (0, year, -year, 0)]
    for seconds in times:
        monkeypatch.setattr(capture.time, "time_ns", lambda seconds=seconds: seconds * 10**9)
        bench.capture.record(b"frame")
    bench.capture.close()
    reader = dpkt.pcap.Reader(io.BytesIO(bench.path.read_bytes()))
    assert [at for at, _ in reader] == times


def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"-pcap .*/no/c.pcap cannot be written: No such file"):
        Capture(tmp_path / "no" / "c.pcap", ManualLoop().as_loop())


HEADER = 24, 16
"""Bytes of the file's and of a frame's."""


@pytest.fixture
def limit() -> Iterator[Callable[[int | None], None]]:
    """Have files end at so many bytes, as on a full disk (EFBIG)."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield limit
    limit(None)


def test_a_full_disk_takes_whole_frames_or_none(
    tmp_path: Path, limit: Callable[[int | None], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gvproxy")
    loop, path = ManualLoop(), tmp_path / "c.pcap"
    one = Capture(path, loop.as_loop())
    limit(sum(HEADER) + 100 + 50)

    def record(*frames: bytes) -> None:
        for frame in frames:
            one.record(frame)
        loop.advance(capture.FLUSH_INTERVAL)
        recorded = list(dpkt.pcap.Reader(io.BytesIO(path.read_bytes())))
        assert [frame for _, frame in recorded] == there
        assert path.stat().st_size == HEADER[0] + sum(HEADER[1] + len(frame) for frame in there)

    there = [bytes(100)]
    record(*there)
    record(b"x" * 60)  # of which there would be room for a part
    record(b"x" * 70, b"x")
    limit(None)
    there.append(b"again")
    record(b"again")
    limit(1)
    record(b"the end")
    one.close()
    limit(None)  # and not only behind the test: its outcome may be written to a file
    assert loop.idle
    assert caplog.messages == [
        f"-pcap {path}: frames are not recorded, until there is room: File too large",
        f"-pcap {path} goes on; 3 frames are missing",
        f"-pcap {path}: 1 frames are missing at its end",
    ]


def test_many_frames_do_not_wait(tmp_path: Path) -> None:
    loop, path = ManualLoop(), tmp_path / "c.pcap"
    one = Capture(path, loop.as_loop())
    for _ in range(5):
        one.record(bytes(60_000))
    assert path.stat().st_size > capture.MAX_WAITING
    one.close()
    assert loop.idle


def test_a_disk_that_is_full_at_the_start_is_told() -> None:
    with pytest.raises(StartError, match="-pcap /dev/full cannot be written: No space left"):
        Capture(Path("/dev/full"), ManualLoop().as_loop())


def test_a_pipe_whose_reader_has_gone_ends_the_recording_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop, path = ManualLoop(), tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    one = Capture(path, loop.as_loop())
    os.close(reader)
    for _ in range(3):
        one.record(b"frame")
        loop.advance(capture.FLUSH_INTERVAL)
    one.close()
    assert loop.idle
    assert caplog.messages == [f"-pcap {path} ends here: Broken pipe"]
