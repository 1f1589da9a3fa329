"""GET /debug/profile?seconds=5: what the event loop's thread does meanwhile, by cProfile.

The whole daemon is that thread.  It is slower for as long; by how much is most of what small
functions seem to cost.
"""

import asyncio
import cProfile
import io
import marshal
import pstats
import re
from collections.abc import Awaitable, Callable

from aiohttp import web

DEFAULT_SECONDS = 5
MAX_SECONDS = 60
ROWS = 60
_NUMBER = re.compile("[0-9]{1,3}")

Sleep = Callable[[float], Awaitable[object]]


class Profiler:
    """Profiles one caller's time after another's."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        self._sleep = sleep
        self._busy = False

    async def handle(self, request: web.Request) -> web.Response:
        """Answer with a table, or with what `python -m pstats` and snakeviz read."""
        if request.method != "GET":
            raise web.HTTPBadRequest(text="get only")
        seconds = request.query.get("seconds", str(DEFAULT_SECONDS))
        if not _NUMBER.fullmatch(seconds) or not 1 <= int(seconds) <= MAX_SECONDS:
            raise web.HTTPBadRequest(text=f"seconds must be from 1 to {MAX_SECONDS}")
        kind = request.query.get("format", "text")
        if kind not in ("text", "pstats"):
            raise web.HTTPBadRequest(text="format must be text or pstats")
        if self._busy:
            raise web.HTTPConflict(text="another profile is being made")
        profile = await self._profile(int(seconds))
        if kind == "text":
            return web.Response(text=_table(profile))
        profile.create_stats()
        data = marshal.dumps(profile.stats)
        return web.Response(body=data, content_type="application/octet-stream")

    async def _profile(self, seconds: int) -> cProfile.Profile:
        self._busy = True
        profile = cProfile.Profile()
        try:
            profile.enable()
            await self._sleep(seconds)
        finally:
            profile.disable()
            self._busy = False
        return profile


def _table(profile: cProfile.Profile) -> str:
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(ROWS)
    return text.getvalue()
