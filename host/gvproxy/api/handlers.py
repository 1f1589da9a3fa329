"""What handlers and middlewares share: how a call is refused."""

import asyncio
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler

from gvproxy.ports.access import Access, Refusal
from gvproxy.stack.port import Port
from taplink.text import one_line

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

log = logging.getLogger(__name__)


ASKED: ContextVar[str] = ContextVar("ASKED", default="")
"""What a request's body asks for, for the log."""


def refused(request: web.Request, status: int, text: str) -> web.Response:
    """Answer with an error, of which the log has a line at the level DEBUG."""
    log.debug("%s %s: %s", request.method, one_line(request.path), one_line(text))
    return error(status, text)


def error(status: int, text: str) -> web.Response:
    """Make an error's response: a line of text."""
    return web.Response(status=status, text=f"{one_line(text)}\n")


def turned_away(request: web.Request, refusal: Refusal) -> web.Response:
    """Answer who may not call, and end the connection."""
    response = refused(request, refusal.status, refusal.text)
    response.headers.update(refusal.headers)
    response.force_close()
    return response


def headers(request: web.Request) -> Mapping[str, str]:
    """Return a request's headers as `Access` takes them."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        key = name.lower()
        found[key] = f"{found[key]}, {value}" if key in found else value
    return found


def behind(request: web.Request) -> Port | None:
    """Return the switch's port that a guest calls from; None for others."""
    transport = request.transport
    found: Port | None = transport.get_extra_info("guest") if transport is not None else None
    return found


def guard(access: Access) -> "Middleware":
    """Make what asks of each request whether it may be: a connection may have several."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the caller has gone")
        family = transport.get_extra_info("socket").family
        refusal = access.refusal(family, headers(request))
        if refusal is None:
            return await handler(request)
        access.complain(asyncio.get_running_loop().time(), request.remote or "", refusal)
        return turned_away(request, refusal)

    return guarded
