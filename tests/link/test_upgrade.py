"""The handshake: each head is fed whole, byte by byte, and with what follows it."""

import pytest

from taplink import upgrade
from taplink.endpoint import parse
from taplink.framing import HYPERKIT, TAPLINK
from taplink.upgrade import (
    MAX_HEAD,
    Agreed,
    Request,
    RequestReader,
    ResponseReader,
    UpgradeError,
    connect_request,
    offered,
    switching_protocols,
)
from taplink.vnet import Offload

TSO = Offload.CSUM | Offload.TSO4 | Offload.TSO6
FRAMES = b"\x2a\x00\xff\xff\xff\xff\xff\xff\r\n\r\nGET / HTTP/1.1\r\n\r\n"

GO = (
    b"POST /connect HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: 0\r\n\r\n"
)
"""What gvforwarder sends."""
OURS = connect_request(parse("vsock://2:1024/connect"), TSO)
GET = b"GET /stats?x=1 HTTP/1.1\r\nHost: gvproxy\r\nAccept: */*\r\naccept: text/plain\r\n\r\n"
OLD = b"POST /connect HTTP/1.0\r\n\r\n"
LINE_FEEDS = b"POST /connect HTTP/1.1\nHost: x\n\n"


def read_request(*pieces: bytes) -> Request | None:
    """Feed pieces; all but the last must leave the head incomplete."""
    reader = RequestReader()
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("head", [GO, OURS, GET, OLD, LINE_FEEDS])
def test_request_whole_bytewise_and_with_frames(head: bytes) -> None:
    whole = read_request(head)
    assert whole is not None
    assert (whole.head, whole.rest) == (head, b"")
    assert read_request(*bytewise(head)) == whole
    followed = read_request(head + FRAMES)
    assert followed is not None
    assert (followed.head, followed.rest) == (head, FRAMES)
    assert followed.headers == whole.headers
    split = read_request(head[:-1], head[-1:] + FRAMES)
    assert split is not None
    assert split.rest == FRAMES


def test_request_fields() -> None:
    request = read_request(GET)
    assert request is not None
    assert (request.method, request.target) == ("GET", "/stats?x=1")
    assert request.headers == {"host": "gvproxy", "accept": "*/*, text/plain"}


def test_a_body_is_not_part_of_the_head() -> None:
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    request = read_request(head + b"12")
    assert request is not None
    assert request.rest == b"12"


GARBAGE = [
    b"\x16\x03\x01\x02\x00",  # TLS
    b"\x2a\x00\xff\xff",  # hyperkit frames without a request
    b"\x00\x00\x00\x2a",
    b"VMN3T",  # vpnkit
    b"get / HTTP/1.1\r\n",
    b" GET",
    b"\r\n",
    b"\n",
    b"GET  / ",
    b"GET / FTP/1.1",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n",
    b"GET / HTTP/1.1 x",
    b"POST /a b c",
    b"A" * 21,
]


@pytest.mark.parametrize("data", GARBAGE)
def test_garbage_is_refused_before_its_line_ends(data: bytes) -> None:
    with pytest.raises(UpgradeError):
        RequestReader().feed(data)
    with pytest.raises(UpgradeError):
        read_request(*bytewise(data))


@pytest.mark.parametrize(
    "lines",
    [
        b"",  # no Host
        b"Host: a\r\nHost: b\r\n",
        b"Host: a\r\nno colon\r\n",
        b"Host: a\r\nname : x\r\n",
        b"Host: a\r\n: x\r\n",
        b"Host: a\r\nx: \x00\r\n",
        b"Host: a\r\nContent-Length: x\r\n",
        b"Host: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
        b"Host: a\r\nTransfer-Encoding: gzip\r\n",
    ],
)
def test_malformed_headers_are_refused(lines: bytes) -> None:
    head = b"POST /connect HTTP/1.1\r\n" + lines + b"\r\n"
    with pytest.raises(UpgradeError, match="malformed"):
        RequestReader().feed(head)


def long_head(length: int) -> bytes:
    fill = b"POST /connect HTTP/1.1\r\nHost: x\r\nFill: \r\n\r\n"
    return fill.replace(b"Fill: ", b"Fill: " + b"x" * (length - len(fill)))


def test_the_longest_head() -> None:
    head = long_head(MAX_HEAD)
    request = read_request(head + FRAMES)
    assert request is not None
    assert request.head == head
    with pytest.raises(UpgradeError):
        RequestReader().feed(long_head(MAX_HEAD + 1))


@pytest.mark.parametrize("piece", [b"x: y\r\n", b"x"])
@pytest.mark.parametrize("begin", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nx: "])
def test_a_head_without_end_is_refused(begin: bytes, piece: bytes) -> None:
    with pytest.raises(UpgradeError):
        read_request(begin, *[piece] * (MAX_HEAD // len(piece) + 1))


def with_headers(**headers: str) -> Request:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request("POST", "/connect", names, b"", b"")


def test_offered() -> None:
    ours, go = read_request(OURS), read_request(GO)
    assert ours is not None
    assert go is not None
    assert offered(ours) == TSO
    assert offered(go) is None
    both = {"connection": "keep-alive, Upgrade", "upgrade": "h2c, TapLink/1"}
    assert offered(with_headers(**both)) is Offload.NONE
    assert offered(with_headers(**both, taplink_offload="csum, TSO4,future")) == (
        Offload.CSUM | Offload.TSO4
    )
    assert offered(with_headers(**both, taplink_offload="tso4")) is Offload.NONE
    assert offered(with_headers(upgrade="taplink/1")) is None
    assert offered(with_headers(connection="upgrade", upgrade="taplink/2")) is None


@pytest.mark.parametrize(
    ("url", "line", "host"),
    [
        ("vsock://2:1024/connect", b"POST /connect HTTP/1.1", b"Host: "),
        ("unix:///run/s", b"POST /connect HTTP/1.1", b"Host: "),
        ("tcp://[::1]:80/other", b"POST /other HTTP/1.1", b"Host: [::1]:80"),
    ],
)
def test_connect_request(url: str, line: bytes, host: bytes) -> None:
    lines = connect_request(parse(url), TSO).split(b"\r\n")
    assert lines[:2] == [line, host]
    assert b"Taplink-Offload: csum,tso4,tso6" in lines


def read_response(*pieces: bytes) -> Agreed | None:
    reader = ResponseReader(TSO)
    for piece in pieces[:-1]:
        assert reader.feed(piece) is None
    return reader.feed(pieces[-1])


@pytest.mark.parametrize("offload", [TSO, Offload.CSUM, Offload.NONE])
def test_agreement_whole_bytewise_and_with_frames(offload: Offload) -> None:
    head = switching_protocols(offload)
    assert read_response(head) == Agreed(TAPLINK, offload, b"")
    assert read_response(*bytewise(head)) == Agreed(TAPLINK, offload, b"")
    assert read_response(head + FRAMES) == Agreed(TAPLINK, offload, FRAMES)


@pytest.mark.parametrize("data", [b"\x2a\x00\xff\xff", b"H\x00", b"HTTP/2", b"HTTQ", b"\r\n"])
def test_what_is_not_http_are_frames(data: bytes) -> None:
    assert read_response(data) == Agreed(HYPERKIT, Offload.NONE, data)
    assert read_response(data[:1]) in (None, Agreed(HYPERKIT, Offload.NONE, data[:1]))


@pytest.mark.parametrize("received", [b"", b"H", b"HTTP/1"])
def test_silence_is_the_old_dialect(received: bytes) -> None:
    reader = ResponseReader(TSO)
    assert reader.feed(received) is None
    assert reader.silent() == Agreed(HYPERKIT, Offload.NONE, received)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
        (b"HTTP/1.1 404 \x1b[2J\r\n\r\n", r"404 \\x1b\[2J$"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "200 OK"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "400 Bad Request"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "100"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: taplink/2\r\n\r\n", "101"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "101"),
        (switching_protocols(TSO | Offload.USO4), "not offered"),
        (b"HTTP/1.1 x\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 A\r\nbroken\r\n\r\n", "malformed"),
        (b"HTTP/1.1 101 A\r\nx: " + b"y" * MAX_HEAD, "malformed"),
    ],
)
def test_other_answers_are_named(answer: bytes, reason: str) -> None:
    with pytest.raises(UpgradeError, match=reason):
        read_response(answer)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r\n\r\n", b"\n\nSorry.\n"])
def test_a_text_is_no_frame(end: bytes) -> None:
    """No IPv4 or ARP frame is of printable bytes alone: its EtherType is not."""
    with pytest.raises(UpgradeError, match=r"^the host refuses the link: 'one tap, not 0'$"):
        read_response(b"one tap, not 0" + end)
    data = b"\x2a\x20one tap, not 0" + end
    assert read_response(data[:-1]) == Agreed(HYPERKIT, Offload.NONE, data[:-1])
    assert read_response(data + b"\0") == Agreed(HYPERKIT, Offload.NONE, data + b"\0")


def test_half_an_answer_is_not_silence() -> None:
    reader = ResponseReader(TSO)
    assert reader.feed(b"HTTP/1.1 101 Switching") is None
    with pytest.raises(UpgradeError):
        reader.silent()


def test_the_limit_of_a_response() -> None:
    fill = switching_protocols(TSO)[:-2] + b"x: \r\n\r\n"
    padded = fill.replace(b"x: ", b"x: " + b"y" * (MAX_HEAD - len(fill)))
    assert read_response(padded + FRAMES) == Agreed(TAPLINK, TSO, FRAMES)
    with pytest.raises(UpgradeError):
        read_response(padded.replace(b"x: ", b"x: y") + FRAMES)
    assert upgrade.SILENCE == 1.0
