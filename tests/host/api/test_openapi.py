"""The description of the API, held against a daemon's answers and against the router."""

import asyncio
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Coroutine, Iterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, settings
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi import checks

from gvproxy.api import app, callers, guestcalls
from gvproxy.config import configure
from gvproxy.daemon import Daemon
from gvproxy.ports.access import Access, foreign_origin
from taplink.bearer import Bearer
from tests.host.stack.bench import GATEWAY, arp

DESCRIPTION: dict[str, Any] = json.loads(Path(app.__file__).with_name("openapi.json").read_text())
PATHS, COMPONENTS = DESCRIPTION["paths"], DESCRIPTION["components"]
METHODS = {"GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"}

SCHEMA = schemathesis.openapi.from_dict(DESCRIPTION)
SCHEMA.config.phases.coverage.unexpected_methods = set()  # `test_each_method_is_described` has them


class Served(logging.Handler):
    """The API of a daemon with one guest, at the loopback, in a thread of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        """What was logged as an error, or with a traceback."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.url = self._call(self._start())

    def close(self) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def tidy(self) -> None:
        """Take back what was published, and end the connections that have been answered."""
        self._call(self._tidy())

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.errors.append(record.getMessage())

    def _call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    async def _start(self) -> str:
        self._daemon = Daemon(configure(listen=["unix:///none"], ssh_port=-1), self._loop)
        self._daemon.forwarder._resolve = _nobody
        self._guest, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._daemon.attach(theirs)
        frame = arp(GATEWAY)
        self._guest.send(len(frame).to_bytes(2, "little") + frame)
        while not self._daemon.cam():
            await asyncio.sleep(0)
        self.app = app.make_app(self._daemon, Access())
        self._runner = app.make_runner(self.app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return "http://{}:{}".format(*self._runner.addresses[0])

    async def _tidy(self) -> None:
        await self._daemon.forwarder.close()
        server = self._runner.server
        assert server is not None
        await server.shutdown(1)
        await asyncio.sleep(0)  # the loop's turn in which they are closed

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._daemon.close()
        self._guest.close()


async def _nobody(name: str) -> list[IPv4Address]:
    """Know no name: a test asks no name server."""
    return []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("published"))
    made = Served()
    logging.getLogger().addHandler(made)
    yield made
    logging.getLogger().removeHandler(made)
    made.close()
    os.chdir(before)


@pytest.fixture
def api(served: Served) -> Iterator[Served]:
    """The same for one test, which leaves nothing behind."""
    yield served
    served.tidy()


def confined(body: object) -> object:
    """Let a body publish at the loopback and in the working folder only, a few ports at once."""
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if isinstance(local := body.get("local"), str):
        host, colon, ports = local.replace("/", "_").rpartition(":")
        first, dash, last = ports.partition("-")
        if first.isdecimal() and last.isdecimal():
            ports = f"{first}{dash}{int(first) + 2}"
        local = f"{'127.0.0.1' if colon and _is_ip(host) else host}{colon}{ports}"
        body["local"] = f"{Path.cwd()}/{local}" if body.get("protocol") == "unix" else local
    if isinstance(remote := body.get("remote"), str):  # a guest's, more often than by chance
        body["remote"] = re.sub(r"(?<![0-9.])[0-9]+(\.[0-9]+){3}(?=:)", "192.168.127.2", remote)
    return body


def _is_ip(host: str) -> bool:
    try:
        return not host or bool(ip_address(host.strip("[]")))
    except ValueError:
        return False


def errors_are_one_line(
    context: CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    if response.status_code != 200:
        assert re.fullmatch(r"[^\r\n]+\n", response.text)


CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    errors_are_one_line,
]


@SCHEMA.exclude(tag=["raw", "debug"]).parametrize()
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_as_described(case: schemathesis.Case, api: Served) -> None:
    case.body = confined(case.body)
    case.call_and_validate(base_url=api.url, checks=CHECKS, timeout=10)
    assert api.errors == []


def test_the_description_is_served(api: Served) -> None:
    assert schemathesis.openapi.from_url(f"{api.url}/openapi.json").raw_schema == DESCRIPTION


def test_each_path_is_described(served: Served) -> None:
    paths = {resource.canonical for resource in served.app.router.resources()}
    # /connect is for what reads a connection's first request, before the application does.
    assert paths == PATHS.keys() - {"/connect", "/debug/profile"}


@pytest.mark.parametrize("path", sorted(PATHS.keys() - {"/connect", "/debug/profile"}))
def test_each_method_is_described(path: str, api: Served) -> None:
    taken = set()
    for method in METHODS:
        with requests.request(method, api.url + path, timeout=10) as response:
            if response.text not in ("get only\n", "post only\n"):
                taken.add(method.lower())
    assert taken == PATHS[path].keys()


OPERATIONS = [(path, one) for path, methods in PATHS.items() for one in methods.values()]


@pytest.mark.parametrize(("path", "operation"), OPERATIONS, ids=lambda value: str(value)[:30])
def test_each_call_can_be_refused(path: str, operation: dict[str, Any]) -> None:
    expected = {"401", "403"}
    if path != "/connect":
        expected.add("503")
    if "requestBody" in operation:
        expected |= {"400", "408", "413"}
    if path.startswith("/services/forwarder/"):
        expected.add("421")
    assert expected <= operation["responses"].keys()


REFUSALS = {
    "Unauthorized": Access(Bearer(Path("/token"), "x")).refusal(socket.AF_INET, {}),
    "Refused": foreign_origin(),
    "OtherHost": guestcalls._OTHER_HOST,
    "Busy": callers._FULL,
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_as_in_the_examples(name: str) -> None:
    refusal, described = REFUSALS[name], COMPONENTS["responses"][name]
    assert refusal is not None
    assert described["content"]["text/plain"]["example"] == f"{refusal.text}\n"
    assert described.get("headers", {}).keys() == refusal.headers.keys()


def test_no_example_has_a_key() -> None:
    """They are pasted, and shown; a key's place is in nobody's list of what is published."""
    for name, schema in COMPONENTS["schemas"].items():
        assert "key=" not in json.dumps(schema.get("examples")), name
    for path, operation in OPERATIONS:
        assert "key=" not in json.dumps(operation), path


@pytest.mark.parametrize("name", COMPONENTS["schemas"])
def test_examples_are_what_they_are_of(name: str) -> None:
    schema = COMPONENTS["schemas"][name]
    assert schema["description"]
    assert schema["examples"]
    reference = {"$ref": f"#/components/schemas/{name}", "components": COMPONENTS}
    for example in schema["examples"]:
        jsonschema_rs.Draft202012Validator(reference, validate_formats=True).validate(example)
