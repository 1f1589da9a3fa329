"""What -pcap records: each frame whole, when it passes; and a full disk is no reason to end."""

import io
import logging
import socket
import sys
from collections.abc import Iterator
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


def test_a_file_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"-pcap .*/no/c.pcap cannot be written: No such file"):
        Capture(tmp_path / "no" / "c.pcap", ManualLoop().as_loop())


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_full_disk_ends_the_recording_only(size: int, caplog: pytest.LogCaptureFixture) -> None:
    loop = ManualLoop()
    one = Capture(Path("/dev/full"), loop.as_loop())
    for _ in range(3):
        one.record(bytes(size))
        loop.advance(capture.FLUSH_INTERVAL)
    one.close()
    assert loop.idle
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings == ["-pcap /dev/full ends here: No space left on device"]
