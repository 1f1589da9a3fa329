"""The API that guests find at the gateway, called by curl in a guest."""

import json

import pytest

from tests.lab.network import Network
from tests.lab.programs import DEVICE, GATEWAY
from tests.lab.sockets import read_all, reset

pytestmark = [pytest.mark.root, pytest.mark.system]

SERVICES = f"http://{GATEWAY}/services/forwarder"
LOCAL, GUEST_PORT = "127.0.0.1:8041", 8040


def curl(network: Network, *arguments: str) -> tuple[int, str]:
    """Call from the guest; returns status and body."""
    done = network.guest.try_run(
        "curl", "--silent", "--show-error", "--write-out", "\n%{http_code}", *arguments
    )
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def post(network: Network, call: str, **body: str) -> tuple[int, str]:
    return curl(network, "--data", json.dumps(body), f"{SERVICES}/{call}")


def test_a_guest_publishes_its_own_port(network: Network) -> None:
    remote = f":{GUEST_PORT}"
    with network.guest.listen("0.0.0.0", GUEST_PORT) as listener:
        assert post(network, "expose", local=LOCAL, remote=remote) == (200, "")
        entry = {"local": LOCAL, "remote": f"{DEVICE}:{GUEST_PORT}", "protocol": "tcp"}
        status, body = curl(network, f"{SERVICES}/all")
        assert (status, json.loads(body)) == (200, [entry])
        assert network.gvproxy.get("/services/forwarder/all") == [entry]
        with network.host.connect("127.0.0.1", 8041) as client:
            with listener.accept()[0] as server:
                server.sendall(b"hello")
            assert read_all(client) == b"hello"
        assert post(network, "unexpose", local=LOCAL) == (200, "")
        assert curl(network, f"{SERVICES}/all") == (200, "[]\n")
    network.gvproxy.wait_until_unused()


def test_a_guest_leaves_others_alone(network: Network) -> None:
    other = "192.168.127.77"
    status, text = post(network, "expose", local=LOCAL, remote=f"{other}:22")
    assert status == 403
    assert text == f"{DEVICE} may publish its own ports, not those of {other}\n"
    network.gvproxy.expose(LOCAL, f"{other}:22")
    status, text = post(network, "unexpose", local=LOCAL)
    assert (status, text) == (403, f"{DEVICE} may not take back what leads to {other}\n")
    network.gvproxy.unexpose(LOCAL)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/stats", 404, "404: Not Found\n"),
        ("/tunnel?ip=192.168.127.2&port=22", 404, "404: Not Found\n"),
        ("/services/forwarder/expose", 400, "post only\n"),
    ],
)
def test_what_a_guest_may_not(network: Network, path: str, status: int, text: str) -> None:
    assert curl(network, f"http://{GATEWAY}{path}") == (status, text)


def test_many_calls_over_one_connection_and_many_at_once(network: Network) -> None:
    """Both ways in which clients call, and what is no HTTP in between."""
    urls = [f"{SERVICES}/all?{number}" for number in range(200)]
    again = network.guest.run("curl", "--silent", *urls)
    at_once = network.guest.run("curl", "--silent", "--parallel", "--parallel-max", "50", *urls)
    assert (again, at_once) == ("[]\n" * 200, "[]\n" * 200)
    with network.guest.connect(GATEWAY, 80) as sock:
        sock.sendall(b"\x16\x03\x01\0\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.0 400 ")
    network.gvproxy.wait_until_unused()


def test_bodies_that_are_not_taken(network: Network) -> None:
    """One is too large, the guest of the other goes in the midst of it."""
    status, text = curl(network, "--data", "x" * 100_000, f"{SERVICES}/expose")
    assert status == 413
    assert text.startswith("Maximum request body size")
    with network.guest.connect(GATEWAY, 80) as sock:
        head = "POST /services/forwarder/expose HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
        sock.sendall(head.encode())
        reset(sock)
    network.gvproxy.wait_until_unused()
    assert "Traceback" not in network.gvproxy.process.log.read_text()
