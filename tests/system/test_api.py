"""Every call of the HTTP API, made by curl at each of its doors: status, type and body.

The table is that of Go's gvproxy; where we differ on purpose, the comment says so.
"""

import json
import pstats
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.lab.api import call
from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, Gvproxy

pytestmark = [pytest.mark.root, pytest.mark.system]

DOCUMENT = Path(__file__).parents[2] / "docs" / "api.md"
TCP = "127.0.0.1:8077"
FORWARDER = "/services/forwarder"
EXPOSE, UNEXPOSE, ALL = (f"{FORWARDER}/{name}" for name in ("expose", "unexpose", "all"))
OK, JSON, TEXT = "", "application/json; charset=utf-8", "text/plain; charset=utf-8"
LEASES = f'{{"{GATEWAY}":"5a:94:ef:e4:0c:dd","{DEVICE}":"5a:94:ef:e4:0c:ee"}}\n'
ZONES = [
    {
        "Name": f"{name}.internal.",
        "Records": [
            {"Name": "gateway", "IP": GATEWAY},
            {"Name": "host", "IP": "192.168.127.254"},
        ],
        "DefaultIP": "",
    }
    for name in ("containers", "docker")
]

Answer = tuple[int, str, str]
"""Status, content type, body; the beginning of the body where it does not end in a line's end."""


def tcp(local: str = TCP, remote: str = f"{DEVICE}:80", **more: object) -> dict[str, object]:
    return {"local": local, "remote": remote, **more}


FORWARDER_CALLS: list[tuple[str, str, object, Answer]] = [
    ("GET", ALL, None, (200, JSON, "[]\n")),
    ("POST", ALL, {}, (400, TEXT, "get only\n")),
    ("GET", EXPOSE, None, (400, TEXT, "post only\n")),
    ("DELETE", EXPOSE, None, (400, TEXT, "post only\n")),
    ("GET", UNEXPOSE, None, (400, TEXT, "post only\n")),
    ("POST", EXPOSE, "{", (400, TEXT, "the body is not JSON: ")),
    ("POST", EXPOSE, [], (400, TEXT, "the body is not a JSON object\n")),
    ("POST", EXPOSE, tcp(local=1), (400, TEXT, "local is not a string\n")),
    ("POST", EXPOSE, tcp(remote=DEVICE), (400, TEXT, f"remote '{DEVICE}' has no port\n")),
    ("POST", EXPOSE, tcp(protocol="sctp"), (500, TEXT, "unknown protocol sctp\n")),
    ("POST", EXPOSE, tcp(local=":99999"), (500, TEXT, "port '99999' is not a number from 1 to 65")),
    ("POST", EXPOSE, tcp(local="192.0.2.1:80"), (500, TEXT, "cannot listen on 192.0.2.1:80: Can")),
    ("POST", EXPOSE, tcp(remote="8.8.8.8:80"), (400, TEXT, "remote 8.8.8.8 is not in the virtual")),
    ("POST", EXPOSE, " " * 10_000_000, (413, TEXT, "Maximum request body size 65536 exceeded")),
    ("POST", EXPOSE, tcp(), (200, OK, "")),
    ("POST", EXPOSE, tcp(), (500, TEXT, f"proxy already running for tcp on {TCP}\n")),
    ("POST", EXPOSE, tcp(protocol="udp"), (200, OK, "")),
    (
        "GET",
        ALL,
        None,
        (
            200,
            JSON,
            f'[{{"local":"{TCP}","remote":"{DEVICE}:80","protocol":"tcp"}},'
            f'{{"local":"{TCP}","remote":"{DEVICE}:80","protocol":"udp"}}]\n',
        ),
    ),
    ("POST", UNEXPOSE, {"local": TCP, "protocol": "tcp"}, (200, OK, "")),
    ("POST", UNEXPOSE, {"local": TCP}, (500, TEXT, "proxy not found\n")),
    ("POST", UNEXPOSE, {"LOCAL": TCP, "Protocol": "udp"}, (200, OK, "")),
    ("POST", UNEXPOSE, {"local": TCP, "protocol": "sctp"}, (500, TEXT, "unknown protocol sctp\n")),
    ("GET", f"{FORWARDER}/nothing", None, (404, TEXT, "404: Not Found\n")),
]
"""In this order; nothing is left published."""

ADDED = {"Name": "t.internal.", "Records": [{"Name": "a", "IP": "192.168.127.9"}]}
PATTERN = {
    "name": "t.internal",
    "records": [{"ip": "192.168.127.8", "regexp": "x-.*"}],
    "defaultIP": "192.168.127.7",
}
HOST_CALLS: list[tuple[str, str, object, Answer]] = [
    ("GET", "/cam", None, (200, JSON, '{"5a:94:ef:e4:0c:ee":0}\n')),
    ("GET", "/leases", None, (200, JSON, LEASES)),
    ("GET", "/services/dhcp/leases", None, (200, JSON, LEASES)),
    ("POST", "/leases", {}, (400, TEXT, "get only\n")),
    ("GET", "/stats", None, (200, JSON, '{"BytesSent":')),
    ("GET", "/services/dns/all", None, (200, JSON, json.dumps(ZONES, separators=(",", ":")))),
    ("GET", "/services/dns/add", None, (400, TEXT, "post only\n")),
    ("POST", "/services/dns/add", {"Name": ""}, (400, TEXT, "a zone needs a name\n")),
    ("POST", "/services/dns/add", " " * 10_000_000, (413, TEXT, "Maximum request body size 655")),
    ("POST", "/services/dns/add", ADDED, (200, OK, "")),
    ("POST", "/services/dns/add", PATTERN, (200, OK, "")),
    (
        "GET",
        "/services/dns/all",
        None,
        (200, JSON, json.dumps(ZONES, separators=(",", ":"))[:-1] + ',{"Name":"t.internal.",'),
    ),
    ("POST", EXPOSE, tcp(remote="nobody:80"), (400, TEXT, "remote nobody has no IPv4 address tha")),
    ("GET", "/tunnel", None, (400, TEXT, "post only\n")),
    ("POST", "/tunnel", None, (400, TEXT, "ip '' is no IPv4 address\n")),
    ("POST", "/tunnel?ip=8.8.8.8&port=1", None, (400, TEXT, "8.8.8.8 is no address of a guest\n")),
    ("GET", "/", None, (404, TEXT, "404: Not Found\n")),
    ("POST", "/services", {}, (404, TEXT, "404: Not Found\n")),
]
"""In this order, which adds a zone."""


class Door:
    """One way to the API: a machine with curl, and what curl is told."""

    def __init__(self, machine: Namespace, base: str, *options: str) -> None:
        self._machine = machine
        self._base = base
        self._options = options

    def call(self, method: str, path: str, body: object) -> Answer:
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        given = ["--data-binary", "@-"] if data is not None else []
        done = self._machine.try_run(
            *("curl", "--silent", "--show-error", "--request", method, *given, *self._options),
            *("--write-out", "\n%{http_code} %{content_type}", f"{self._base}{path}"),
            input=data or "",
        )
        # 55: it was told that its body is too large before it had sent all, and stopped.
        assert done.returncode in (0, 55), done.stderr
        text, _, last = done.stdout.rpartition("\n")
        status, _, kind = last.partition(" ")
        return int(status), kind, text


@pytest.fixture(scope="module")
def doors(shared_world: World) -> Iterator[Mapping[str, Door]]:
    """The daemon with a guest, and its API's doors by name."""
    world, folder = shared_world, shared_world.folder
    services = folder / "services.sock"
    flags = ["-listen", "tcp://127.0.0.1:8076", "-services", f"unix://{services}"]
    gvproxy = Gvproxy(folder, world.host, *flags, name="api")
    try:
        with make_guest(world, gvproxy, "api-guest") as (guest, _):
            yield {
                "listen unix": Door(world.host, "http://x", "--unix-socket", str(gvproxy.path)),
                "listen tcp": Door(world.host, "http://127.0.0.1:8076"),
                "services": Door(world.host, "http://x", "--unix-socket", str(services)),
                "guest": Door(guest, f"http://{GATEWAY}"),
            }
        assert "Traceback" not in gvproxy.process.log.read_text()
    finally:
        gvproxy.process.stop()


def check(door: Door, method: str, path: str, body: object, expected: Answer) -> None:
    status, kind, text = door.call(method, path, body)
    wanted, wanted_kind, beginning = expected
    what = f"{method} {path} {str(body)[:100]}"
    assert (status, kind) == (wanted, wanted_kind), f"{what}: {text}"
    if beginning.endswith("\n") or not beginning:
        assert text == beginning, what
    else:
        assert text.startswith(beginning), what
        assert text.count("\n") == 1, what


@pytest.mark.parametrize("name", ["listen unix", "listen tcp", "services", "guest"])
def test_the_forwarder(doors: Mapping[str, Door], name: str) -> None:
    for one in FORWARDER_CALLS:
        check(doors[name], *one)


def test_the_rest_is_the_hosts(doors: Mapping[str, Door]) -> None:
    for one in HOST_CALLS:
        check(doors["listen unix"], *one)


@pytest.mark.parametrize("name", ["listen tcp", "services"])
@pytest.mark.parametrize("path", ["/cam", "/leases", "/services/dhcp/leases"])
def test_every_door_of_the_host_shows_the_same(
    doors: Mapping[str, Door], name: str, path: str
) -> None:
    assert doors[name].call("GET", path, None) == doors["listen unix"].call("GET", path, None)


@pytest.mark.parametrize(
    "path", ["/stats", "/cam", "/leases", "/services/dns/all", "/tunnel", "/connect"]
)
def test_a_guest_has_no_more(doors: Mapping[str, Door], path: str) -> None:
    for method in ("GET", "POST"):
        check(doors["guest"], method, path, None, (404, TEXT, "404: Not Found\n"))


@pytest.mark.parametrize("name", ["services"])
def test_services_take_no_guests(doors: Mapping[str, Door], name: str) -> None:
    check(doors[name], "POST", "/connect", None, (404, TEXT, "404: Not Found\n"))


def test_as_the_documentation_has_it(world: World) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", DOCUMENT.read_text(), re.S | re.M)
    gvproxy = Gvproxy(world.folder, world.host, "-debug")
    script = "".join(blocks).replace("/tmp/network.sock", str(gvproxy.path))
    script = script.replace("curl", "curl --fail").replace("seconds=5", "seconds=1")
    script = script.replace("=pstats'", "=pstats&seconds=1'").replace(">", f">{world.folder}/")
    said = world.host.run("bash", "-ec", script)
    assert '{"192.168.127.1":"5a:94:ef:e4:0c:dd"' in said
    assert "Ordered by: internal time" in said
    assert pstats.Stats(str(world.folder / "gvproxy.pstats")).total_calls  # type: ignore[attr-defined]
    assert gvproxy.get("/services/dns/all")[-1]["Name"] == "example.internal."
    gvproxy.process.stop()


def test_head_has_no_body(shared_world: World, doors: Mapping[str, Door]) -> None:
    assert doors
    path: Path = shared_world.folder / "api.sock"
    assert call(path, "HEAD", "/cam") == ""
