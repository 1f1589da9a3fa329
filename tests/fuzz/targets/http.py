"""HTTP where we read it: heads of requests, the host's answer to an agent, and bodies of calls.

The first message says which.  A head or an answer is the same whole, in the pieces of the input and
byte by byte, and is read or refused; a call has a status of its own, never "internal error".
"""

import asyncio
import json
import random
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address
from types import SimpleNamespace
from urllib.parse import parse_qsl

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
from taplink.framing import HYPERKIT, TAPLINK, LinkError
from taplink.upgrade import MAX_HEAD, RequestReader, ResponseReader, offered
from tests.fuzz.budget import within
from tests.fuzz.cases import Case, join, split
from tests.host.stack.bench import ALL

HEAD, ANSWER, GUEST, HOST = range(4)
_PORT = re.compile("[0-9]{1,5}")
_DOTTED = re.compile(r"(?:(?:0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])(?:\.(?!$)|$)){4}")
_CONFIG = configure()
_HOSTS = {
    (Protocol.TCP, "127.0.0.1:6000"): "192.168.127.3:80",
    (Protocol.UNIX, "/tmp/host"): "tcp://192.168.127.2:80",
}
"""What the host has published, and where it leads."""
_OWN_PORT = 7777
_NO_GUESTS = _CONFIG.subnet.network_address, _CONFIG.subnet.broadcast_address
_LINE = re.compile(rb"[A-Z]+(?: [!-~]*(?: [HTP/0-9.]*\r?)?)?\Z|\Z")
_SWITCHING = re.compile(rb"HTTP/1\.[0-9] 101[ \r\n]")
_TEXT = re.compile(rb"[\t -~]+\r?\n(?:[\t -~]*\r?\n)*")
_LARGEST = 2 * MAX_HEAD


_NO_TEXTS: tuple[object, ...] = (1, 0, -1, 1.5, True, False, None, [], ["a"], {}, {"a": "b"})
_TEXTS = (
    "",
    ":",
    ":0",
    ":65536",
    "a:1",
    "::1",
    "/",
    "\0",
    "\ud800",
    "tcp",
    "udp",
    "unix",
    ":1-9999",
)


def repair(message: bytes, rng: random.Random) -> bytes:
    """Give a member of a call's body a value of another kind, or an odd one, now and then."""
    path, _, body = message.partition(b" ")
    try:
        value = json.loads(body)
    except ValueError:
        return message
    if not isinstance(value, dict) or not value:
        return json.dumps(rng.choice((*_NO_TEXTS, "text"))).encode().join((path + b" ", b""))
    key, other = rng.choice(list(value)), rng.choice((*_NO_TEXTS, *_TEXTS))
    inner = value[key]
    if isinstance(inner, list) and inner and isinstance(inner[0], dict) and rng.random() < 0.7:
        record = rng.choice(inner)
        record[rng.choice([*record, "IP", "Name"])] = other
    else:
        value[key] = other
    return path + b" " + json.dumps(value).encode()


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
        line = given.partition(b"\n")[0]
        assert _LINE.match(line), "garbage is waited for"
        assert line or b"\n" not in given, "a request without a line"
        if request is None:
            assert len(given) <= MAX_HEAD + len(piece), "a head without an end is kept"
            continue
        assert len(request.head) <= MAX_HEAD
        assert line.rstrip(b"\r").endswith((b" HTTP/1.0", b" HTTP/1.1"))
        fields = _fields(request.head)
        asks = "taplink/1" in fields["upgrade"] and "upgrade" in fields["connection"]
        assert (offered(request) is not None) == asks
        assert request.head + request.rest == given
        assert request.target.isascii()
        _look_at_destination(request.target)
        behind = request.rest + b"".join(pieces[number + 1 :])
        heard = request.method, request.target, tuple(request.headers.items()), request.head
        return (*heard, offered(request), behind)
    return ()


def _fields(head: bytes) -> defaultdict[str, list[str]]:
    """Return the words of a head's fields, in lower case (RFC 9110 §5.6.1)."""
    fields: defaultdict[str, list[str]] = defaultdict(list)
    unfolded = re.sub(r"\r?\n[ \t]+", " ", head.decode("latin-1"))  # RFC 9112 §5.2
    for line in unfolded.split("\n")[1:]:
        name, _, value = line.partition(":")
        fields[name.lower()] += [word.strip() for word in value.lower().split(",")]
    return fields


def _look_at_destination(target: str) -> None:
    """Compare where a tunnel leads with what the URL says, each of it once and in digits."""
    query = dict(reversed(parse_qsl(target.partition("?")[2])))
    port, ip = query.get("port", ""), query.get("ip", "")
    right = bool(_PORT.fullmatch(port) and _DOTTED.fullmatch(ip) and 0 < int(port) <= 65535)
    try:
        address, number = _destination(target)
    except ValueError:
        assert not right
        return
    assert right, "a tunnel to what is no address and port"
    assert (str(address), number) == (ip, int(port))


def _shown(text: str) -> str:
    assert text.isprintable()
    return text


def _answer(pieces: Case) -> Heard:
    """Read an answer, and look at what it leads to."""
    heard, whole = _read_answer(pieces), b"".join(pieces)[:_LARGEST]
    if isinstance(heard, tuple) and heard[0] == "hyperkit":
        assert not whole.startswith(b"HTTP/1."), "an answer is taken for frames"
        assert not _TEXT.fullmatch(pieces[0] if pieces else b""), "a text is taken for frames"
    elif isinstance(heard, tuple):
        head = whole[: len(whole) - len(heard[2])]  # type: ignore[arg-type]
        assert _SWITCHING.match(head), "another answer is taken for 101"
        assert "taplink/1" in _fields(head)["upgrade"]
        assert len(head) <= MAX_HEAD
    return heard


def _read_answer(pieces: Case) -> Heard:
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


class Backend:
    """What the API is of."""

    def __init__(self, *, guest: bool) -> None:
        async def resolve(name: str) -> Collection[IPv4Address]:
            assert not guest, "a guest has a name looked up"
            assert re.fullmatch(r"[A-Za-z0-9_.-]{1,253}", name), "no name is looked up"
            return [IPv4Address("192.168.127.4")] if name == "host.name" else []

        self.forwarder = Forwarder(_CONFIG, Listeners(), resolve, Quota(_CONFIG.limits.published))  # type: ignore[arg-type]
        self.zones = Zones(_CONFIG.zones)
        self.stats = self.cam = self.leases = dict
        self.ports = list

    def handlers(self, *, guest: bool) -> Mapping[str, Handler]:
        app = api.make_guest_app(self.forwarder) if guest else api.make_app(self, Access(None))  # type: ignore[arg-type]
        return {route.resource.canonical: route.handler for route in app.router.routes()}  # type: ignore


async def _calls(messages: Case, caller: str | None) -> None:
    """Call what the API has; a message is a path and, behind a space, a body.

    `GET` in front of it has a body come with a call that has none.
    """
    backend = Backend(guest=caller is not None)
    backend.forwarder.own_ports = (_OWN_PORT,)
    for (kind, local), remote in _HOSTS.items():
        await backend.forwarder.expose(local, remote, kind)
    handlers = backend.handlers(guest=caller is not None)
    for message in messages:
        path, _, body = message.removeprefix(b"GET ").partition(b" ")
        posted = bool(body) and not message.startswith(b"GET ")
        before = list(backend.forwarder._published)
        handler = handlers.get(path.decode("latin-1"))
        if handler is None:
            continue
        request = SimpleNamespace(
            method="POST" if posted else "GET",
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
        if not posted:
            assert list(backend.forwarder._published) == before, "a GET has changed something"
        assert response.status != 200 or posted == path.endswith((b"expose", b"/add"))
        assert (response.text or "").removesuffix("\n").isprintable()
        _look_at_published(backend.forwarder, caller)
        _look_at_zones(backend.zones)


def _look_at_zones(zones: Zones) -> None:
    """Assert that they have names, and not the whole of DNS."""
    for zone in zones.all():
        names = [zone.name, *(f"{one.name}.{zone.name}" for one in zone.records if one.name)]
        for name in names:
            labels = name.removesuffix(".").encode().split(b".")
            assert name.endswith(".")
            assert all(0 < len(label) < 64 for label in labels)
            assert sum(map(len, labels)) + len(labels) < 255
        assert all(one.name or one.pattern for one in zone.records)


def _look_at_published(forwarder: Forwarder, caller: str | None) -> None:
    """Assert that each leads to a guest, and that a guest has none but its own."""
    published = forwarder._published
    for (kind, name), one in published.items():
        address = IPv4Address(one.remote.host)
        assert address in _CONFIG.subnet
        assert address not in (*_NO_GUESTS, _CONFIG.gateway_ip, *_CONFIG.virtual_ips)
        assert 0 < one.remote.port <= 65535
        if kind in (Protocol.TCP, Protocol.UDP):
            assert 0 < int(name.rpartition(":")[2]) <= 65535
        if caller is not None and (kind, name) not in _HOSTS:
            assert kind in (Protocol.TCP, Protocol.UDP), "a file of the host's"
            assert one.remote.host == caller, "another guest's port"
            assert kind is Protocol.UDP or not name.endswith(f":{_OWN_PORT}"), "gvproxy's port"
    assert caller is None or _HOSTS.keys() <= published.keys(), (
        "a guest has taken back what is the host's"
    )


def _reader(body: bytes) -> object:
    async def read() -> bytes:
        return body

    return read


# Valid traffic

_UPGRADE = b"Connection: Upgrade\r\nUpgrade: taplink/1\r\nTaplink-Offload: csum,tso4,uso4\r\n"
_OFFERED = vnet.format_offload(ALL).encode()


def _amiss(path: bytes, **members: object) -> list[bytes]:
    """Return calls of which the body is amiss in one place: a value's type, or all of it."""
    bodies: list[object] = [*_NO_TEXTS, "text"]
    bodies += [members | {key: value} for key in members for value in (1, None, ["a"], {})]
    return [path + b" " + json.dumps(body).encode() for body in bodies]


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
    calls += _amiss(forwarder + b"expose", local=":80", remote=":80", protocol="tcp")
    calls += _amiss(forwarder + b"unexpose", local=":80", protocol="tcp")
    names += _amiss(b"/services/dns/add", Name="a.", DefaultIP="192.0.2.1", Records=[])
    odd_names = (
        "",
        ".",
        "..",
        "a..b",
        "a" * 64,
        ".".join(["a" * 60] * 5),
        "\u00e9",
        "\ud800",
        "a.",
    )
    names += [
        b"/services/dns/add " + json.dumps(body).encode()
        for name in odd_names
        for body in (
            {"Name": name},
            {"Name": "c.", "Records": [{"Name": name, "IP": "192.0.2.1"}]},
            {"Name": "a" * 60 + ".c.", "Records": [{"Name": name * 3, "IP": "192.0.2.1"}]},
            {"Name": "c.", "Records": [{"Regexp": name, "IP": name}], "DefaultIP": name},
        )
    ]
    names += [
        b"/services/dns/add " + json.dumps({"Name": "b.", "Records": [record]}).encode()
        for record in (1, {}, {"Name": 1, "IP": "::1"}, {"Name": "b", "IP": 1}, {"Regexp": 1})
    ]
    last = ("0", "1", "2", "3", "254", "255")
    remotes = [f"192.168.127.{one}:80" for one in last] + [
        "10.0.0.1:80",
        "name:80",
        "a b:80",
        ":0",
        "a." * 127 + ":80",
    ]
    for remote in (*remotes, "", "80", ":80-81", ":65536", "tcp://192.168.127.3:80"):
        body = {"local": ":81", "remote": remote}
        calls.append(forwarder + b"expose " + json.dumps(body).encode())
        calls.append(forwarder + b'unexpose {"local":":81"}')
        named = body | {"local": "/tmp/z", "protocol": "unix"}
        calls.append(forwarder + b"expose " + json.dumps(named).encode())
    for protocol, host in _HOSTS:
        body = {"local": host, "protocol": protocol}
        calls.append(forwarder + b"unexpose " + json.dumps(body).encode())
    for local in (
        "127.0.0.1:6000",
        ":7777",
        "127.0.0.1:7776-7778",
        "/tmp/z",
        "http://a:1",
        "a" * 300 + ":1",
    ):
        for path, more in ((b"expose ", {"remote": ":80"}), (b"unexpose ", {})):
            calls.append(forwarder + path + json.dumps({"local": local} | more).encode())
    calls += [b"GET " + one for one in calls[:4]] + [forwarder + b"all {}"]
    ports = (
        "0",
        "1",
        "65535",
        "65536",
        "%2B22",
        "22%20",
        "1_0",
        "%EF%BC%92",
        "000022",
        "-1",
        "9" * 5000,
    )
    tunnels = [f"/tunnel?ip=192.168.127.2&port={port}" for port in ports]
    tunnels += [
        f"/tunnel?ip={ip}&port=22" for ip in ("", "1.2.3", "1.2.3.256", "01.2.3.4", "::1", "a")
    ]
    tunnels += [
        "/tunnel",
        "/tunnel?port=1&ip=1.2.3.4&port=2&ip=4.3.2.1",
        "/tunnel?ip=1.2.3.4;port=1",
    ]
    chunk = [connect + _UPGRADE + b"\r\n", b"\0\0\0\x2a" + bytes(42)]
    heads = {"head-large": join([b"\0", connect + b"X: %s\r\n\r\n" % (b"x" * (MAX_HEAD - 80))])}
    large = connect + b"X: %s\r\n\r\n" % (b"x" * MAX_HEAD)
    garbage = (
        b"\n",
        b"\r\n",
        b"get / HTTP/1.1",
        b"GET\0",
        b"GET / FTP",
        b"VMN3T",
        bytes(40),
        b"\x16\3\1",
    )
    for number, piece in enumerate((*garbage, large, large[:-4])):
        heads[f"head-garbage-{number}"] = join([b"\0", piece, b"\r\n"])
    for number, version in enumerate((b"1.2", b"2.0", b"0.9", b"1.1 x")):
        heads[f"head-version-{number}"] = join(
            [b"\0", b"GET / HTTP/%s\r\nHost: x\r\n\r\n" % version]
        )
    upgrades = (
        b"Upgrade: taplink/1",
        b"Connection: Upgrade",
        b"Upgrade: a, Taplink/1\r\nConnection: x,upgrade",
    )
    for number, fields in enumerate((*upgrades, b"Upgrade: taplink/2\r\nConnection: upgrade")):
        heads[f"head-upgrade-{number}"] = join([b"\0", connect + fields + b"\r\n\r\n"])
    status = b"HTTP/1.1 %s\r\n%s\r\n"
    upgrade = b"Connection: Upgrade\r\nUpgrade: taplink/1\r\nTaplink-Offload: csum\r\n"
    odd = [
        status % (code, upgrade)
        for code in (b"100 C", b"200 OK", b"102 P", b"103 E", b"404 N", b"401 U")
    ]
    odd += [
        status % (b"101 S", fields) for fields in (b"", upgrade.replace(b"/1", b"/2"), upgrade[21:])
    ]
    odd += [status % (b"101 S", upgrade.replace(b"csum", b"csum,uso4,uso6,ecn"))]
    odd += [
        odd[-1][:40],
        b"HTTP/1.1",
        b"HTTP/2 101 S\r\n\r\n",
        b"sorry\nno\n",
        b"\x2a\0sorry\n",
        b"",
    ]
    odd += [status % (b"101 S", upgrade + b"X: %s\r\n" % (b"x" * MAX_HEAD))]
    for number, piece in enumerate(odd):
        heads[f"answer-{number}"] = join([b"\1", piece])
    heads |= {
        f"tunnel-{number}": join([b"\0", f"POST {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode()])
        for number, target in enumerate(tunnels)
    }
    assert all(isinstance(_head([one]), tuple) for one in (chunk[0], tunnel))
    assert _answer([agreed])[0] == TAPLINK.name
    assert _answer([b"\x2a\0" + bytes(42)])[0] == HYPERKIT.name
    return heads | {
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
