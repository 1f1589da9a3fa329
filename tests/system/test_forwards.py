"""What is published besides single TCP ports: UDP, ranges, unix sockets, and those behind ssh."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.lab.api import ApiError
from tests.lab.network import Network, World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, Gvproxy
from tests.lab.sockets import read_all
from tests.lab.sshd import USER, Sshd
from tests.lab.transfer import exchange
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

EXPOSE, UNEXPOSE = "/services/forwarder/expose", "/services/forwarder/unexpose"
ALL = "/services/forwarder/all"
PORT = 8070
RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
DATAGRAM = socket.SOCK_DGRAM

no_sshd = pytest.mark.skipif(
    Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"],
    reason="sshd changes its user, which the root of a user namespace cannot",
)


@contextlib.contextmanager
def published(
    gvproxy: Gvproxy, local: str, remote: str, protocol: str
) -> Iterator[list[dict[str, str]]]:
    """Publish something meanwhile; gives what the API shows then."""
    gvproxy.post(EXPOSE, {"local": local, "remote": remote, "protocol": protocol})
    try:
        yield gvproxy.get(ALL)
    finally:
        gvproxy.post(UNEXPOSE, {"local": local, "protocol": protocol})
    assert gvproxy.get(ALL) == []


def refused(network: Network, **body: str) -> str:
    with pytest.raises(ApiError) as caught:
        network.gvproxy.post(EXPOSE, body)
    assert network.gvproxy.get(ALL) == []
    return str(caught.value)


# UDP


@pytest.mark.parametrize("size", [0, 1472, 1473, 60_000])
def test_datagrams_of_any_size_there_and_back(network: Network, size: int) -> None:
    with (
        published(network.gvproxy, f":{PORT}", f"{DEVICE}:{PORT}", "udp"),
        network.guest.open_socket(DATAGRAM) as server,
        network.host.open_socket(DATAGRAM) as client,
    ):
        server.bind(("0.0.0.0", PORT))
        client.connect(("127.0.0.9", PORT))
        client.send(b"x" * size)
        data, sender = server.recvfrom(65535)
        assert data == b"x" * size
        assert sender[0] == GATEWAY
        server.sendto(b"y" * size, sender)
        assert client.recv(65535) == b"y" * size


def test_dig_asks_a_name_server_in_the_guest(network: Network) -> None:
    with published(network.gvproxy, f"127.0.0.1:{PORT}", f"{DEVICE}:{PORT}", "udp"):
        answer = network.guest.start("dns", "socat", f"UDP-RECVFROM:{PORT}", "PIPE")
        dig = ["dig", "+tries=3", "+timeout=2", "-p", str(PORT), "@127.0.0.1", "a.example"]
        # An echo of the query is no answer that dig takes, and it says from where it came.
        said = until(lambda: _said(network, dig), "dig hears its own question", 20)
        assert "query response not set" in said
        assert answer.wait(timeout=5.0) == 0


def _said(network: Network, dig: list[str]) -> str:
    done = network.host.try_run(*dig)
    if "query response not set" not in done.stdout + done.stderr:
        raise NotYetError(done.stdout)
    return done.stdout + done.stderr


# Ranges and names


def test_a_range_of_ports(network: Network) -> None:
    local, remote = f"127.0.0.1:{PORT}-{PORT + 2}", f"{DEVICE}:{PORT}-{PORT + 2}"
    with published(network.gvproxy, local, remote, "tcp") as shown:
        assert [one["local"] for one in shown] == [f"127.0.0.1:{PORT + n}" for n in range(3)]
        with (
            network.guest.listen("0.0.0.0", PORT + 2) as listener,
            network.host.connect("127.0.0.1", PORT + 2) as client,
            listener.accept()[0] as server,
        ):
            exchange(server, client, 100_000, 30)
    with network.host.listen("127.0.0.1", PORT + 1):
        said = refused(network, local=local, remote=remote)
        assert said == f"500: cannot listen on 127.0.0.1:{PORT + 1}: Address already in use"
    network.gvproxy.wait_until_unused()


def test_names_of_hosts(network: Network) -> None:
    said = refused(network, local=f":{PORT}", remote="nobody.outside.test:80")
    assert said == "400: remote nobody.outside.test has no IPv4 address that anybody knows"
    said = refused(network, local=f":{PORT}", remote="gateway.containers.internal:80")
    assert said == f"400: remote {GATEWAY} is no address of a guest"
    said = refused(network, local=f":{PORT}", remote="www.outside.test:80")
    assert said == "400: remote 203.0.113.7 is not in the virtual network 192.168.127.0/24"


def test_a_thousand_ports(network: Network) -> None:
    local, remote = "127.0.0.1:20000-20999", f"{DEVICE}:20000-20999"
    with published(network.gvproxy, local, remote, "tcp") as shown:
        assert len(shown) == 1000
        with (
            network.guest.listen("0.0.0.0", 20777) as listener,
            network.host.connect("127.0.0.1", 20777) as client,
            listener.accept()[0] as server,
        ):
            exchange(server, client, 1000, 30)
    network.gvproxy.wait_until_unused()


# Unix sockets


def test_a_unix_socket_leads_to_a_port(network: Network) -> None:
    path = network.world.folder / "guest.sock"
    with (
        published(network.gvproxy, str(path), f"tcp://{DEVICE}:{PORT}", "unix"),
        network.guest.listen("0.0.0.0", PORT) as listener,
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.settimeout(10)
        client.connect(str(path))
        with listener.accept()[0] as server:
            exchange(server, client, 20_000_000, 40)
        client.close()
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(str(path))
            with listener.accept()[0] as server:
                server.sendall(b"a last word")
                server.close()
                other.settimeout(10)
                assert read_all(other) == b"a last word"
    assert not path.exists()
    network.gvproxy.wait_until_unused()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"local": "/etc/passwd"}, "500: cannot listen on unix:///etc/passwd: the file exists and"),
        ({"local": "here"}, "400: local 'here' is no absolute path of a unix socket"),
        ({"remote": f"{DEVICE}:80"}, f"400: remote '{DEVICE}:80' must be tcp://host:port or ssh-"),
        (
            {"remote": f"ssh-tunnel://core@{DEVICE}/s?key=/nothing&passphrase=secret"},
            "400: key /nothing cannot be read: No such file or directory",
        ),
        ({"protocol": "npipe"}, "501: protocol npipe needs a host with Windows"),
    ],
)
def test_refusals(network: Network, body: dict[str, str], said: str) -> None:
    path = str(network.world.folder / "refused.sock")
    base = {"local": path, "remote": f"tcp://{DEVICE}:80", "protocol": "unix"}
    assert refused(network, **base | body).startswith(said)
    assert not os.path.exists(path)


def test_as_the_documentation_has_it(network: Network) -> None:
    (recipe,) = re.findall(r"^```\n(api\(\).*?)^```", RECIPES.read_text(), re.S | re.M)
    assert recipe.count("/tmp/network.sock") == 1
    folder = network.world.folder
    script = recipe.replace("/tmp/network.sock", str(network.gvproxy.path))
    script = script.replace("/tmp/web.sock", str(folder / "web.sock"))
    network.host.run("sh", "-ec", script.replace("curl", "curl --silent --show-error --fail"))
    shown = [(one["local"], one["protocol"]) for one in network.gvproxy.get(ALL)]
    assert shown == [
        (f"{folder}/web.sock", "unix"),
        ("127.0.0.1:5353", "udp"),
        ("127.0.0.1:8080", "tcp"),
    ]
    for local, protocol in shown:
        network.gvproxy.post(UNEXPOSE, {"local": local, "protocol": protocol})


# Through the guest's sshd


class Service:
    """A unix socket of the guest's that gives back what it gets."""

    def __init__(self, network_folder: Path) -> None:
        self.path = network_folder / "service.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(15)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def talk(self, path: Path, size: int = 100_000) -> None:
        """Go through the host's socket at `path`, and exchange some data."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(15)
            client.connect(str(path))
            with self.listener.accept()[0] as server:
                exchange(server, client, size, 60)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.listener.close()


@no_sshd
@pytest.mark.parametrize("way", ["published", "tunnel"])
def test_ssh_to_the_guest(network: Network, tmp_path: Path, way: str) -> None:
    """By a published port as -ssh-port makes it, and by the ProxyCommand of the documentation."""
    sshd = Sshd(tmp_path)
    (recipe,) = re.findall(r"^```\n(Host guest\n.*?)^```", RECIPES.read_text(), re.S | re.M)
    if way == "published":
        recipe = f"Host guest\n    HostName 127.0.0.1\n    Port {PORT}\n"
    config = tmp_path / "ssh_config"
    config.write_text(recipe.replace("/tmp/network.sock", str(network.gvproxy.path)))
    options = ["BatchMode yes", "StrictHostKeyChecking no", f"UserKnownHostsFile {tmp_path}/known"]
    # In a namespace of its own nothing of the pipeline outlives ssh.
    own = ["unshare", "--pid", "--fork", "--kill-child"]
    ssh = [
        *own,
        "ssh",
        "-F",
        config,
        "-i",
        sshd.key,
        *(word for o in options for word in ("-o", o)),
    ]
    data = "x" * 1_000_000
    with (
        published(network.gvproxy, f"127.0.0.1:{PORT}", f"{DEVICE}:22", "tcp"),
        sshd.run(network.guest),
    ):
        said = network.host.run(*ssh, f"{USER}@guest", "echo $SSH_CONNECTION; cat", input=data)
    addresses, _, echoed = said.partition("\n")
    assert addresses.split()[0] == GATEWAY
    assert addresses.split()[2:] == [DEVICE, "22"]
    assert echoed == data
    network.gvproxy.wait_until_unused()


@no_sshd
def test_a_socket_behind_ssh(network: Network, service: Service, tmp_path: Path) -> None:
    sshd = Sshd(network.world.folder)
    path = tmp_path / "host.sock"
    remote = f"ssh-tunnel://{USER}@{DEVICE}:22{quote(str(service.path))}?key={quote(str(sshd.key))}"
    with published(network.gvproxy, str(path), remote, "unix") as shown:
        assert shown == [
            {"local": str(path), "remote": remote.partition("?")[0], "protocol": "unix"}
        ]
        with sshd.run(network.guest) as process:
            before = process.log.read_text().count("Accepted publickey")
            service.talk(path, 2_000_000)
            for _ in range(3):
                service.talk(path)
            assert process.log.read_text().count("Accepted publickey") == before + 1
        # The guest reboots: its connections are gone, and sshd comes back in a while.
        with socket.socket(socket.AF_UNIX) as early:
            early.settimeout(20)
            early.connect(str(path))
            with sshd.run(network.guest):
                with service.listener.accept()[0] as server:
                    exchange(server, early, 1000, 30)
                service.talk(path)
    assert not path.exists()
    network.gvproxy.wait_until_unused()


@no_sshd
def test_a_socket_behind_ssh_from_the_start(world: World, service: Service, tmp_path: Path) -> None:
    sshd = Sshd(tmp_path)
    path = tmp_path / "host.sock"
    flags = {"sock": path, "dest": service.path, "user": USER, "identity": sshd.key}
    words = [str(word) for flag, value in flags.items() for word in (f"-forward-{flag}", value)]
    gvproxy = Gvproxy(world.folder, world.host, *words)
    try:
        with make_guest(world, gvproxy) as (guest, _), sshd.run(guest):
            service.talk(path)
    finally:
        gvproxy.process.stop()
    assert not path.exists()
