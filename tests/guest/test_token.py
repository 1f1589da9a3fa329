"""The agent's -token-file: which files it takes, and who gets the token: a tcp:// host alone."""

import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from taplink import bearer
from taplink.endpoint import parse
from taplink.upgrade import connect_request
from taplink.vnet import Offload
from tests.guest.server import Host
from tests.lab.namespace import Namespace
from tests.lab.network import temporary_folder
from tests.lab.programs import Agent
from tests.lab.users import AS_NOBODY, other_users
from vsock_tap import check
from vsock_tap.cli import parse_arguments

SECRET = "a-token-of-many-characters"
VSOCK_TAP = Path(sysconfig.get_path("scripts")) / "vsock-tap"
REFUSAL = (
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n"
    b"Connection: close\r\n\r\nx\n"
)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    return path


# Where it is named


def test_the_flag_and_the_setting(token: Path, tmp_path: Path) -> None:
    config = parse_arguments(["-token-file", str(token), "-config", ""])
    assert config.bearer == bearer.Bearer(token, SECRET)
    settings = tmp_path / "settings"
    settings.write_text(f"TOKEN_FILE = '{token}'\n")
    assert parse_arguments(["-config", str(settings)]).bearer == config.bearer
    other = tmp_path / "other"
    other.touch(0o600)
    other.write_text(SECRET[::-1])
    found = parse_arguments(["-config", str(settings), f"--token-file={other}"]).bearer
    assert found == bearer.Bearer(other, SECRET[::-1])
    assert parse_arguments(["-config", ""]).bearer is None


def test_it_is_not_shown(token: Path) -> None:
    config = parse_arguments(["-token-file", str(token), "-config", ""])
    assert SECRET not in f"{config!r} {config}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [("tcp://192.0.2.1:1", ""), ("unix:///s", ", which only a tcp:// host gets")],
)
def test_check_names_the_file_only(token: Path, url: str, shown: str) -> None:
    config = parse_arguments(["-url", url, "-token-file", str(token), "-config", ""])
    plan = dict(check._plan(config))
    assert plan["token"] == f"of {token}{shown}"
    assert SECRET not in "".join(plan.values())


WRONG: list[tuple[bytes | None, int, str]] = [
    (b"", 0o600, "is empty"),
    (b"\n", 0o600, "is empty"),
    (b"123456789012345", 0o600, "has a token of less than 16 characters"),
    (f"{SECRET}\n{SECRET}".encode(), 0o600, "has more than one line"),
    (f"{SECRET}\r\nX: y".encode(), 0o600, "has more than one line"),
    (f"{SECRET} y".encode(), 0o600, "has other characters in it than a token may have: "),
    (SECRET.encode(), 0o604, "has mode 0604: nobody but its owner may have access (0600)"),
    (SECRET.encode(), 0o640, "has mode 0640: nobody but its owner may have access (0600)"),
    (None, 0, "cannot be read: No such file or directory"),
]


@pytest.mark.parametrize(("contents", "mode", "said"), WRONG)
@pytest.mark.parametrize("way", ["flag", "setting"])
def test_a_file_that_cannot_be_used(
    tmp_path: Path,
    contents: bytes | None,
    mode: int,
    said: str,
    way: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, settings = tmp_path / "token", tmp_path / "settings"
    if contents is not None:
        path.write_bytes(contents)
        path.chmod(mode)
    settings.write_text(f"\ntoken-file = {path}\n")
    given = ["-config", "", "-token-file", str(path)] if way == "flag" else ["-config", settings]
    with pytest.raises(SystemExit) as ended:
        parse_arguments([str(argument) for argument in given])
    out, error = capsys.readouterr()
    assert (ended.value.code, out, error.count("\n")) == (1, "", 1)
    place = "" if way == "flag" else f"{settings}:2: "
    assert error.startswith(f"vsock-tap: {place}-token-file {path}: {said}")
    assert SECRET not in error


@pytest.mark.parametrize("value", ["", "''", '""'])
def test_no_path_at_all(tmp_path: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings"
    settings.write_text(f"token-file = {value}\n")
    for argv in (["-config", "", "-token-file", ""], ["-config", str(settings)]):
        with pytest.raises(SystemExit) as ended:
            parse_arguments(argv)
        assert ended.value.code == 1
        place = "" if argv[1] == "" else f"{settings}:1: "
        assert capsys.readouterr().err == f"vsock-tap: {place}-token-file: must not be empty\n"


@pytest.mark.parametrize("more", [[], ["-check"], ["-healthy"], ["-load-modules"]])
def test_the_command_refuses_it(token: Path, more: list[str]) -> None:
    token.chmod(0o644)
    done = subprocess.run(
        [VSOCK_TAP, "-url", "unix:///none", "-config", "", "-token-file", token, *more],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (1, "")
    said = f"{token}: has mode 0644: nobody but its owner may have access (0600)"
    assert done.stderr == f"vsock-tap: -token-file {said}\n"


@pytest.mark.root
@other_users
def test_another_users_file(token: Path) -> None:
    """A service of another user is told why, and nothing of what is in the file."""
    with temporary_folder() as folder, Namespace("machine", folder) as machine:
        command = (VSOCK_TAP, "-url", "tcp://127.0.0.1:1", "-config", "", "-token-file")
        here = folder / "token"
        token.rename(here)
        folder.chmod(0o755)
        done = machine.try_run(*AS_NOBODY, *command, here)
    said = f"vsock-tap: -token-file {here}: cannot be read: Permission denied\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


# Who gets it


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("tcp://192.0.2.1:1024", True),
        ("tcp://[2001:db8::1]:1024", True),
        ("tcp://host.example:1024/connect", True),
        ("unix:///run/network.sock", False),
        ("vsock://2:1024/connect", False),
        ("stdio:///bin/true", False),
    ],
)
def test_only_a_tcp_host_gets_it(token: Path, url: str, sent: bool) -> None:
    request = connect_request(parse(url), Offload.NONE, bearer.read(str(token)))
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines.count(f"Authorization: Bearer {SECRET}".encode()) == sent
    assert (SECRET.encode() in request) is sent
    assert body == b""
    assert b"Authorization" not in connect_request(parse(url), Offload.NONE)


class Lab:
    """An agent's machine, in which there is a host at a TCP port and one at a unix socket."""

    def __init__(self, machine: Namespace, folder: Path) -> None:
        self.machine = machine
        self.tcp = Host(machine.listen("127.0.0.1"))
        self.unix = Host(folder / "host.sock")
        self.token = folder / "token"
        self.token.touch(0o600)
        self.token.write_text(SECRET)

    def agent(self, host: Host, *flags: str) -> Agent:
        return Agent(self.machine, host.url, "-config", "", "-debug", *flags)

    def close(self) -> None:
        self.tcp.close()
        self.unix.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with temporary_folder() as folder, Namespace("machine", folder) as machine:
        lab = Lab(machine, folder)
        try:
            yield lab
        finally:
            lab.close()


@pytest.mark.root
def test_a_host_that_asks_for_it(lab: Lab) -> None:
    agent = lab.agent(lab.tcp, "-token-file", str(lab.token))
    guest = lab.tcp.accept()
    assert guest.request.headers["authorization"] == f"Bearer {SECRET}"
    guest.lease()
    agent.wait()
    guest.close()
    again = lab.tcp.accept()
    assert again.request.headers["authorization"] == f"Bearer {SECRET}"
    command = Path(f"/proc/{agent.process.pid}/cmdline").read_bytes()
    environment = Path(f"/proc/{agent.process.pid}/environ").read_bytes()
    agent.process.stop()
    for shown in (command, environment, agent.process.log.read_bytes()):
        assert SECRET.encode() not in shown


@pytest.mark.root
def test_a_host_at_a_unix_socket_does_not_get_it(lab: Lab) -> None:
    agent = lab.agent(lab.unix, "-token-file", str(lab.token))
    assert "authorization" not in lab.unix.accept().request.headers
    agent.process.stop()


@pytest.mark.root
@pytest.mark.parametrize("given", [True, False])
def test_a_host_that_refuses_is_asked_again(lab: Lab, given: bool) -> None:
    """One line says so, however often; a host that thinks better of it is a network."""
    agent = lab.agent(lab.tcp, *(["-token-file", str(lab.token)] if given else []))
    for _ in range(3):
        lab.tcp.refuse(REFUSAL)
    said = agent.process.wait_for("401")
    assert said.endswith(
        f" WARNING no link to {lab.tcp.url}: the host refuses the link: 401 Unauthorized; "
        "-token-file names its token; trying again"
    )
    guest = lab.tcp.accept()
    assert ("authorization" in guest.request.headers) is given
    guest.lease()
    agent.wait()
    agent.process.stop()
    log = agent.process.log.read_text()
    assert log.count("401") == 1
    assert SECRET not in log
    assert "Traceback" not in log


@pytest.mark.root
@pytest.mark.parametrize("answer", ["reason", "header", "text"])
def test_a_host_that_sends_it_back(lab: Lab, answer: str) -> None:
    """What a host says is in the log, but for what it was told."""
    answers = {
        "reason": f"HTTP/1.1 401 {SECRET}\r\nContent-Length: 0\r\n\r\n",
        "header": f"HTTP/1.1 403 No\r\nX {SECRET}\r\n\r\n",
        "text": f"Authorization: Bearer {SECRET}\r\n",
    }
    agent = lab.agent(lab.tcp, "-token-file", str(lab.token))
    lab.tcp.refuse(answers[answer].encode())
    agent.process.wait_for("no link to")
    agent.process.stop()
    assert SECRET not in agent.process.log.read_text()


@pytest.mark.root
def test_it_is_read_once(lab: Lab) -> None:
    """So a service can give up its rights to the file, and a link that is lost comes back."""
    agent = lab.agent(lab.tcp, "-token-file", str(lab.token))
    first = lab.tcp.accept()
    lab.token.unlink()
    first.close()
    assert lab.tcp.accept().request.headers["authorization"] == f"Bearer {SECRET}"
    agent.process.stop()
