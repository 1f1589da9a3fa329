"""The command line: gvforwarder's flags, and one line with status 1 for what is wrong."""

import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import pytest

from vsock_tap import check
from vsock_tap.cli import parse_arguments
from vsock_tap.config import Config, parse_mac, parse_mtu, parse_names

VSOCK_TAP = Path(sysconfig.get_path("scripts")) / "vsock-tap"


def test_defaults() -> None:
    config = parse_arguments([])
    assert str(config.endpoint) == "vsock://2:1024/connect"
    assert (config.interface, config.mac, config.mtu) == ("tap0", "5a:94:ef:e4:0c:ee", None)
    assert config.stop_if_exist == ("eth0", "ens3", "enp0s1")
    assert not config.preexisting
    assert not config.debug


@pytest.mark.parametrize("dash", ["-", "--"])
@pytest.mark.parametrize("joined", [True, False])
def test_all_flags(dash: str, joined: bool) -> None:
    flags = {
        "url": "unix:///run/s",
        "iface": "vsock0",
        "mac": "02-00-00-00-00-AB",
        "mtu": "4000",
        "stop-if-exist": "a,b",
    }
    arguments = []
    for name, value in flags.items():
        arguments += [f"{dash}{name}={value}"] if joined else [dash + name, value]
    config = parse_arguments([*arguments, f"{dash}preexisting", f"{dash}debug"])
    assert config == Config(
        endpoint=config.endpoint,
        interface="vsock0",
        mac="02:00:00:00:00:ab",
        mtu=4000,
        preexisting=True,
        stop_if_exist=("a", "b"),
        debug=True,
    )
    assert str(config.endpoint) == "unix:///run/s"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("-debug", True),
        ("-debug=true", True),
        ("--debug=1", True),
        ("-debug=false", False),
        ("-debug=0", False),
    ],
)
def test_switches(argument: str, value: bool) -> None:
    assert parse_arguments([argument]).debug is value
    assert parse_arguments([argument, "-iface", "x"]).interface == "x"


@pytest.mark.parametrize("arguments", [["-stop-if-exist", ""], ["-stop-if-exist="]])
def test_nothing_to_stop_for(arguments: list[str]) -> None:
    assert parse_arguments(arguments).stop_if_exist == ()


WRONG = [
    ["-url", "nonsense"],
    ["-url", "http://2:1024"],
    ["-url", "vsock://2:1024/a b"],
    ["-url", "tcp://a..b:1"],
    ["-url", "tcp://:1024"],
    ["-url", "vsock://:1024"],
    ["-url", "unixgram:///x"],
    ["-url"],
    ["-url="],
    ["-iface", ""],
    ["-iface", "much-too-long-for-it"],
    ["-iface", "a/b"],
    ["-mac", "zz"],
    ["-mac", "5a:94:ef:e4:0c"],
    ["-mac", "ff:ff:ff:ff:ff:ff"],
    ["-mac", "01:00:5e:00:00:01"],
    ["-mac", "00:00:00:00:00:00"],
    ["-mtu", "0"],
    ["-mtu", "575"],
    ["-mtu", "65521"],
    ["-mtu", "-1"],
    ["-mtu", "1500x"],
    ["-mtu", "٣٠٠٠"],
    ["-debug=perhaps"],
    ["-ur", "vsock://2:1024"],
    ["--ur", "vsock://2:1024"],
    ["-unknown"],
    ["unknown"],
    ["-d"],
    ["-"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_is_one_line_and_status_1(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments(arguments)
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vsock-tap: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("flag", ["-version", "--version", "-v"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments([flag])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"vsock-tap version {version('vsock-tap')}\n"


@pytest.mark.parametrize("flag", ["-help", "--help", "-h"])
def test_help_names_every_flag(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments([flag])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in ("url", "iface", "mac", "mtu", "stop-if-exist", "preexisting", "debug", "version"):
        assert f"--{name}" in text
    assert "576 to 65520" in " ".join(text.split())


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([VSOCK_TAP, *arguments], capture_output=True, text=True, timeout=30)


def test_the_command() -> None:
    wrong = run("-mac", "zz")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.splitlines() == [
        "vsock-tap: -mac: 'zz' is no MAC address, such as 5a:94:ef:e4:0c:ee"
    ]
    assert run("-version").stdout == f"vsock-tap version {version('vsock-tap')}\n"


def test_stop_if_exist() -> None:
    stopped = run("-stop-if-exist", "nope,lo", "-url", "unix:///nonexistent")
    assert stopped.returncode == 0
    assert "the interface lo exists (-stop-if-exist): nothing to do" in stopped.stderr


_BROKEN = """
import socket, sys
from vsock_tap import cli
def broken():
    raise RuntimeError("nobody expected this")
socket.if_nameindex = broken
sys.argv = ["vsock-tap", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("debug", [False, True])
def test_an_internal_error_is_one_line(debug: bool) -> None:
    code = [sys.executable, "-c", _BROKEN, *(["-debug"] if debug else [])]
    done = subprocess.run(code, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    line = "vsock-tap: internal error (RuntimeError: nobody expected this); -debug shows where"
    assert done.stderr.splitlines()[-1] == line
    assert (len(done.stderr.splitlines()) > 1) is debug
    assert ("Traceback" in done.stderr) is debug


def test_the_command_is_light() -> None:
    """Nothing is configured by importing the agent's modules."""
    code = "import vsock_tap.cli, asyncio; asyncio.get_event_loop_policy()"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], timeout=30)
    assert done.returncode == 0


def test_values() -> None:
    assert parse_mac("5A:94:EF:E4:0C:EE") == "5a:94:ef:e4:0c:ee"
    assert parse_mtu("576") == 576
    assert parse_mtu("65520") == 65520
    assert parse_names(" eth0 ,,ens3") == ("eth0", "ens3")


@pytest.mark.parametrize(
    ("release", "marks"),
    [("4.19.0", False), ("5.17.9", False), ("5.18.0-rc1", True), ("6.1-custom", True)],
)
def test_kernels_that_keep_who_has_set_an_address(release: str, marks: bool) -> None:
    assert check._marks_addresses(release) is marks
