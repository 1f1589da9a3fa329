"""The settings file: flags by their names, which the command line overrides."""

from pathlib import Path

import pytest

from vsock_tap import settings
from vsock_tap.cli import parse_arguments

FILE = """\
# A comment
url = unix:///run/s  # another

MTU=4000
STOP_IF_EXIST=""
Iface = 'vsock0'
debug = true
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "vsock-tap.conf"
    monkeypatch.setattr(settings, "FILES", (tmp_path / "none", path))
    return path


def test_settings_are_flags(path: Path) -> None:
    path.write_text(FILE)
    config = parse_arguments([])
    assert str(config.endpoint) == "unix:///run/s"
    assert (config.mtu, config.stop_if_exist, config.interface) == (4000, (), "vsock0")
    assert config.debug
    assert config.settings == path


def test_the_command_line_wins(path: Path) -> None:
    path.write_text(FILE)
    config = parse_arguments(["-mtu", "1400", "-debug=false", "-stop-if-exist", "a"])
    assert (config.mtu, config.debug, config.stop_if_exist) == (1400, False, ("a",))
    assert config.interface == "vsock0"


def test_no_file_there(path: Path) -> None:
    config = parse_arguments([])
    assert config.settings is None
    assert config.interface == "tap0"


def test_the_file_named(path: Path, tmp_path: Path) -> None:
    path.write_text("iface = one\n")
    other = tmp_path / "other"
    other.write_text("mtu = 1300\n")
    config = parse_arguments(["-config", str(other)])
    assert (config.interface, config.mtu, config.settings) == ("tap0", 1300, other)
    assert parse_arguments(["-config", ""]).settings is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mtu = 12", "1: -mtu: '12' is no MTU: 576 to 65520"),
        ("\nspeed = 1", "2: speed is no setting"),
        ("mtu", "1: 'mtu' is not like name = value"),
        ("mtu = 1 2", "1: '1 2' is more than one value; quotes keep spaces"),
        ("url = 'unix:///x", "1: No closing quotation"),
        ("config = /x", "1: config is for the command line only"),
        ("version = 1", "1: version is for the command line only"),
        ("debug = perhaps", "1: -debug: 'perhaps' is neither true nor false"),
        ("= 1", "1: '= 1' is not like name = value"),
        ("-mtu = 1400", "1: '-mtu = 1400' is not like name = value"),
        ("[section]", "1: '[section]' is not like name = value"),
    ],
)
def test_what_is_wrong_has_its_line(
    path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    path.write_text(text + "\n")
    with pytest.raises(SystemExit) as end:
        parse_arguments([])
    assert end.value.code == 1
    assert capsys.readouterr() == ("", f"vsock-tap: {path}:{said}\n")


@pytest.mark.parametrize("make", ["folder", "bytes", "nothing"])
def test_a_file_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    path = tmp_path / "file"
    if make == "folder":
        path.mkdir()
    elif make == "bytes":
        path.write_bytes(b"\xff\xfe")
    with pytest.raises(SystemExit) as end:
        parse_arguments(["-config", str(path)])
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"vsock-tap: {path} ")
    assert said.count("\n") == 1
