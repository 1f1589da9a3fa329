"""Bodies that are too large, sent to the real daemon: refused in one line, and kept nowhere."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.programs import Gvproxy
from tests.lab.sockets import read_all

SIZE = 10_000_000
REFUSAL = b"Maximum request body size 65536 exceeded"
PATHS = ["/services/forwarder/expose", "/services/forwarder/unexpose", "/services/dns/add"]


@pytest.fixture(scope="module")
def gvproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gvproxy]:
    daemon = Gvproxy(tmp_path_factory.mktemp("daemon"))
    daemon.get("/stats")  # what is loaded for the first call is there
    yield daemon
    daemon.process.stop()


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("body") / "body"
    path.write_bytes(b" " * SIZE)
    return path


@pytest.fixture(autouse=True)
def memory_stays(gvproxy: Gvproxy) -> Iterator[None]:
    """Fail a test in which the daemon's memory grew, if only for a moment."""
    before = peak(gvproxy)
    yield
    assert peak(gvproxy) - before < SIZE / 4


def peak(gvproxy: Gvproxy) -> int:
    """Return the largest resident memory there was, in bytes."""
    status = Path(f"/proc/{gvproxy.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def ask(gvproxy: Gvproxy, *pieces: bytes) -> bytes:
    """Send all of it, whatever comes back meanwhile, and return what came."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(gvproxy.path))
        for piece in pieces:
            sock.sendall(piece)
        return read_all(sock)


def post(path: str, header: bytes) -> bytes:
    return b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % (path.encode(), header)


LAST = b"GET /cam HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("path", PATHS)
def test_the_connection_goes_on(path: str, gvproxy: Gvproxy) -> None:
    head = post(path, b"Content-Length: %d" % SIZE)
    answers = ask(gvproxy, head, b" " * SIZE, LAST)
    assert answers.startswith(b"HTTP/1.1 413 ")
    assert answers.count(REFUSAL) == 1
    assert b"HTTP/1.1 200 OK" in answers


@pytest.mark.parametrize("path", PATHS)
def test_a_body_without_a_length(path: str, gvproxy: Gvproxy) -> None:
    head = post(path, b"Transfer-Encoding: chunked")
    chunks = (b"%x\r\n%s\r\n" % (SIZE // 100, b" " * (SIZE // 100))) * 100
    answers = ask(gvproxy, head, chunks, b"0\r\n\r\n", LAST)
    assert answers.startswith(b"HTTP/1.1 413 ")
    assert answers.count(REFUSAL) == 1
    assert b"HTTP/1.1 200 OK" in answers


CURL = {
    "length": ["-H", "Expect:"],
    "expect": ["-H", "Expect: 100-continue"],
    "chunked": ["-H", "Expect:", "-H", "Transfer-Encoding: chunked"],
    "expect, chunked": ["-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked"],
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CURL)
def test_curl(path: str, name: str, gvproxy: Gvproxy, body: Path) -> None:
    said = ["--silent", "--show-error", "--write-out", "%{http_code} %{size_upload}"]
    where = ["--unix-socket", gvproxy.path, f"http://gvproxy{path}"]
    command = ["curl", *said, *CURL[name], "--data-binary", f"@{body}", *where]
    output = subprocess.run(command, capture_output=True, timeout=20, check=True).stdout
    text, _, written = output.rpartition(b"\n")
    assert text.startswith(REFUSAL)
    assert b"\n" not in text
    status, sent = written.split()
    assert status == b"413"
    assert (int(sent) == 0) == (name == "expect"), "curl was told not to send it"
