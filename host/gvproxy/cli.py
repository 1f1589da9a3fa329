"""The command `gvproxy`: flags in, a `Config` out, and the daemon started with it.

Flags are Go's: one dash or two, `-flag value` or `-flag=value`, a switch takes `=true` or
`=false`.  Whatever is wrong with them ends with one line on standard error and status 1.
"""

import argparse
import logging
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from gvproxy import config as settings
from gvproxy.config import Config, ConfigError, configure
from gvproxy.errors import GvproxyError

_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_ONE_DASH = re.compile("-[A-Za-z][^=]")

_NOT_SUPPORTED_YET = (
    "config",
    "services",
    "listen-qemu",
    "listen-vpnkit",
    "listen-bess",
    "listen-stdio",
    "listen-vfkit",
    "pcap",
    "notification",
    "ec2-metadata-access",
    "forward-sock",
    "forward-dest",
    "forward-user",
    "forward-identity",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status; -help and -version raise SystemExit."""
    try:
        config = parse(sys.argv[1:] if argv is None else argv)
        set_up_logging(debug=config.debug, log_file=config.log_file)
        # Only now: a wrong flag is told, and the version printed, without loading the stack.
        from gvproxy import daemon

        return daemon.run(config)
    except GvproxyError as error:
        print(f"gvproxy: {_printable(str(error))}", file=sys.stderr)
        return 1


def parse(argv: Sequence[str]) -> Config:
    """Read the command line; raises ConfigError, and SystemExit for -help and -version."""
    options = _parser().parse_args([_with_two_dashes(argument) for argument in argv])
    return configure(
        listen=options.listen,
        mtu=options.mtu,
        ssh_port=options.ssh_port,
        subnet=options.subnet,
        gateway_ip=options.gateway_ip,
        device_ip=options.device_ip,
        host_ip=options.host_ip,
        debug=options.debug,
        log_file=options.log_file,
        pid_file=options.pid_file,
    )


def set_up_logging(*, debug: bool, log_file: Path | None) -> None:
    """Send the log to `log_file`, appending, or to standard error; raises ConfigError."""
    handler: logging.Handler = logging.StreamHandler()
    if log_file is not None:
        try:
            handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"log-file {log_file} cannot be written: {reason}") from error
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, format=_LOG_FORMAT, handlers=[handler], force=True)
    # One line per API call is what -debug is for.
    logging.getLogger("aiohttp.access").setLevel(logging.DEBUG if debug else logging.WARNING)


class _Parser(argparse.ArgumentParser):
    """Raises where argparse prints its usage and exits with 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (-help lists the flags)")


class _NotSupportedYet(argparse.Action):
    """Refuses a flag that Go's gvproxy knows and this version does not."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        raise ConfigError(f"-{self.dest} is not supported yet")


def _parser() -> argparse.ArgumentParser:
    # Only forms with two dashes are known to argparse: of those with one it takes abbreviations.
    parser = _Parser(
        prog="gvproxy",
        usage="gvproxy [flag ...]",
        description="A network for virtual machines, without privileges on the host.",
        epilog=textwrap.fill(
            "Flags take one dash or two.  Not supported yet: "
            + ", ".join(f"-{name}" for name in _NOT_SUPPORTED_YET),
            break_on_hyphens=False,
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add(
        "--listen",
        action="append",
        default=[],
        metavar="URL",
        help="take guests and API calls at vsock://[CID]:PORT, unix:///PATH or tcp://HOST:PORT; "
        f"may be given more than once (default {settings.DEFAULT_LISTEN})",
    )
    add(
        "--mtu",
        type=_integer,
        default=settings.DEFAULT_MTU,
        metavar="BYTES",
        help=f"the guests' MTU, {settings.MIN_MTU} to {settings.MAX_MTU} (default %(default)s)",
    )
    add(
        "--ssh-port",
        type=_integer,
        default=settings.DEFAULT_SSH_PORT,
        metavar="PORT",
        help="the port on 127.0.0.1 that leads to the guest's port 22; -1 for none "
        "(default %(default)s)",
    )
    add(
        "--subnet",
        default=settings.DEFAULT_SUBNET,
        metavar="CIDR",
        help="the virtual network (default %(default)s)",
    )
    for name, dest, what in (
        ("gatewayIP", "gateway_ip", "the gateway's address (default: the subnet's first)"),
        ("deviceIP", "device_ip", "the guest's address (default: the second)"),
        ("hostIP", "host_ip", "the address that leads to the host's 127.0.0.1 (default: the last)"),
    ):
        add(f"--{name}", dest=dest, metavar="IP", help=what)
    add("--log-file", metavar="FILE", help="append the log to FILE, instead of standard error")
    add("--pid-file", metavar="FILE", help="write the process id to FILE, removed at the end")
    add(
        "--debug",
        type=_boolean,
        nargs="?",
        const=True,
        default=False,
        metavar="true|false",
        help="log in detail",
    )
    add(
        "--version",
        action="version",
        version=f"gvproxy {version('vsock-tap')}",
        help="show the version",
    )
    add("-h", "--help", action="help", help="show this help")
    for name in _NOT_SUPPORTED_YET:
        add(f"--{name}", dest=name, nargs="?", action=_NotSupportedYet, help=argparse.SUPPRESS)
    return parser


def _with_two_dashes(argument: str) -> str:
    return f"-{argument}" if _ONE_DASH.match(argument) else argument


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _boolean(text: str) -> bool:
    """Read a switch's value as Go's strconv.ParseBool does."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def _printable(text: str) -> str:
    """Keep a message on one line, whatever the user's values in it are made of."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
