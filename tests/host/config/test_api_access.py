"""Where the API may listen without a token, and what a file of one has to be like."""

import socket
from pathlib import Path

import pytest

from gvproxy import activation, cli
from gvproxy.activation import Inherited
from gvproxy.config import configure
from gvproxy.errors import ConfigError
from gvproxy.listening import Dialect

SECRET = "a-token-of-many-characters"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    return path


OPEN = ["tcp://0.0.0.0:1024", "tcp://:1024", "tcp://[::]:1024", "tcp://192.0.2.1:1024",
        "tcp://host.example:1024", "tcp://[::ffff:192.0.2.1]:80", "tcp://127.0.0.1.example:80",
        "tcp://2130706433:80"]  # fmt: skip


@pytest.mark.parametrize("flag", ["listen", "services"])
@pytest.mark.parametrize("url", OPEN)
def test_other_machines_need_a_token(flag: str, url: str, token: Path) -> None:
    given = {flag: [url] if flag == "listen" else url}
    with pytest.raises(ConfigError) as caught:
        configure(**given)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"-{flag}: {url} takes calls of other machines, which needs an -api-token-file; "
        "127.0.0.1 takes those of this one"
    )
    config = configure(**given, api_token_file=str(token))  # type: ignore[arg-type]
    assert config.api_token is not None
    assert config.api_token.secret == SECRET


@pytest.mark.parametrize(
    "url",
    ["tcp://127.0.0.1:1", "tcp://127.9.9.9:1", "tcp://[::1]:1", "tcp://localhost:1", "unix:///s"],
)
def test_this_machine_needs_none(url: str) -> None:
    assert configure(listen=[url], services="tcp://127.0.0.1:2").api_token is None


@pytest.mark.parametrize("url", OPEN)
def test_hypervisors_have_no_api(url: str) -> None:
    configure(listen_qemu=url)
    configure(listen_vpnkit=url)


@pytest.mark.parametrize(
    ("contents", "mode", "said"),
    [
        ("", 0o600, "is empty"),
        ("short", 0o600, "has a token of less than 16 characters"),
        (SECRET, 0o640, "has mode 0640: nobody but its owner may have access (0600)"),
        (SECRET, 0o604, "has mode 0604: nobody but its owner may have access (0600)"),
        (f"{SECRET}\n{SECRET}", 0o600, "has more than one line"),
        (None, 0, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_used(
    token: Path,
    contents: str | None,
    mode: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    token.unlink()
    if contents is not None:
        token.write_text(contents)
        token.chmod(mode)
    with pytest.raises(SystemExit) as ended:
        cli.main(["-listen", "unix:///none", "-api-token-file", str(token)])
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (1, "")
    assert error == f"gvproxy: -api-token-file {token}: {said}\n"


def test_the_secret_is_not_shown(token: Path) -> None:
    assert SECRET not in repr(configure(api_token_file=str(token)))


def test_the_file_of_settings(tmp_path: Path, token: Path) -> None:
    path = tmp_path / "gvproxy.yaml"
    path.write_text(f"listen: ['tcp://0.0.0.0:1']\napi-token-file: {token}\nguest-api: false\n")
    config = cli.parse(["-config", str(path)])
    assert config.api_token is not None
    assert not config.guest_api
    assert cli.parse(["-config", str(path), "-guest-api"]).guest_api
    path.write_text("listen: ['tcp://0.0.0.0:1']\n")
    with pytest.raises(ConfigError, match=r"^listen \(.* line 1\): tcp://0.0.0.0:1 takes calls of"):
        cli.parse(["-config", str(path)])
    path.write_text("api-token-file: /nowhere\n")
    with pytest.raises(
        ConfigError, match=r"^api-token-file \(.* line 1\) /nowhere: cannot be read"
    ):
        cli.parse(["-config", str(path)])


def test_the_guests_api() -> None:
    assert cli.parse([]).guest_api
    assert not cli.parse(["-guest-api=false"]).guest_api


@pytest.mark.parametrize(
    ("host", "dialect", "refused"),
    [
        ("0.0.0.0", None, True),
        ("127.0.0.1", None, False),
        ("0.0.0.0", Dialect.QEMU, False),
    ],
)
def test_a_socket_of_systemds(host: str, dialect: Dialect | None, refused: bool) -> None:
    with socket.socket() as sock:
        sock.bind((host, 0))
        inherited = [Inherited(sock, 3, "listen", dialect)]
        if not refused:
            activation.check_loopback(inherited)
            return
        said = "^systemd's socket listen takes calls of other machines, which needs an -api-token"
        with pytest.raises(ConfigError, match=said):
            activation.check_loopback(inherited)
