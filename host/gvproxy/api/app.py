"""The HTTP API as aiohttp applications: handlers only, everything else is the backend's.

There are two of them, the host's and the smaller one that guests find at the gateway.

Bodies are as Go's gvproxy has them: JSON in one line, errors as plain text, an empty 200 for what
was done.  `openapi.json` describes each call.  `_STATUS` is the one place where an error becomes a
status.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import cache
from importlib import resources
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from gvproxy.api.handlers import ASKED, behind, error, guard, refused
from gvproxy.api.profiler import Profiler
from gvproxy.api.stats import Tree
from gvproxy.api.turns import Turns
from gvproxy.errors import (
    OUT_OF_RESOURCES,
    AlreadyExposedError,
    BadLocalError,
    BadPortError,
    BadRemoteError,
    BadZoneError,
    ForbiddenError,
    GvproxyError,
    ListenError,
    NotExposedError,
    NotSupportedError,
    UnknownProtocolError,
)
from gvproxy.ports.access import Access
from gvproxy.services import zonejson
from gvproxy.services.forwarder import Forwarder
from gvproxy.services.forwards import public
from gvproxy.services.zones import Zones
from taplink.text import reason, without_bytes

log = logging.getLogger(__name__)

MAX_BODY = 64 * 1024
"""Bytes; the longest sensible body, a zone of names, is a tenth of it."""
BODY_TIMEOUT = 10.0
"""Seconds for all of it, as for a head in `gvproxy.ports.lobby`."""

_NO_TURN = nullcontext()

# As Go's gvproxy answers them, where it knows the error.
_STATUS: dict[type[GvproxyError], int] = {
    AlreadyExposedError: 500,
    NotExposedError: 500,
    UnknownProtocolError: 500,
    BadPortError: 500,
    ListenError: 500,
    ForbiddenError: 403,
    BadLocalError: 400,
    BadRemoteError: 400,
    BadZoneError: 400,
    NotSupportedError: 501,
}


class Backend(Protocol):
    """What the API shows and does."""

    @property
    def forwarder(self) -> Forwarder:
        """The published ports."""

    @property
    def zones(self) -> Zones:
        """The names that are answered here."""

    def stats(self) -> Tree:
        """Return the counters."""

    def cam(self) -> Mapping[str, int]:
        """Return MAC address → number of the port it is behind."""

    def ports(self) -> list[dict[str, object]]:
        """Return what there is to say of each attached guest."""

    def leases(self) -> Mapping[str, str]:
        """Return IP → MAC address."""


def make_runner(app: web.Application) -> web.AppRunner:
    """Make what serves an application, without a listener: others give it connections."""
    return web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # who has hung up will not see what was done
        access_log=None,
        shutdown_timeout=1.0,
        logger=_ServerLog(logging.getLogger("aiohttp.server"), None),
    )


class _ServerLog(logging.LoggerAdapter[logging.Logger]):
    """The log of aiohttp's server, to which a request it refuses is an error with a traceback."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        error = kwargs.get("exc_info")
        if isinstance(error, (HttpProcessingError, web.RequestPayloadError, ConnectionError)):
            reason = " ".join(str(error).split())
            super().log(logging.DEBUG, "a request was refused: %s", without_bytes(reason))
        else:
            super().log(level, msg, *args, **kwargs)


def make_app(backend: Backend, access: Access, profiler: Profiler | None = None) -> web.Application:
    """Build the host's application; it serves any number of listeners."""
    app = make_guest_app(backend.forwarder)
    app.middlewares.insert(0, guard(access))
    shown: dict[str, Callable[[], object]] = {
        "/stats": backend.stats,
        "/cam": backend.cam,
        "/ports": backend.ports,
        "/leases": backend.leases,
        "/services/dhcp/leases": backend.leases,
        "/services/dns/all": lambda: [zonejson.encode(one) for one in backend.zones.all()],
        "/openapi.json": _description,
    }
    for path, show in shown.items():
        app.router.add_route("*", path, _get(show))

    async def add_zone(request: web.Request) -> web.Response:
        backend.zones.add(zonejson.decode(await _body(request)))
        return web.Response()

    app.router.add_route("*", "/services/dns/add", add_zone, expect_handler=_expected)
    app.router.add_route("*", "/tunnel", _tunnel)
    if profiler is not None:
        app.router.add_route("*", "/debug/profile", profiler.handle)
    return app


def make_guest_app(forwarder: Forwarder, turns: Turns | None = None) -> web.Application:
    """Build the guests' application: a guest publishes its ports itself, and sees no more.

    Who calls is what its connection says, not a header.  With `turns` calls wait for theirs.
    """
    turn = turns or _NO_TURN
    app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY)

    async def expose(request: web.Request) -> web.Response:
        body = await _body(request)
        local, remote, protocol = (_text(body, key) for key in ("local", "remote", "protocol"))
        ASKED.set(f" {protocol or 'tcp'} {public(local)} to {public(remote)}")
        async with turn:
            await forwarder.expose(
                local, remote, protocol or "tcp", request.remote or None, behind(request)
            )
        return web.Response()

    async def unexpose(request: web.Request) -> web.Response:
        body = await _body(request)
        local, protocol = (_text(body, key) for key in ("local", "protocol"))
        ASKED.set(f" {protocol or 'tcp'} {public(local)}")
        async with turn:
            await forwarder.unexpose(local, protocol or "tcp", request.remote or None)
        return web.Response()

    app.router.add_route("*", "/services/forwarder/all", _get(forwarder.all, turn))
    app.router.add_route("*", "/services/forwarder/expose", expose, expect_handler=_expected)
    app.router.add_route("*", "/services/forwarder/unexpose", unexpose, expect_handler=_expected)
    return app


async def _tunnel(request: web.Request) -> web.Response:
    """Refuse; a tunnel takes its connection before it is HTTP's (`gvproxy.api.tunnel`)."""
    only = "post only" if request.method != "POST" else "only as a connection's first request"
    raise web.HTTPBadRequest(text=only)


@cache
def _description() -> object:
    """Return the description of the API, an OpenAPI document."""
    return json.loads(resources.files("gvproxy.api").joinpath("openapi.json").read_text("utf-8"))


def _get(show: Callable[[], object], turn: AbstractAsyncContextManager[None] = _NO_TURN) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPBadRequest(text="get only")
        async with turn:
            text = json.dumps(show(), separators=(",", ":"))
        return web.Response(text=f"{text}\n", content_type="application/json")

    return handler


async def _expected(request: web.Request) -> web.Response | None:
    """Answer `Expect: 100-continue`; what is too large need not come (RFC 9110 §10.1.1)."""
    if request.headers["Expect"].lower() != "100-continue":
        return refused(request, 417, "only 100-continue can be expected")
    if (request.content_length or 0) > MAX_BODY:
        return refused(request, 413, f"Maximum request body size {MAX_BODY} exceeded.")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return None


async def _body(request: web.Request) -> dict[str, object]:
    """Read the JSON object a POST brings, keys in lower case: Go's decoder ignores case."""
    if request.method != "POST":
        raise web.HTTPBadRequest(text="post only")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            data = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="the body does not come") from None
    except (web.RequestPayloadError, ConnectionError, RuntimeError):
        # Its encoding is broken, or its end never came; aiohttp has a RuntimeError for the latter.
        raise web.HTTPBadRequest(text="the body cannot be read") from None
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is not a JSON object")
    return {key.lower(): value for key, value in body.items()}


def _text(body: dict[str, object], key: str) -> str:
    """Return a member that is text; empty when it is missing."""
    value = body.get(key, "")
    if not isinstance(value, str):
        raise web.HTTPBadRequest(text=f"{key} is not a string")
    return value


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except GvproxyError as problem:
        return refused(request, _STATUS[type(problem)], str(problem))
    except web.HTTPException as problem:
        return refused(request, problem.status, problem.text or problem.reason)
    except Exception as problem:
        if isinstance(problem, OSError) and problem.errno in OUT_OF_RESOURCES:
            return refused(request, 503, reason(problem))
        log.exception("%s %s failed", request.method, request.path)
        return error(500, "internal error")
