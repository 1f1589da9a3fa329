"""The settings file: flags by their names, which the command line overrides."""

import os
import shlex
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import text

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
        ("url = 'unix:///x", "1: a quote or a backslash stands alone"),
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tap#1", "tap#1"),
        ("tap1 #1", "tap1"),
        ("tap1\t# it's one", "tap1"),
        ("# none", ""),
        ("''#1", "#1"),
        ("'#1'", "#1"),
    ],
)
def test_a_comment_begins_where_a_word_could(path: Path, text: str, value: str) -> None:
    path.write_text(f"iface = {text}\n")
    assert [setting[1:] for setting in settings.read(path)] == [("iface", value)]


@given(text(alphabet="a '\"\\\t", max_size=12))
def test_quotes_are_a_shells(text: str) -> None:
    try:
        words = shlex.split(text)
    except ValueError:
        words = ["", ""]
    if len(words) > 1:
        with pytest.raises(ValueError, match=r"^x: "):
            settings._value(text, "x")
    else:
        assert settings._value(text, "x") == "".join(words)


def test_a_byte_order_mark_is_skipped(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfmtu = 1400\n")
    assert parse_arguments([]).mtu == 1400


@pytest.mark.timeout(5)
@pytest.mark.parametrize(
    ("text", "interface"),
    [
        ("mtu = 1400\n" * 80_000 + "iface = x", "x"),
        (f"iface = x {'#' * 1_000_000}", "x"),
        (f"iface = x{chr(39) * 1_000_000}", "x"),
        ("iface = " + "x" * 1_000_000, None),
        (f'iface = "{"x" * 1_000_000}', None),
        ("x" * 1_000_000, None),
    ],
    ids=["lines", "comment", "quotes", "word", "open", "name"],
)
def test_a_large_file_takes_no_time(path: Path, text: str, interface: str | None) -> None:
    path.write_text(text)
    if interface is None:
        with pytest.raises(SystemExit):
            parse_arguments([])
    else:
        assert parse_arguments([]).interface == interface


@pytest.mark.parametrize("make", ["fifo", "device", "socket", "large"])
def test_what_is_no_settings_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: str
) -> None:
    path, said = tmp_path / "file", "is no regular file"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "device":
        path.symlink_to("/dev/zero")
    elif make == "socket":
        said = "cannot be read: No such device or address"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        said = "is larger than 1 MiB"
        path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(SystemExit) as end:
        parse_arguments(["-config", str(path)])
    assert end.value.code == 1
    assert capsys.readouterr() == ("", f"vsock-tap: {path} {said}\n")


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
