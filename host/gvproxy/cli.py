"""The command `gvproxy`: flags in, a `Config` out, and the daemon started with it.

The flags are those of Go's gvproxy, in whose place the command stands; `taplink.flags` says how
they are written.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gvproxy import config as settings
from gvproxy.config import Config, ConfigError, configure
from gvproxy.errors import GvproxyError
from taplink import flags
from taplink.text import reason

log = logging.getLogger(__name__)

PROGRAM = "gvproxy"
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

_NOT_SUPPORTED_YET = (
    "config",
    "listen-qemu",
    "listen-vpnkit",
    "listen-bess",
    "listen-stdio",
    "listen-vfkit",
    "forward-sock",
    "forward-dest",
    "forward-user",
    "forward-identity",
)


def main(argv: list[str] | None = None) -> int:
    """Run the daemon and return its exit status; raises SystemExit where it is not run."""
    with flags.errors_in_one_line(PROGRAM, log, GvproxyError):
        config = parse(sys.argv[1:] if argv is None else argv)
        set_up_logging(debug=config.debug, log_file=config.log_file)
        # Only now: a wrong flag is told, and the version printed, without loading the stack.
        from gvproxy import daemon

        return daemon.run(config)


def parse(argv: Sequence[str]) -> Config:
    """Read the command line; raises ConfigError, and SystemExit as `flags.Parser.read` does."""
    options = _parser().read(argv)
    return configure(
        listen=options.listen,
        services=options.services,
        mtu=options.mtu,
        ssh_port=options.ssh_port,
        subnet=options.subnet,
        gateway_ip=options.gateway_ip,
        device_ip=options.device_ip,
        host_ip=options.host_ip,
        connect_timeout=options.connect_timeout,
        keepalive=options.keepalive,
        debug=options.debug,
        log_file=options.log_file,
        pid_file=options.pid_file,
        pcap=options.pcap,
        notification=options.notification,
        ec2_metadata=options.ec2_metadata,
    )


def set_up_logging(*, debug: bool, log_file: Path | None) -> None:
    """Send the log to `log_file`, appending, or to standard error; raises ConfigError."""
    handler: logging.Handler = logging.StreamHandler()
    if log_file is not None:
        try:
            handler = logging.FileHandler(log_file, encoding="utf-8", errors="backslashreplace")
        except (OSError, ValueError) as error:
            raise ConfigError(f"-log-file {log_file} cannot be written: {reason(error)}") from error
    level = logging.DEBUG if debug else logging.INFO
    logging.basicConfig(level=level, format=_LOG_FORMAT, handlers=[handler], force=True)


class _NotSupportedYet(argparse.Action):
    """Refuses a flag that Go's gvproxy knows and this version does not."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        parser.error(f"-{self.dest} is not supported yet")


def _parser() -> flags.Parser:
    parser = flags.Parser(
        PROGRAM,
        "A network for virtual machines, without privileges on the host.",
        epilog="Not supported yet: " + ", ".join(f"-{name}" for name in _NOT_SUPPORTED_YET),
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
        "--services",
        metavar="URL",
        help="take API calls there as well, and no guests",
    )
    add(
        "--mtu",
        type=flags.integer,
        default=settings.DEFAULT_MTU,
        metavar="BYTES",
        help=f"the guests' MTU, {settings.MIN_MTU} to {settings.MAX_MTU} (default %(default)s)",
    )
    add(
        "--ssh-port",
        type=flags.integer,
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
    add(
        "--connect-timeout",
        type=flags.integer,
        default=settings.DEFAULT_CONNECT_TIMEOUT,
        metavar="SECONDS",
        help="give a guest's connection to the outside up after so long (default %(default)s)",
    )
    add(
        "--tcp-keepalive",
        dest="keepalive",
        type=flags.integer,
        default=settings.DEFAULT_KEEPALIVE,
        metavar="SECONDS",
        help="ask a guest about a connection that was silent for so long; 0 for never "
        "(default %(default)s)",
    )
    add("--log-file", metavar="FILE", help="append the log to FILE, instead of standard error")
    add("--pid-file", metavar="FILE", help="write the process id to FILE, removed at the end")
    add("--pcap", metavar="FILE", help="record all frames in FILE, for Wireshark and tcpdump")
    add(
        "--notification",
        metavar="PATH",
        help="tell the unix socket PATH of guests that come and go, in JSON",
    )
    parser.add_switch(
        "--ec2-metadata-access",
        "let guests reach 169.254.0.0/16 and with it the cloud's metadata",
        dest="ec2_metadata",
    )
    parser.add_switch("--debug", "log in detail")
    for name in _NOT_SUPPORTED_YET:
        add(f"--{name}", dest=name, nargs="?", action=_NotSupportedYet, help=argparse.SUPPRESS)
    return parser
