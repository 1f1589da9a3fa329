"""The handshake: how a byte stream that began as HTTP becomes a link.

    agent   POST /connect                      host   nothing: hyperkit frames follow at once
    agent   POST /connect, Upgrade: taplink/1  host   101 Switching Protocols: taplink/1 follows
                                               Go's   nothing: the agent waits SILENCE seconds

Sans-IO: bytes in, a head or an agreement out.  h11 parses the heads; what it is told here is only
how much to take.  Whatever follows a head in the same read is handed back untouched, as it is
frames already.  Which paths exist and what else is served is the host's affair.
"""

import re
from dataclasses import dataclass

import h11

from taplink import vnet
from taplink.bearer import Bearer
from taplink.endpoint import DEFAULT_REQUEST_PATH, Endpoint, Scheme
from taplink.framing import HYPERKIT, TAPLINK, Framing, LinkError
from taplink.text import one_line, without_bytes
from taplink.vnet import Offload

PROTOCOL = "taplink/1"
OFFLOAD_HEADER = "Taplink-Offload"
MAX_HEAD = 16 * 1024
"""Bytes of a head; h11's own limit, and twice what nginx and Apache accept."""
SILENCE = 1.0
"""Seconds without an answer after which the server is one that never answers (Go's gvproxy)."""

_HTTP = b"HTTP/1."
_REQUEST_LINE = re.compile(rb"[A-Z]{1,20}(?: (?:[!-~]+(?: [HTP/0-9.]{0,8}\r?)?)?)?")
"""A request line or the beginning of one, to tell garbage before its first line feed."""

_TEXT = re.compile(rb"[\t -~]+\r?\n(?:[\t -~]*\r?\n)*")
"""Lines for people, of which the first is not empty.  No frame of IPv4's or ARP's is one: its
EtherType, 08 00 or 08 06, is not."""


class UpgradeError(LinkError):
    """The peer's head is malformed, too long, or refuses the link."""


# The server's side


@dataclass(frozen=True, slots=True)
class Request:
    """A request head; `headers` have lower-case names, repeated ones joined by a comma."""

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    """Exactly as received, with the blank line."""
    rest: bytes
    """What followed it in the same read: a body's beginning, or frames."""


class RequestReader:
    """Reads one request head."""

    __slots__ = ("_http", "_received")

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._received = bytearray()

    def feed(self, data: bytes) -> Request | None:
        """Take what was read; returns the request once its head is complete, None until then.

        Raises UpgradeError as soon as the bytes cannot become a head of MAX_HEAD bytes.
        """
        self._received += data
        line, end, _ = self._received[:MAX_HEAD].partition(b"\n")
        if (line or end) and not _REQUEST_LINE.fullmatch(line):
            raise UpgradeError("what arrived is not an HTTP request")
        event = _next_event(self._http, data)
        if event is h11.NEED_DATA:
            return None
        assert isinstance(event, h11.Request)
        if event.http_version not in (b"1.0", b"1.1"):
            raise UpgradeError(f"HTTP/{event.http_version.decode('ascii')} is not spoken here")
        head, rest = _split(self._received, self._http)
        return Request(
            method=event.method.decode("ascii"),
            target=event.target.decode("ascii"),
            headers=_headers(event),
            head=head,
            rest=rest,
        )


def offered(request: Request) -> Offload | None:
    """Return what a `taplink/1` client can take unfinished; None is a client without upgrade."""
    if PROTOCOL not in _tokens(request.headers, "upgrade"):
        return None
    if "upgrade" not in _tokens(request.headers, "connection"):
        return None
    return vnet.parse_offload(request.headers.get(OFFLOAD_HEADER.lower(), ""))


def switching_protocols(offload: Offload) -> bytes:
    """Return the response that agrees to `taplink/1` with `offload`, a subset of what was offered.

    Its next byte is the first frame's.
    """
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Connection: Upgrade\r\n"
        f"Upgrade: {PROTOCOL}\r\n"
        f"{OFFLOAD_HEADER}: {vnet.format_offload(offload)}\r\n"
        "\r\n"
    ).encode("ascii")


# The agent's side


@dataclass(frozen=True, slots=True)
class Agreed:
    """What both sides speak from here on; `rest` is what was read of it already."""

    framing: Framing
    offload: Offload
    rest: bytes


def connect_request(endpoint: Endpoint, offload: Offload, bearer: Bearer | None = None) -> bytes:
    """Return the request that offers `taplink/1`; to an old server it is an ordinary /connect.

    The token of `bearer` goes to where it is asked for, which is over TCP.
    """
    credentials = ""
    if bearer is not None and endpoint.scheme is Scheme.TCP:
        credentials = f"Authorization: {bearer.credentials}\r\n"
    return (
        f"POST {endpoint.request_path} HTTP/1.1\r\n"
        f"Host: {_authority(endpoint)}\r\n"
        "Content-Length: 0\r\n"
        "Connection: Upgrade\r\n"
        f"Upgrade: {PROTOCOL}\r\n"
        f"{OFFLOAD_HEADER}: {vnet.format_offload(offload)}\r\n"
        f"{credentials}"
        "\r\n"
    ).encode("ascii")


class ResponseReader:
    """Reads the answer to `connect_request`, or finds out that there is none."""

    __slots__ = ("_http", "_offered", "_received")

    def __init__(self, offered: Offload) -> None:
        self._offered = offered
        self._received = bytearray()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        # h11 takes a 101 only for a request it has seen ask for one.
        asked = [("Host", ""), ("Connection", "Upgrade"), ("Upgrade", PROTOCOL)]
        self._http.send(h11.Request(method="POST", target=DEFAULT_REQUEST_PATH, headers=asked))

    def feed(self, data: bytes) -> Agreed | None:
        """Take what was read; returns None while the answer may still become one.

        Bytes that are not HTTP are a server without answer whose frames came first.  Raises
        UpgradeError for any other answer than 101 to `taplink/1`.
        """
        self._received += data
        if self._received[: len(_HTTP)] != _HTTP[: len(self._received)]:
            return self.silent()
        event = _next_event(self._http, data)
        if event is h11.NEED_DATA:
            return None
        if isinstance(event, h11.Response):
            reason = one_line(event.reason.decode("latin-1"))
            hint = "; -token-file names its token" if event.status_code == 401 else ""
            raise UpgradeError(f"the host refuses the link: {event.status_code} {reason}{hint}")
        assert isinstance(event, h11.InformationalResponse)
        headers = _headers(event)
        if event.status_code != 101 or PROTOCOL not in _tokens(headers, "upgrade"):
            raise UpgradeError(f"the host answers {event.status_code} without {PROTOCOL}")
        offload = vnet.parse_offload(headers.get(OFFLOAD_HEADER.lower(), ""))
        if offload & ~self._offered:
            raise UpgradeError("the host agrees to offloads that were not offered")
        return Agreed(TAPLINK, offload, _split(self._received, self._http)[1])

    def silent(self) -> Agreed:
        """Conclude, after SILENCE seconds, that no answer will come: the old dialect.

        Raises UpgradeError when half an answer has arrived, or a text.
        """
        if self._received.startswith(_HTTP):
            raise UpgradeError("the host's answer has no end")
        return unasked(bytes(self._received))


def unasked(received: bytes) -> Agreed:
    """Conclude that frames of the old dialect come unasked; raises UpgradeError for a text."""
    if _TEXT.fullmatch(received):
        raise UpgradeError(f"the host refuses the link: {received.splitlines()[0].decode()!r}")
    return Agreed(HYPERKIT, Offload.NONE, received)


def _next_event(http: h11.Connection, data: bytes) -> object:
    if not data:  # to h11 this would be the end of the stream
        return h11.NEED_DATA
    try:
        http.receive_data(data)
        return http.next_event()
    except h11.RemoteProtocolError as error:
        raise UpgradeError(f"a malformed HTTP head: {without_bytes(str(error))}") from None


def _split(received: bytearray, http: h11.Connection) -> tuple[bytes, bytes]:
    """Cut at the end of the head h11 has just parsed."""
    rest = bytes(http.trailing_data[0])
    head = bytes(received[: len(received) - len(rest)])
    if len(head) > MAX_HEAD:
        raise UpgradeError(f"an HTTP head of {len(head)} bytes ({MAX_HEAD} are allowed)")
    return head, rest


def _headers(event: h11.Request | h11.InformationalResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in event.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _tokens(headers: dict[str, str], name: str) -> list[str]:
    return [token.strip().lower() for token in headers.get(name, "").split(",")]


def _authority(endpoint: Endpoint) -> str:
    """Return a Host header's value; empty where the endpoint has no host (RFC 9110 §7.2)."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}" if host else ""
