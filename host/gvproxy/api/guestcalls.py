"""The guests' API as a guest's web pages and users see it: who may call, and what is said of it.

A page in a guest's browser can have its own name lead to the gateway (DNS rebinding), or send what
it may not read the answer of.  So a call names the gateway by its address, or by a name that is
ours, and comes from no page.
"""

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler

from gvproxy.api.handlers import ASKED, behind, headers, turned_away
from gvproxy.complaint import Complaint
from gvproxy.ports.access import Refusal, foreign_origin, host_name
from taplink.text import one_line

log = logging.getLogger(__name__)

BURST = 20
"""Calls of one guest that are logged in a minute."""
MAX_GUESTS = 256
"""Guests whose calls are counted, by their ports: a guest may have any number of addresses."""
MAX_TEXT = 200
"""Characters of a guest's in a line of the log."""

_OTHER_HOST = Refusal(HTTPStatus.MISDIRECTED_REQUEST, "call the gateway by its address")


class GuestCalls:
    """Guards and logs the calls of one network's guests."""

    def __init__(self, loop: AbstractEventLoop, is_gateway: Callable[[str], bool]) -> None:
        """`is_gateway` tells whether a name, or an address, is the gateway's."""
        self._loop = loop
        self._is_gateway = is_gateway
        self._logs: dict[object, Complaint] = {}

    def serve(self, app: web.Application) -> None:
        """Be told of the requests of an application, before all that is there already."""
        app.middlewares.insert(0, self._answer)

    @web.middleware
    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        ASKED.set("")
        refusal = self._refusal(request)
        response = turned_away(request, refusal) if refusal else await handler(request)
        what = *map(_shown, (request.method, request.path, ASKED.get())), response.status
        text = "the guest %s calls %s %s%s: %d"
        self._log(behind(request) or request.remote).make(
            self._loop.time(), text, request.remote, *what
        )
        return response

    def _refusal(self, request: web.Request) -> Refusal | None:
        given = headers(request)
        if "origin" in given:
            return foreign_origin()
        host = given.get("host", "")
        return None if not host or self._is_gateway(host_name(host)) else _OTHER_HOST

    def _log(self, guest: object) -> Complaint:
        """Return what counts the lines of a guest; of very many the first is forgotten."""
        if guest not in self._logs:
            if len(self._logs) >= MAX_GUESTS:
                del self._logs[next(iter(self._logs))]
            self._logs[guest] = Complaint(log, logging.INFO, BURST)
        return self._logs[guest]


def _shown(text: str) -> str:
    line = one_line(text[:MAX_TEXT])
    return f"{line}…" if len(text) > MAX_TEXT else line
