"""Keys, passphrases and tokens: what a daemon that logs all it can tells of them, and keeps."""

import itertools
import json
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.lab.api import ApiError
from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GVPROXY, Gvproxy
from tests.lab.sockets import read_all
from tests.lab.sshd import USER, Sshd
from tests.lab.users import other_users
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

PASSPHRASE = "open:sesame-22"
SECRET = "a-token-of-many-characters"
EXPOSE, ALL = (f"/services/forwarder/{name}" for name in ("expose", "all"))
SHOWN = f"ssh-tunnel://core@{DEVICE}:22/run/x.sock"


class Lab:
    """A daemon with a token and a state, and a key that has a passphrase."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.key = world.folder / "keys" / "id"
        self.key.parent.mkdir()
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", PASSPHRASE, "-f", str(self.key)]
        subprocess.run(keygen, check=True)
        self.token = world.folder / "keys" / "token"
        self.token.touch(0o600)
        self.token.write_text(f"{SECRET}\n")
        self.state = world.folder / "state"
        self.path = str(world.folder / "x.sock")
        self.gvproxy = self.start()

    def start(self) -> Gvproxy:
        return Gvproxy(
            self.world.folder,
            self.world.host,
            *("-debug", "-state-dir", str(self.state), "-api-token-file", str(self.token)),
            *("-listen", "tcp://10.77.0.1:1071", "-allow-path", str(self.world.folder)),
        )

    def remote(self, passphrase: str = PASSPHRASE, key: Path | None = None) -> str:
        return f"{SHOWN}?key={quote(str(key or self.key))}&passphrase={quote(passphrase)}"

    def refused(self, local: str, remote: str, protocol: str) -> str:
        """Return what is said when that is published."""
        body = {"local": local, "remote": remote, "protocol": protocol}
        with pytest.raises(ApiError) as caught:
            self.gvproxy.post(EXPOSE, body)
        return str(caught.value)

    def written(self) -> Iterator[tuple[Path, bytes]]:
        """Return all files that are there, but for those of keys."""
        for path in self.world.folder.rglob("*"):
            if path.is_file() and self.key.parent not in path.parents:
                yield path, path.read_bytes()

    def saved(self, forwards: int) -> dict[str, list[dict[str, str]]]:
        """Wait until the state has so many forwards, and return it."""

        def attempt() -> dict[str, list[dict[str, str]]]:
            try:
                state = json.loads((self.state / "state.json").read_text())
            except FileNotFoundError as error:
                raise NotYetError(str(error)) from error
            if len(state["forwards"]) != forwards:
                raise NotYetError(str(state))
            assert isinstance(state, dict)
            return state

        return until(attempt, "the state is saved")


def secrets_in(text: bytes) -> list[str]:
    """Return which secrets a text has in it, whole or in part, plain or in a URL."""
    wanted = (PASSPHRASE, quote(PASSPHRASE, safe=""), "sesame", SECRET, "wrong-one")
    return [one for one in wanted if one.encode() in text]


@pytest.fixture
def lab(world: World) -> Iterator[Lab]:
    lab = Lab(world)
    yield lab
    lab.gvproxy.process.stop()
    for path, contents in lab.written():
        assert not secrets_in(contents), path
        assert b"PRIVATE KEY" not in contents, path


def test_what_the_state_has(lab: Lab) -> None:
    """Where the key is, for the next daemon; not the passphrase, without which it says why."""
    lab.gvproxy.post(EXPOSE, {"local": lab.path, "remote": lab.remote(), "protocol": "unix"})
    shown = {"local": lab.path, "remote": SHOWN, "protocol": "unix"}
    assert lab.gvproxy.get(ALL) == [shown]
    assert lab.saved(1)["forwards"] == [shown | {"remote": f"{SHOWN}?key={lab.key}"}]
    for path in lab.state.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(lab.state.stat().st_mode) == 0o700
    lab.gvproxy.process.stop()
    lab.gvproxy = lab.start()
    said = lab.gvproxy.process.wait_for("cannot be read")
    assert f"key {lab.key} cannot be read: " in said
    assert lab.gvproxy.get(ALL) == []


def test_keys_that_cannot_be_read(lab: Lab) -> None:
    wrong = lab.refused(lab.path, lab.remote("the-wrong-one"), "unix")
    assert wrong.startswith(f"400: key {lab.key} cannot be read: ")
    none = lab.refused(lab.path, lab.remote(key=Path("/nothing")), "unix")
    assert none == "400: key /nothing cannot be read: No such file or directory"
    folder = lab.refused(lab.path, lab.remote(key=lab.world.folder), "unix")
    assert folder.startswith(f"400: key {lab.world.folder} cannot be read: ")
    broken = lab.world.folder / "broken"
    broken.write_text(lab.key.read_text()[:100].replace("PRIVATE KEY", "OTHER KEY"))
    text = lab.refused(lab.path, lab.remote(key=broken), "unix")
    assert text.startswith(f"400: key {broken} cannot be read: ")
    token = lab.refused(lab.path, lab.remote(key=lab.token), "unix")
    assert token.startswith(f"400: key {lab.token} cannot be read: ")
    for said in (wrong, none, folder, text, token):
        assert not secrets_in(said.encode()), said


def test_a_passphrase_where_it_does_not_belong(lab: Lab) -> None:
    """With any protocol, on either side, in a URL that is none, and from a guest as well."""
    spoilt = [
        lab.remote(),
        lab.remote().replace("?", "&"),
        lab.remote().replace("?key", "#key"),
        lab.remote().replace("key=", "kex="),
        lab.remote().replace("core@", ""),
        lab.remote().replace(":22/run", ":x/run"),
        f"{lab.remote()}:22",
        f"{DEVICE}:22?passphrase={PASSPHRASE}",
    ]
    protocols = ("tcp", "udp", "unix", "npipe", "ssh-tunnel")
    calls = []
    for protocol, text in itertools.product(protocols, spoilt):
        right = "127.0.0.1:8072" if protocol in ("tcp", "udp") else lab.path
        if (protocol, text) not in (("unix", lab.remote()), ("unix", f"{lab.remote()}:22")):
            calls.append((right, text, protocol))
        calls.append((text, f"{DEVICE}:80", protocol))
    with make_guest(lab.world, lab.gvproxy) as (guest, _):
        for local, remote, protocol in calls:
            said = lab.refused(local, remote, protocol)
            assert not secrets_in(said.encode()), said
            body = json.dumps({"local": local, "remote": remote, "protocol": protocol})
            url = f"http://192.168.127.1{EXPOSE}"
            answer = guest.run("curl", "--silent", "--globoff", "--data", body, url)
            assert answer.strip()
            assert not secrets_in(answer.encode()), answer
    assert lab.gvproxy.get(ALL) == []


@other_users  # sshd is one
def test_a_key_with_a_passphrase_is_used(lab: Lab) -> None:
    """Nor does the log have anything of it when it does what it is for, or is not let in."""
    folder = lab.key.parent / "sshd"
    folder.mkdir()
    sshd = Sshd(folder)
    change = ["ssh-keygen", "-q", "-p", "-N", PASSPHRASE, "-f", str(sshd.key)]
    subprocess.run(change, check=True, stdout=subprocess.DEVNULL)
    there = lab.world.folder / "there.sock"
    remote = f"ssh-tunnel://{USER}@{DEVICE}{there}?key={sshd.key}&passphrase={quote(PASSPHRASE)}"
    lab.gvproxy.post(EXPOSE, {"local": lab.path, "remote": remote, "protocol": "unix"})
    other = lab.path + ".other"
    stranger = lab.remote().replace("core@", f"{USER}@")
    lab.gvproxy.post(EXPOSE, {"local": other, "remote": stranger, "protocol": "unix"})
    with (
        make_guest(lab.world, lab.gvproxy) as (guest, _),
        sshd.run(guest),
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
        socket.socket(socket.AF_UNIX) as refused,
    ):
        listener.bind(str(there))
        for sock in (listener, client, refused):
            sock.settimeout(15)
        listener.listen()
        client.connect(lab.path)
        with listener.accept()[0] as server:
            server.sendall(b"hello")
        assert read_all(client) == b"hello"
        refused.connect(other)
        assert read_all(refused) == b""
    lab.gvproxy.process.wait_for("is let down: Permission denied")


def test_a_guest_sees_no_key(lab: Lab) -> None:
    lab.gvproxy.post(EXPOSE, {"local": lab.path, "remote": lab.remote(), "protocol": "unix"})
    with make_guest(lab.world, lab.gvproxy) as (guest, _):
        shown = guest.run("curl", "--silent", f"http://192.168.127.1{ALL}")
    assert json.loads(shown) == [{"local": lab.path, "remote": SHOWN, "protocol": "unix"}]
    assert "key" not in shown
    for path in ("/stats", "/ports", "/openapi.json"):
        shown = json.dumps(lab.gvproxy.get(path))
        assert not secrets_in(shown.encode()), path
        assert str(lab.key) not in shown


def test_a_start_that_fails_tells_nothing(lab: Lab) -> None:
    """Of a file of settings, which is where people write such things."""
    settings = lab.key.parent / "gvproxy.yaml"
    for remote in (lab.remote("the-wrong-one"), f"{lab.remote()}:22", lab.remote()[:-4] + "%"):
        settings.write_text(
            f"listen: [unix://{lab.world.folder}/other.sock]\n"
            f'forwards: {{"127.0.0.1:8073": "{remote}"}}\n'
        )
        done = lab.world.host.try_run(GVPROXY, "-debug", "-config", settings, "-ssh-port", "-1")
        assert done.returncode == 1
        assert not secrets_in(f"{done.stdout}{done.stderr}".encode()), done
        assert "Traceback" not in done.stderr
