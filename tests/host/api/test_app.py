"""The HTTP API over a loopback connection: status, body and effect of each call."""

import asyncio
import inspect
import json
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gvproxy import errors
from gvproxy.api import app
from gvproxy.api.callers import Callers
from gvproxy.api.stats import Tree
from gvproxy.ports.access import Access
from gvproxy.services.zones import Zones
from tests.host.forwarding import make_forwarder

EXPOSE, UNEXPOSE = "/services/forwarder/expose", "/services/forwarder/unexpose"
ALL = "/services/forwarder/all"


class Backend:
    """Shows fixed things, and publishes ports that lead nowhere."""

    def __init__(self) -> None:
        self.forwarder = make_forwarder(asyncio.get_running_loop(), lambda sock, *_: sock.close())
        self.zones = Zones([])

    def stats(self) -> Tree:
        return {"BytesSent": 1, "TCP": {"Retransmits": 2}}

    def cam(self) -> dict[str, int]:
        return {"5a:94:ef:e4:0c:ee": 0}

    def ports(self) -> list[dict[str, object]]:
        return [{"port": 0, "dialect": "taplink/1"}]

    def leases(self) -> dict[str, str]:
        return {"192.168.127.1": "5a:94:ef:e4:0c:dd", "192.168.127.2": "5a:94:ef:e4:0c:ee"}


class Api:
    """A client of the API, its answers as (status, text)."""

    def __init__(self, client: TestClient[web.Request, web.Application]) -> None:
        self._client = client

    async def call(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        data = {"data": body} if isinstance(body, (bytes, str)) else {"json": body}
        async with self._client.request(method, path, **data) as response:
            text = await response.text()
            if text:
                json = text[0] in "{["
                assert response.content_type == ("application/json" if json else "text/plain")
            return response.status, text

    async def post(self, path: str, **body: object) -> tuple[int, str]:
        return await self.call("POST", path, body)


def serve(scenario: Callable[[Api], Awaitable[None]], backend: type[Backend] = Backend) -> None:
    async def run() -> None:
        made = backend()
        async with TestClient(TestServer(app.make_app(made, Access()))) as client:
            await scenario(Api(client))
        await made.forwarder.close()

    asyncio.run(run())


@pytest.fixture
def port() -> int:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as sock:
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/stats", '{"BytesSent":1,"TCP":{"Retransmits":2}}\n'),
        ("/ports", '[{"port":0,"dialect":"taplink/1"}]\n'),
        ("/cam", '{"5a:94:ef:e4:0c:ee":0}\n'),
        (
            "/leases",
            '{"192.168.127.1":"5a:94:ef:e4:0c:dd","192.168.127.2":"5a:94:ef:e4:0c:ee"}\n',
        ),
        (
            "/services/dhcp/leases",
            '{"192.168.127.1":"5a:94:ef:e4:0c:dd","192.168.127.2":"5a:94:ef:e4:0c:ee"}\n',
        ),
        (ALL, "[]\n"),
    ],
)
def test_what_is_shown(path: str, text: str) -> None:
    async def scenario(api: Api) -> None:
        assert await api.call("GET", path) == (200, text)
        assert await api.call("HEAD", path) == (200, "")
        assert await api.call("POST", path) == (400, "get only\n")

    serve(scenario)


def test_a_port_is_published_and_taken_back(port: int) -> None:
    async def scenario(api: Api) -> None:
        local = f":{port}"
        assert await api.post(EXPOSE, local=local, remote="192.168.127.2:80") == (200, "")
        assert await api.call("GET", ALL) == (
            200,
            f'[{{"local":":{port}","remote":"192.168.127.2:80","protocol":"tcp"}}]\n',
        )
        assert await api.post(EXPOSE, local=local, remote="192.168.127.2:81", protocol="tcp") == (
            500,
            f"proxy already running for tcp on :{port}\n",
        )
        assert await api.post(UNEXPOSE, local=local, protocol="tcp") == (200, "")
        assert await api.post(UNEXPOSE, local=local) == (500, "proxy not found\n")
        assert await api.call("GET", ALL) == (200, "[]\n")

    serve(scenario)


def test_keys_in_any_case_and_unknown_ones(port: int) -> None:
    async def scenario(api: Api) -> None:
        body = {"Local": f":{port}", "REMOTE": "192.168.127.2:80", "Protocol": "", "more": [1]}
        assert await api.call("POST", EXPOSE, body) == (200, "")
        assert await api.call("POST", UNEXPOSE, {"LOCAL": f":{port}"}) == (200, "")

    serve(scenario)


def test_the_caller_is_whoever_calls(port: int) -> None:
    async def scenario(api: Api) -> None:
        assert await api.post(EXPOSE, local=f":{port}", remote=":80") == (
            400,
            "remote 127.0.0.1 is not in the virtual network 192.168.127.0/24\n",
        )

    serve(scenario)


ADD, ZONES = "/services/dns/add", "/services/dns/all"


def test_zones_are_added_and_shown() -> None:
    async def scenario(api: Api) -> None:
        assert await api.call("GET", ZONES) == (200, "[]\n")
        records = [
            {"Name": "a", "IP": "192.168.127.9"},
            {"Name": "", "IP": "192.168.127.8", "Regexp": "x-.*"},
        ]
        body = {"Name": "t.internal.", "Records": records, "DefaultIP": "192.168.127.7"}
        assert await api.call("POST", ADD, body) == (200, "")
        assert await api.call("GET", ZONES) == (
            200,
            '[{"Name":"t.internal.","Records":[{"Name":"a","IP":"192.168.127.9"},'
            '{"Name":"","IP":"192.168.127.8","Regexp":"x-.*"}],"DefaultIP":"192.168.127.7"}]\n',
        )
        # Keys and names in any case, a name without its dot, an address of either family.
        more = [{"NAME": "b", "Ip": "fd00::1"}]
        body = {"NAME": "T.Internal", "records": more, "x": None}
        assert await api.call("POST", ADD, body) == (200, "")
        assert await api.post(ADD, name="u.", records=None) == (200, "")
        _, text = await api.call("GET", ZONES)
        assert json.loads(text) == [
            {
                "Name": "T.Internal.",
                "Records": [{"Name": "b", "IP": "fd00::1"}, *records],
                "DefaultIP": "",
            },
            {"Name": "u.", "Records": [], "DefaultIP": ""},
        ]

    serve(scenario)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "a zone needs a name"),
        ({"Name": "."}, "a zone needs a name"),
        ({"Name": 1}, "name is no text"),
        ({"Name": "a..b"}, "'a..b' is no name of DNS"),
        ({"Name": "a" * 64}, f"'{'a' * 64}' is no name of DNS"),
        ({"Name": "a." * 127 + "bc"}, "is no name of DNS"),
        ({"Name": ".".join(["é" * 31] * 5)}, "is no name of DNS"),
        (
            {"Name": ".".join(["z" * 63] * 3), "Records": [{"Name": "n" * 62, "IP": "1.1.1.1"}]},
            "is no name of DNS",
        ),
        ({"Name": "\ud800"}, "ud800' is no name of DNS"),
        ({"Name": "a", "Records": "b"}, "records is no list"),
        ({"Name": "a", "Records": [1]}, "a record is no JSON object"),
        ({"Name": "a", "Records": [{"IP": "1.1.1.1"}]}, "a record needs a name or a regexp"),
        ({"Name": "a", "Records": [{"Name": "b"}]}, "'' is no IP address"),
        ({"Name": "a", "Records": [{"Name": "b", "IP": "1.1.1"}]}, "'1.1.1' is no IP address"),
        (
            {"Name": "a", "Records": [{"Regexp": "(", "IP": "1.1.1.1"}]},
            "'(' is no regular expression: missing )",
        ),
        *(
            ({"Name": "a", "Records": [{"Regexp": pattern, "IP": "1.1.1.1"}]}, said)
            for pattern, said in (
                ("a{99999999999999}", "is no regular expression: the repetition number is too"),
                (f"a{{{'9' * 5000}}}", "is no regular expression: Exceeds the limit"),
                ("(?a)(?u)", "is no regular expression: "),
                ("(" * 3000 + ")" * 3000, "is no regular expression: it has more than 100 groups"),
                ("(" * 101 + ")" * 101, "is no regular expression: it has more than 100 groups"),
            )
        ),
        ({"Name": "a", "DefaultIP": "host"}, "'host' is no IP address"),
    ],
)
def test_zones_that_are_none(body: dict[str, object], said: str) -> None:
    async def scenario(api: Api) -> None:
        status, text = await api.call("POST", ADD, body)
        assert (status, text.count("\n")) == (400, 1)
        assert said in text
        assert await api.call("GET", ZONES) == (200, "[]\n")

    serve(scenario)


@pytest.mark.parametrize("path", [EXPOSE, UNEXPOSE, ADD, "/tunnel?ip=192.168.127.2&port=22"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_post_only(path: str, method: str) -> None:
    async def scenario(api: Api) -> None:
        assert await api.call(method, path) == (400, "post only\n")

    serve(scenario)


def test_a_tunnel_behind_another_request() -> None:
    async def scenario(api: Api) -> None:
        said = "only as a connection's first request\n"
        assert await api.call("POST", "/tunnel?ip=192.168.127.2&port=22") == (400, said)

    serve(scenario)


@pytest.mark.parametrize("path", [EXPOSE, UNEXPOSE])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b'{"local":":1"} trailing', "the body is not JSON"),
        (b"\xff\xfe\xfd", "the body is not JSON"),
        (b"[" * 60_000, "the body is not JSON"),
        (b"[]", "the body is not a JSON object"),
        (b"null", "the body is not a JSON object"),
        (b'"text"', "the body is not a JSON object"),
        (b'{"local":1}', "local is not a string"),
        (b'{"protocol":null}', "protocol is not a string"),
    ],
)
def test_bodies_that_cannot_be_used(
    path: str, body: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")

    async def scenario(api: Api) -> None:
        status, text = await api.call("POST", path, body)
        assert status == 400
        assert text.startswith(said)
        assert text.count("\n") == 1
        assert caplog.messages == [f"POST {path}: {text[:-1]}"]

    serve(scenario)


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 400, "local is missing\n"),
        ({"remote": "192.168.127.2"}, 400, "remote '192.168.127.2' has no port\n"),
        ({"remote": "guest.example:80"}, 400, "remote guest.example has no IPv4 address that"),
        ({"remote": "10.0.0.1:80"}, 400, "remote 10.0.0.1 is not in the virtual network"),
        ({"remote": "192.168.127.255:80"}, 400, "remote 192.168.127.255 is no address of a guest"),
        ({"remote": "192.168.127.2:0"}, 500, "port '0' is not a number from 1 to 65535\n"),
        ({"local": "18077"}, 400, "local '18077' has no port\n"),
        ({"local": ":x"}, 500, "port 'x' is not a number from 1 to 65535\n"),
        ({"local": "192.0.2.1:80"}, 500, "cannot listen on 192.0.2.1:80: "),
        ({"protocol": "sctp"}, 500, "unknown protocol sctp\n"),
        ({"protocol": "npipe", "remote": "tcp://192.168.127.2:1"}, 501, "protocol npipe needs a"),
        ({"local": "a\nb\0:80"}, 500, "cannot listen on 'a\\nb\\x00:80': "),
        ({"local": "[::1%\0]:8080"}, 500, "cannot listen on '[::1%\\x00]:8080': it is no IP"),
        ({"local": "[::1%\ud800]:8080"}, 500, "cannot listen on '[::1%\\ud800]:8080': it is no IP"),
        ({"local": "[::1%none]:8080"}, 500, "cannot listen on [::1%none]:8080: there is no such"),
        ({"local": "\ud800:8080"}, 500, "cannot listen on '\\ud800:8080': it is no IP"),
        (
            {"protocol": "unix", "local": "/tmp/\ud800", "remote": "tcp://192.168.127.2:80"},
            400,
            "local '/tmp/\\ud800' is no absolute path of a unix socket",
        ),
        (
            {"protocol": "unix", "local": "/tmp/s", "remote": "tcp://192.168.127.2\ud800:80"},
            400,
            "remote 'tcp://192.168.127.2\\ud800:80' is no URL",
        ),
        ({"remote": "\ud800:80"}, 400, "remote '\\ud800' is no IPv4 address"),
        ({"protocol": "\ud800\r\nX: y"}, 500, "unknown protocol \\ud800\\r\\nX: y\n"),
    ],
)
def test_refusals(
    port: int, body: dict[str, str], status: int, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "gvproxy")

    async def scenario(api: Api) -> None:
        base = {"local": f":{port}", "remote": "192.168.127.2:80"} if body else {}
        answered, said = await api.call("POST", EXPOSE, base | body)
        assert (answered, said[: len(text)]) == (status, text)
        assert said.count("\n") == 1
        assert caplog.messages == [f"POST {EXPOSE}: {said[:-1]}"]

    serve(scenario)


@pytest.mark.parametrize("size", [65 * 1024, 10 * 1024 * 1024])
def test_a_body_that_is_too_large(size: int) -> None:
    async def scenario(api: Api) -> None:
        status, text = await api.call("POST", EXPOSE, b" " * size)
        assert status == 413
        assert text.startswith("Maximum request body size 65536 exceeded")

    serve(scenario)


@pytest.mark.parametrize("path", ["/", "/nothing", "/stats/", "/services", "/services/dns/all/x"])
def test_other_paths(path: str) -> None:
    async def scenario(api: Api) -> None:
        assert await api.call("GET", path) == (404, "404: Not Found\n")

    serve(scenario)


HEAD = b"POST /services/forwarder/expose HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def get(target: bytes = b"/cam", headers: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"


REFUSED = {
    "gzip": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\njunk",
    "deflate": HEAD + b"Content-Encoding: deflate\r\nContent-Length: 2\r\n\r\n\xff\xff",
    "chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "chunk end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}zz\r\n0\r\n",
    "chunks with a length": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "length": HEAD + b"Content-Length: 18446744073709551616\r\n\r\n{}",
    "two lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "no slash": get(b"cam"),
    "only a query": get(b"?x"),
    "host": get(b"http://[x/cam"),
    "port": get(b"http://x:99999999/cam"),
    "long target": get(b"/" + b"a" * 9000),
    "long header": get(headers=b"X: " + b"a" * 9000 + b"\r\n"),
    "many headers": get(headers=b"a:b\r\n" * 2500),
    "folded header": get(headers=b"X: a\r\n b\r\n"),
    "control character": get(headers=b"Cookie: \x01\r\n"),
    "method": get().replace(b"GET", b"FOO"),
    "line feeds": get().replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_request_is_refused_in_silence(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """aiohttp's own log has a traceback for each of them."""
    with caplog.at_level(logging.DEBUG):
        assert asyncio.run(exchange(REFUSED[name])) == [400]
    assert "Traceback" not in caplog.text
    assert max(record.levelno for record in caplog.records) == logging.DEBUG


def test_what_follows_a_declined_upgrade_is_refused_as_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upgrade = get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    assert asyncio.run(exchange(upgrade + b"junk\0\0")) == [200, 400]
    assert "Traceback" not in caplog.text


def test_a_caller_that_goes_before_its_body_is_complete(caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(exchange(HEAD + b"Content-Length: 9\r\n\r\n{}", leave=True)) == []
    assert caplog.text == ""


def test_a_caller_that_goes_before_it_may_go_on(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(exchange(HEAD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n", leave=True))
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("headers", "statuses"),
    [
        (b"Expect: 100-continue\r\nContent-Length: 2\r\n", [100, 400]),
        (b"Expect: 100-Continue\r\nContent-Length: 65537\r\n", [413]),
        (b"Expect: more\r\nContent-Length: 2\r\n", [417]),
    ],
)
@pytest.mark.parametrize("path", [EXPOSE, UNEXPOSE, ADD])
def test_what_is_expected(path: str, headers: bytes, statuses: list[int]) -> None:
    """A body that is too large is not asked for."""
    head = HEAD.replace(EXPOSE.encode(), path.encode()) + headers
    assert asyncio.run(exchange(head + b"\r\n[]")) == statuses


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (get(b"/none", b"Connection: close\r\n"), ["GET /none: 404: Not Found"]),
        (HEAD + b"Content-Length: 2\r\n\r\n[]", [f"POST {EXPOSE}: the body is not a JSON object"]),
        (get(headers=b"Connection: close\r\n"), []),
    ],
)
def test_a_refused_call_is_one_line_of_the_log(
    request_: bytes, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        asyncio.run(exchange(request_))
    ours = [record for record in caplog.records if record.name != "asyncio"]
    assert [record.getMessage() for record in ours] == said


async def exchange(request: bytes, *, leave: bool = False) -> list[int]:
    """Send bytes to the API as the daemon serves it; return the statuses of all answers."""
    made = Backend()
    runner = app.make_runner(app.make_app(made, Access()))
    await runner.setup()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    callers = Callers(asyncio.get_running_loop(), 1)
    assert runner.server is not None
    callers.adopt(runner.server, theirs, request)
    reader, writer = await asyncio.open_connection(sock=ours)
    if leave:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await runner.cleanup()
    await made.forwarder.close()
    return [int(line.split()[1]) for line in answer.splitlines() if line.startswith(b"HTTP/1.")]


def test_our_own_mistakes_stay_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Backend):
        def cam(self) -> dict[str, int]:
            raise ZeroDivisionError("secret")

    async def scenario(api: Api) -> None:
        assert await api.call("GET", "/cam") == (500, "internal error\n")

    with caplog.at_level(logging.ERROR):
        serve(scenario, Broken)
    assert "GET /cam failed" in caplog.text
    assert "secret" in caplog.text


def test_each_error_of_the_forwarder_has_a_status() -> None:
    raised = {
        error
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, (errors.ForwarderError, errors.BadZoneError))
        and error is not errors.ForwarderError
    }
    assert raised == app._STATUS.keys()


class Published:
    """A forwarder that notes who calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def expose(self, *arguments: object) -> None:
        self.calls.append(arguments)

    async def unexpose(self, *arguments: object) -> None:
        self.calls.append(arguments)

    def all(self) -> list[dict[str, str]]:
        return [{"local": ":1", "remote": "192.168.127.2:1", "protocol": "tcp"}]


def serve_guests(scenario: Callable[[Api, Published], Awaitable[None]]) -> None:
    async def run() -> None:
        published = Published()
        served = app.make_guest_app(published)  # type: ignore[arg-type]
        async with TestClient(TestServer(served)) as client:
            await scenario(Api(client), published)

    asyncio.run(run())


def test_guests_have_the_forwarder() -> None:
    async def scenario(api: Api, published: Published) -> None:
        shown = '[{"local":":1","remote":"192.168.127.2:1","protocol":"tcp"}]\n'
        assert await api.call("GET", ALL) == (200, shown)
        assert await api.post(EXPOSE, local=":1", remote=":2") == (200, "")
        assert await api.post(UNEXPOSE, local=":1") == (200, "")
        assert await api.call("GET", EXPOSE) == (400, "post only\n")
        assert [call[:2] for call in published.calls] == [(":1", ":2"), (":1", "tcp")]

    serve_guests(scenario)


@pytest.mark.parametrize(
    "path", ["/", "/stats", "/cam", "/leases", "/services/dhcp/leases", "/tunnel", "/connect"]
)
def test_guests_have_nothing_else(path: str) -> None:
    async def scenario(api: Api, published: Published) -> None:
        for method in ("GET", "POST"):
            assert await api.call(method, path) == (404, "404: Not Found\n")

    serve_guests(scenario)


def test_a_guest_is_who_its_connection_says() -> None:
    async def run() -> None:
        published = Published()
        server = TestServer(app.make_guest_app(published))  # type: ignore[arg-type]
        headers = {"X-Forwarded-For": "192.168.127.9", "Forwarded": "for=192.168.127.9"}
        async with TestClient(server, headers=headers) as client:
            await client.post(EXPOSE, json={"local": ":1", "remote": ":2"})
        assert published.calls == [(":1", ":2", "tcp", "127.0.0.1", None)]

    asyncio.run(run())
