"""The command line: what reaches the daemon, and one line for each error."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path
from types import ModuleType

import pytest

import gvproxy
from gvproxy import cli
from gvproxy.config import Config, Forward, configure
from tests.lab.programs import GVPROXY, Gvproxy


class _Daemon(ModuleType):
    """Stands in for `gvproxy.daemon`, and remembers how it was run."""

    def __init__(self) -> None:
        super().__init__("gvproxy.daemon")
        self.configs: list[Config] = []

    def run(self, config: Config, inherited: tuple[object, ...]) -> int:
        assert not inherited
        self.configs.append(config)
        return 7


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> _Daemon:
    fake = _Daemon()
    monkeypatch.setitem(sys.modules, "gvproxy.daemon", fake)
    monkeypatch.setattr(gvproxy, "daemon", fake, raising=False)
    return fake


@pytest.fixture(autouse=True)
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_every_flag_reaches_the_config() -> None:
    urls = ["unix:///tmp/gvproxy.sock", "tcp://127.0.0.1:7777"]
    argv = f"-listen {urls[0]} -listen={urls[1]} -subnet 10.0.0.0/24 -gatewayIP 10.0.0.9"
    argv += " -deviceIP 10.0.0.8 -hostIP 10.0.0.7 -log-file /tmp/log -pid-file /tmp/pid"
    argv += " -services unix:///tmp/api.sock -pcap /tmp/pcap -notification unix:///tmp/n.sock"
    argv += " -ec2-metadata-access -source-checks=false"
    argv += " -drop-privileges=false -allow-path /a -allow-path /b"
    assert cli.parse(argv.split()) == configure(
        listen=urls,
        subnet="10.0.0.0/24",
        gateway_ip="10.0.0.9",
        device_ip="10.0.0.8",
        host_ip="10.0.0.7",
        log_file="/tmp/log",
        pid_file="/tmp/pid",
        services="unix:///tmp/api.sock",
        pcap="/tmp/pcap",
        notification="/tmp/n.sock",
        ec2_metadata=True,
        source_checks=False,
        drop_privileges=False,
        allow_paths=["/a", "/b"],
    )


def test_no_flag_is_needed() -> None:
    assert cli.parse([]) == configure()


def test_switches_and_numbers() -> None:
    argv = ["-debug", "-mtu", "4000", "-ssh-port", "-1", "-tcp-keepalive", "0"]
    argv += ["-connect-timeout", "5"]
    expected = configure(mtu=4000, ssh_port=-1, debug=True, keepalive=0, connect_timeout=5)
    assert cli.parse(argv) == expected
    assert expected.keepalive == inf
    assert expected.log_level == logging.DEBUG
    assert cli.parse(["-debug=false"]).log_level == logging.INFO


def test_the_daemon_decides_the_status(daemon: _Daemon) -> None:
    assert cli.main(["-mtu", "1400"]) == 7
    assert daemon.configs == [configure(mtu=1400)]


def ssh_forward(
    sock: str = "/a", dest: str = "/b", user: str = "me", identity: str = "/id"
) -> list[str]:
    flags = {"sock": sock, "dest": dest, "user": user, "identity": identity}
    return [word for flag, value in flags.items() for word in (f"-forward-{flag}", value)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["-mtu", "big"], "'big' is no whole number"),
        (["-mtu", "100"], "-mtu must be from"),
        (["-nonsense"], "unrecognized arguments"),
        (["-listen", "http://x"], "unknown scheme"),
        (["-listen", "vsock://\n:1"], "-listen: "),
        (["-gatewayIP", "300.1.1.1"], "-gatewayIP must be an IPv4 address"),
        (["-gatewayIP", "a\nb\x1b[31m\udcff"], r"a\nb\x1b[31m"),
        (["-log-file", "/nonexistent/log"], "cannot be written: No such file or directory"),
        (["-log-file", "/"], "-log-file / cannot be written: Is a directory"),
        (["-log-file", "a\0b"], "cannot be written"),
        (["-config", "/nonexistent"], "-config /nonexistent cannot be read: No such file"),
        (["--config=/"], "-config / cannot be read: Is a directory"),
        (["-config"], "-config: expected one argument"),
        (["-profile", "kubernetes"], "-profile must be one of containers, crc, not 'kubernetes'"),
        (["-services", "http://x"], "-services: http://x: unknown scheme"),
        (["-notification", "tcp://x:1"], "-notification must be the path of a unix socket"),
        (["-listen-vfkit", "unix:///s"], "-listen-vfkit: unix:///s: must be a unixgram:// URL"),
        (["-listen-bess", "unix:///s"], "-listen-bess: unix:///s: must be a unixpacket:// URL"),
        (["-listen-qemu", "vsock://:1"], "-listen-qemu: vsock://:1: must be a unix:// or tcp:// U"),
        (["-listen-vpnkit", "unixgram:///s"], "-listen-vpnkit: unixgram:///s: must be a unix://"),
        (
            ["-listen-qemu", "unix:///a", "-listen-vpnkit", "unix:///b"],
            "-listen-qemu and -listen-vpnkit cannot both be given",
        ),
        (
            ["-listen-bess", "unixpacket:///a", "-listen-qemu", "unix:///b"],
            "-listen-qemu and -listen-bess cannot both be given",
        ),
        (
            ["-listen-bess", "unixpacket:///a", "-listen-vpnkit", "unix:///b"],
            "-listen-vpnkit and -listen-bess cannot both be given",
        ),
        (
            ["-listen", "unix:///a", "-listen-qemu", "unix:///a"],
            "-listen: unix:///a is given twice",
        ),
        (["-listen-qemu", "unix:///a", "-services", "unix:///a"], "-services: unix:///a is given"),
        (
            ["-listen-bess", "unixpacket:///a", "-listen-vfkit", "unixgram:///a"],
            "-listen-vfkit: unixgram:///a is given twice",
        ),
        (["-listen-fd", "500"], "-listen-fd 500: no such descriptor was passed"),
        (["-ec2-metadata-access=so"], "-ec2-metadata-access: 'so' is neither true nor false"),
        (["-api-token-file", ""], "-api-token-file must not be empty\n"),
        (["-state-dir", ""], "-state-dir must not be empty\n"),
        (["-config", ""], "-config must not be empty\n"),
        (["-allow-path", "keys"], "-allow-path must be an absolute path, not 'keys'"),
        (["-forward-sock", "/a", "-forward-dest", "/b"], "must each be given the same number of"),
        (ssh_forward(dest="run/s"), "-forward-dest must be an absolute path, not 'run/s'"),
    ],
)
def test_bad_input_is_one_line_and_status_1(
    argv: list[str], said: str, daemon: _Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("gvproxy: ")
    assert said in output.err
    assert output.err.count("\n") == 1
    assert output.err[:-1].isprintable()
    assert daemon.configs == []


def test_a_descriptor_of_our_own_is_no_guest(tmp_path: Path) -> None:
    """The loop and the log have the lowest ones that were not passed."""
    for number in range(3, 16):
        command = [GVPROXY, "-listen-fd", str(number), "-log-file", str(tmp_path / "log")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        said = f"gvproxy: -listen-fd {number}: no such descriptor was passed\n"
        assert (done.returncode, done.stderr) == (1, said)


def test_a_descriptor_that_is_neither_tap_nor_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        number = file.fileno()
        done = subprocess.run(
            [GVPROXY, "-listen-fd", str(number)],
            capture_output=True,
            text=True,
            timeout=30,
            pass_fds=[number],
        )
    said = f"gvproxy: -listen-fd {number}: it is no tap, and no socket\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["-help"])
    shown = capsys.readouterr().out
    for name in ("listen", "mtu", "ssh-port", "subnet", "gatewayIP", "pid-file", "debug"):
        assert f"--{name} " in shown
    assert "at unix:///PATH, tcp://HOST:PORT or vsock://:PORT" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_the_log_goes_to_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    cli.set_up_logging(logging.INFO, path)
    logging.getLogger("gvproxy.test").info("taken")
    logging.getLogger("gvproxy.test").debug("left out")
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert len(lines) == 2
    assert lines[1].endswith("INFO    gvproxy.test: taken")
    assert capsys.readouterr().err == ""


def test_debug_logs_more(capsys: pytest.CaptureFixture[str]) -> None:
    cli.set_up_logging(logging.DEBUG, None)
    logging.getLogger("gvproxy.test").debug("detail")
    assert "DEBUG   gvproxy.test: detail" in capsys.readouterr().err


@pytest.mark.parametrize("debug", [False, True])
def test_an_error_that_nobody_expected_is_one_line(
    debug: bool, daemon: _Daemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> int:
        raise RuntimeError("nobody expected this")

    monkeypatch.setattr(daemon, "run", broken)
    with pytest.raises(SystemExit) as caught:
        cli.main(["-debug"] if debug else [])
    assert caught.value.code == 1
    shown = capfd.readouterr().err
    assert shown.endswith(
        "gvproxy: internal error (RuntimeError: nobody expected this); -debug shows where\n"
    )
    assert ("Traceback" in shown) is debug
    assert debug or shown.count("\n") == 1


_INTERRUPTED = """
import os, signal, sys
from importlib.metadata import entry_points
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
(program,) = entry_points(group="console_scripts", name="gvproxy")
program.load()()
"""


@pytest.mark.parametrize("module", ["gvproxy.cli", "gvproxy.config"])
def test_ctrl_c_while_modules_are_loaded_is_quiet(module: str) -> None:
    """The process ends by the signal, which a shell shows as status 130."""
    command = [sys.executable, "-c", _INTERRUPTED, module]
    done = subprocess.run(command, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_is_logged(number: signal.Signals, tmp_path: Path) -> None:
    process = Gvproxy(tmp_path).process
    os.kill(process.pid, number)
    assert process.wait(10) == 0
    assert process.last_line().endswith(f"gvproxy.daemon: ending ({number.name})")


def test_sockets_of_the_guest() -> None:
    first = ssh_forward("/tmp/one", "/run/a b", "core", "/home/me/.ssh/id")
    second = ssh_forward("npipe:////./pipe/two", "/run/two", "a@b", "id&rsa")
    config = cli.parse(["-deviceIP", "192.168.127.9", *first, *second])
    assert config.forwards[1:] == (
        Forward(
            "/tmp/one",
            "ssh-tunnel://core@192.168.127.9:22/run/a%20b?key=/home/me/.ssh/id",
            "unix",
        ),
        Forward(
            "//./pipe/two", "ssh-tunnel://a%40b@192.168.127.9:22/run/two?key=id%26rsa", "npipe"
        ),
    )
