"""A profile of the event loop, and who gets none."""

import asyncio
import marshal
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gvproxy.api import app
from gvproxy.api.profiler import Profiler
from gvproxy.ports.access import Access

from .test_app import Backend

Client = TestClient[web.Request, web.Application]
PATH = "/debug/profile"


def serve(scenario: Callable[[Client], Awaitable[None]], profiler: Profiler | None = None) -> None:
    async def run() -> None:
        made = Backend()
        async with TestClient(TestServer(app.make_app(made, Access(), profiler))) as client:
            await scenario(client)
        await made.forwarder.close()

    asyncio.run(run())


def busy_with_me() -> int:
    return sum(range(1000))


async def work(seconds: float) -> None:
    """Take the place of waiting, so that there is something to see."""
    for _ in range(int(seconds)):
        busy_with_me()
        await asyncio.sleep(0)


async def answer(client: Client, query: str = "") -> tuple[int, str]:
    async with client.get(f"{PATH}{query}") as response:
        assert response.content_type == "text/plain"
        return response.status, await response.text()


def test_a_table_of_what_took_time() -> None:
    async def scenario(client: Client) -> None:
        status, text = await answer(client, "?seconds=7")
        assert status == 200
        assert "Ordered by: internal time" in text
        (row,) = [line for line in text.splitlines() if "busy_with_me" in line]
        assert row.split()[0] == "7"

    serve(scenario, Profiler(work))


def test_what_pstats_reads() -> None:
    async def scenario(client: Client) -> None:
        async with client.get(f"{PATH}?format=pstats") as response:
            assert (response.status, response.content_type) == (200, "application/octet-stream")
            stats = marshal.loads(await response.read())
        assert "busy_with_me" in {name for _, _, name in stats}

    serve(scenario, Profiler(work))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?seconds=0", "seconds must be from 1 to 60\n"),
        ("?seconds=61", "seconds must be from 1 to 60\n"),
        ("?seconds=", "seconds must be from 1 to 60\n"),
        ("?seconds=-1", "seconds must be from 1 to 60\n"),
        ("?seconds=1e1", "seconds must be from 1 to 60\n"),
        ("?seconds=²", "seconds must be from 1 to 60\n"),
        ("?format=svg", "format must be text or pstats\n"),
    ],
)
def test_refusals(query: str, said: str) -> None:
    async def scenario(client: Client) -> None:
        assert await answer(client, query) == (400, said)

    serve(scenario, Profiler(work))


def test_one_at_a_time() -> None:
    release = asyncio.Event()
    waits = asyncio.Event()

    async def wait(seconds: float) -> None:
        waits.set()
        await release.wait()

    async def scenario(client: Client) -> None:
        first = asyncio.create_task(answer(client))
        await waits.wait()
        assert await answer(client) == (409, "another profile is being made\n")
        release.set()
        assert (await first)[0] == 200
        assert (await answer(client))[0] == 200

    serve(scenario, Profiler(wait))


def test_other_methods() -> None:
    async def scenario(client: Client) -> None:
        async with client.post(PATH) as response:
            assert (response.status, await response.text()) == (400, "get only\n")

    serve(scenario, Profiler(work))


def test_without_debug_there_is_none() -> None:
    async def scenario(client: Client) -> None:
        assert await answer(client) == (404, "404: Not Found\n")

    serve(scenario)
