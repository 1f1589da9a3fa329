"""HTTP where we read it: heads of requests, the host's answer to an agent, and bodies of calls.

The first message says which.  A head or an answer is the same whole, in the pieces of the input and
byte by byte, and is read or refused; a call has a status of its own, never "internal error".
"""

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from types import SimpleNamespace

from aiohttp import web
from aiohttp.typedefs import Handler

from gvproxy.api import app as api
from gvproxy.api.tunnel import _destination
from gvproxy.config import configure
from gvproxy.limits import Quota
from gvproxy.ports.access import Access
from gvproxy.ports.reception import _belonging
from gvproxy.services.forwarder import Forwarder
from gvproxy.services.forwards import Protocol
from gvproxy.services.zones import Zones
from taplink import vnet
from taplink.framing import LinkError
from taplink.upgrade import MAX_HEAD, RequestReader, ResponseReader, offered
from tests.fuzz.budget import within
from tests.fuzz.cases import Case, join, split
from tests.fuzz.mutation import Repair
from tests.host.stack.bench import ALL

repair: Repair | None = None

HEAD, ANSWER, GUEST, HOST = range(4)
_LARGEST = 2 * MAX_HEAD
_CONFIG = configure()


def target(data: bytes) -> None:
    """Read a head, an answer, or calls with their bodies."""
    first, *messages = split(data) or [b""]
    what = first[0] & 3 if first else HEAD
    if what in (GUEST, HOST):
        asyncio.run(_calls(messages, "192.168.127.2" if what == GUEST else None))
        return
    read = _head if what == HEAD else _answer
    whole = b"".join(messages)[:_LARGEST]
    heard = read([whole])
    if what == ANSWER and not whole.startswith(b"HTTP/1."):
        return  # frames, or a text, of which only what comes at once is looked at
    if len(whole) < _LARGEST:
        assert _same(read(messages), heard)
    if len(whole) < 1500:
        assert _same(read([whole[at : at + 1] for at in range(len(whole))]), heard)


Heard = tuple[object, ...] | str
"""What was read of a head and what is behind it, or why there is none."""


def _same(cut: Heard, whole: Heard) -> bool:
    """Tell whether cuts made no difference, except to why something is refused."""
    return isinstance(cut, str) == isinstance(whole, str) and (
        isinstance(whole, str) or cut == whole
    )


def _head(pieces: Case) -> Heard:
    reader, given = RequestReader(), b""
    for number, piece in enumerate(pieces):
        given += piece
        try:
            with within():
                request = reader.feed(piece)
        except LinkError as error:
            return _shown(f"{error}{_belonging(piece)}")
        if request is None:
            assert len(given) <= MAX_HEAD + len(piece), "a head without an end is kept"
            continue
        assert request.head + request.rest == given
        assert request.target.isascii()
        with suppress(ValueError):
            _destination(request.target)
        behind = request.rest + b"".join(pieces[number + 1 :])
        fields = request.method, request.target, tuple(request.headers.items()), request.head
        return (*fields, offered(request), behind)
    return ()


def _shown(text: str) -> str:
    assert text.isprintable()
    return text


def _answer(pieces: Case) -> Heard:
    reader = ResponseReader(ALL)
    for number, piece in enumerate(pieces):
        try:
            with within():
                agreed = reader.feed(piece)
        except LinkError as error:
            return _shown(str(error))
        if agreed is not None:
            assert not agreed.offload & ~ALL
            behind = agreed.rest + b"".join(pieces[number + 1 :])
            return agreed.framing.name, agreed.offload, behind
    try:
        agreed = reader.silent()
    except LinkError as error:
        return str(error)
    return agreed.framing.name, agreed.offload, agreed.rest


class Listeners:
    """Opens nothing."""

    async def prepare(self, remote: object) -> None:
        """There is no key."""

    def open(self, *_: object) -> SimpleNamespace:
        return SimpleNamespace(close=lambda: None)


async def _resolve(name: str) -> Collection[IPv4Address]:
    return []


class Backend:
    """What the API is of."""

    def __init__(self) -> None:
        self.forwarder = Forwarder(_CONFIG, Listeners(), _resolve, Quota(_CONFIG.limits.published))  # type: ignore[arg-type]
        self.zones = Zones(_CONFIG.zones)
        self.stats = self.cam = self.leases = dict
        self.ports = list

    def handlers(self, *, guest: bool) -> Mapping[str, Handler]:
        app = api.make_guest_app(self.forwarder) if guest else api.make_app(self, Access(None))  # type: ignore[arg-type]
        return {route.resource.canonical: route.handler for route in app.router.routes()}  # type: ignore


async def _calls(messages: Case, caller: str | None) -> None:
    """Call what the API has; a message is a path and, behind a space, a body."""
    backend = Backend()
    handlers = backend.handlers(guest=caller is not None)
    for message in messages:
        path, _, body = message.partition(b" ")
        handler = handlers.get(path.decode("latin-1"))
        if handler is None:
            continue
        request = SimpleNamespace(
            method="POST" if body else "GET",
            path=path.decode("latin-1"),
            remote=caller or "",
            transport=None,
            read=_reader(body[: api.MAX_BODY]),
        )
        with within():
            response = await api._errors(request, handler)  # type: ignore[arg-type]
        assert isinstance(response, web.Response)
        assert response.status in (200, 400, 403, 500, 501)
        assert response.text != "internal error\n"
        assert (response.text or "").removesuffix("\n").isprintable()
        for kind, _ in backend.forwarder._published:
            assert caller is None or kind in (Protocol.TCP, Protocol.UDP), "a file of the host's"


def _reader(body: bytes) -> object:
    async def read() -> bytes:
        return body

    return read


# Valid traffic

_UPGRADE = b"Connection: Upgrade\r\nUpgrade: taplink/1\r\nTaplink-Offload: csum,tso4,uso4\r\n"
_OFFERED = vnet.format_offload(ALL).encode()


def seeds() -> dict[str, bytes]:
    """Return heads, answers and calls."""
    connect = b"POST /connect HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n"
    tunnel = b"POST /tunnel?ip=192.168.127.2&port=22 HTTP/1.1\r\nHost: x\r\n\r\nSSH-2.0-x\r\n"
    agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: taplink/1\r\n"
    agreed += b"Taplink-Offload: %s\r\n\r\n" % _OFFERED
    forwarder = b"/services/forwarder/"
    calls = [
        forwarder + b'expose {"local":":8080","remote":":80"}',
        forwarder
        + b'expose {"local":"127.0.0.1:9000-9003","remote":":9000-9003","protocol":"udp"}',
        forwarder + b'expose {"local":":7777","remote":"192.168.127.2:7777"}',
        forwarder + b'unexpose {"local":":8080"}',
        forwarder + b"all",
        forwarder + b'expose {"local":"unix:///tmp/x","remote":"tcp://192.168.127.2:80",'
        b'"protocol":"unix"}',
        forwarder + b'expose {"local":"/tmp/y","remote":"ssh-tunnel://core@192.168.127.2:22/run/x'
        b'?key=%2Ftmp%2Fkey","protocol":"unix"}',
        forwarder + b'expose {"local":"[::1]:0","remote":"host.name:1","protocol":"npipe"}',
    ]
    names = [
        b'/services/dns/add {"Name":"a.test.","Records":[{"Name":"b","IP":"192.0.2.1"},'
        b'{"Regexp":"c.*","IP":"2001:db8::1"}],"DefaultIP":"192.0.2.2"}',
        b"/services/dns/all",
        b"/stats",
    ]
    chunk = [connect + _UPGRADE + b"\r\n", b"\0\0\0\x2a" + bytes(42)]
    return {
        "connect": join([b"\0", *chunk]),
        "connect-old": join([b"\0", connect[:20], connect[20:], b"\r\n", b"\x2a\0" + bytes(42)]),
        "tunnel": join([b"\0", tunnel]),
        "get": join([b"\0", b"GET /stats HTTP/1.1\r\nHost: x\r\nAccept: */*\r\nExpect: 1\r\n\r\n"]),
        "agreed": join([b"\1", agreed[:50], agreed[50:] + b"\0\0\0\x0c" + bytes(12)]),
        "refused": join([b"\1", b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n"]),
        "silent": join([b"\1", b"\x2a\0" + bytes(42)]),
        "sshd": join([b"\1", b"SSH-2.0-OpenSSH_9.2\r\n"]),
        "guest": join([b"\2", *calls]),
        "host": join([b"\3", *calls, *names]),
    }
