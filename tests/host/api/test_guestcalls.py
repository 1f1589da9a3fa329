"""The guests' API, called by web pages in a guest, and what the log says of all calls."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from gvproxy.api import app, guestcalls
from gvproxy.api.guestcalls import GuestCalls
from gvproxy.errors import ForbiddenError

from .test_app import ALL, EXPOSE, UNEXPOSE, Published

GATEWAY = "192.168.127.1"
NAMES = {GATEWAY, "gateway.containers.internal", "_gateway"}
Client = TestClient[web.Request, web.Application]
Scenario = Callable[[Client, Published], Awaitable[None]]


def serve(scenario: Scenario) -> None:
    async def run() -> None:
        published = Published()
        made = app.make_guest_app(published)  # type: ignore[arg-type]
        calls = GuestCalls(asyncio.get_running_loop(), lambda name: name in NAMES)
        calls.serve(made)
        async with TestClient(TestServer(made), headers={"Host": GATEWAY}) as client:
            await scenario(client, published)

    asyncio.run(run())


async def publish(client: Client, **headers: str) -> int:
    body = {"local": ":1", "remote": ":2"}
    async with client.post(EXPOSE, json=body, headers=headers) as response:
        return response.status


@pytest.mark.parametrize(
    "host",
    [GATEWAY, f"{GATEWAY}:80", "gateway.containers.internal", "Gateway.Containers.Internal.", ""],
)
def test_what_the_gateway_is_called(host: str) -> None:
    async def scenario(client: Client, published: Published) -> None:
        assert await publish(client, Host=host) == 200
        assert len(published.calls) == 1

    serve(scenario)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "gateway.containers.internal.evil.example",
        "127.0.0.1",
        "localhost",
        "192.168.127.2",
        f"{GATEWAY}.evil.example",
        f"{GATEWAY}@evil.example",
        f"{GATEWAY}, evil.example",
        "[::1]",
        "[",
    ],
)
def test_a_page_that_has_its_own_name_lead_here(host: str) -> None:
    async def scenario(client: Client, published: Published) -> None:
        assert await publish(client, Host=host) == 421
        assert published.calls == []

    serve(scenario)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", f"http://{GATEWAY}"])
def test_a_page_that_posts_what_it_may_not_read(origin: str) -> None:
    async def scenario(client: Client, published: Published) -> None:
        assert await publish(client, Origin=origin) == 403
        assert published.calls == []

    serve(scenario)


def test_every_call_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Client, published: Published) -> None:
        await publish(client)
        await client.post(UNEXPOSE, json={"local": ":1", "protocol": "udp"})
        await client.get(f"{ALL}?x=1")
        await client.get("/stats")
        await client.post(EXPOSE, data="{")
        await publish(client, Origin="null")

    with caplog.at_level(logging.INFO, "gvproxy"):
        serve(scenario)
    assert caplog.messages == [
        f"the guest 127.0.0.1 calls POST {EXPOSE} tcp :1 to :2: 200",
        f"the guest 127.0.0.1 calls POST {UNEXPOSE} udp :1: 200",
        f"the guest 127.0.0.1 calls GET {ALL}: 200",
        "the guest 127.0.0.1 calls GET /stats: 404",
        f"the guest 127.0.0.1 calls POST {EXPOSE}: 400",
        f"the guest 127.0.0.1 calls POST {EXPOSE}: 403",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_a_guest_does_not_write_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Client, published: Published) -> None:
        forged = ":1\n2026-01-01 INFO gvproxy: all is well\x1b[2J\u202e"
        await client.post(EXPOSE, json={"local": forged, "remote": "x" * 60_000})
        await client.get("/%0aforged%1b[2J")

    with caplog.at_level(logging.INFO, "gvproxy"):
        serve(scenario)
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert message.isprintable()
        assert len(message) < 400


def test_a_guest_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Client, published: Published) -> None:
        for _ in range(guestcalls.BURST + 50):
            await client.get(ALL)

    with caplog.at_level(logging.INFO, "gvproxy"):
        serve(scenario)
    assert len(caplog.messages) == guestcalls.BURST


def test_a_guest_with_many_addresses_is_one_guest(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = object()
    monkeypatch.setattr(guestcalls, "behind", lambda request: guest)
    addresses = iter(range(100))
    monkeypatch.setattr(web.BaseRequest, "remote", property(lambda self: str(next(addresses))))
    test_a_guest_does_not_fill_the_log(caplog)


def test_addresses_without_end_take_no_memory() -> None:
    calls = GuestCalls(asyncio.new_event_loop(), lambda name: True)
    for number in range(10 * guestcalls.MAX_GUESTS):
        calls._log(str(number))
    assert len(calls._logs) == guestcalls.MAX_GUESTS
    calls._loop.close()


def test_secrets_that_a_guest_sends_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Forbidding(Published):
        async def expose(self, *arguments: object) -> None:
            raise ForbiddenError("no")

    async def scenario(client: Client, published: Published) -> None:
        published.expose = Forbidding().expose  # type: ignore[method-assign]
        remote = "ssh-tunnel://me@192.168.127.2/s?key=/home/me/id&passphrase=sesame"
        body = {"local": "/tmp/s", "remote": remote, "protocol": "unix"}
        async with client.post(EXPOSE, json=body) as response:
            assert response.status == 403

    with caplog.at_level(logging.DEBUG, "gvproxy"):
        serve(scenario)
    assert "unix /tmp/s to ssh-tunnel://me@192.168.127.2/s: 403" in caplog.text
    assert "sesame" not in caplog.text
    assert "/home/me/id" not in caplog.text
