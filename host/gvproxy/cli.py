"""The command `gvproxy`: flags in, a `Config` out, and the daemon started with it.

The flags are those of Go's gvproxy, in whose place the command stands; `taplink.flags` says how
they are written.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gvproxy import activation, listening
from gvproxy import config as settings
from gvproxy.config import Config, SshForward, configure
from gvproxy.errors import ConfigError, GvproxyError
from gvproxy.process import check_passed
from taplink import flags, journal
from taplink.text import reason

log = logging.getLogger(__name__)

PROGRAM = "gvproxy"
_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def main(argv: list[str] | None = None) -> int:
    """Run the daemon and return its exit status; raises SystemExit where it is not run."""
    with flags.errors_in_one_line(PROGRAM, log, GvproxyError):
        sockets = activation.sockets()
        config = parse(sys.argv[1:] if argv is None else argv, activated=bool(sockets))
        check_passed(config.descriptors)
        if config.api_token is None:
            activation.check_loopback(sockets)
        set_up_logging(config.log_level, config.log_file)
        # Only now: a wrong flag is told, and the version printed, without loading the stack.
        from gvproxy import daemon

        return daemon.run(config, sockets)


def parse(argv: Sequence[str], *, activated: bool = False) -> Config:
    """Read the command line, and the file that it names, which it overrides.

    `activated` tells that there are listening sockets already.
    Raises ConfigError, and SystemExit as `flags.Parser.read` does.
    """
    given = vars(make_parser().read(argv))
    _join_ssh_forwards(given)
    given |= {"activated": activated}
    path = given.pop("config", None)
    if path is None:
        return configure(**given)
    if not path:
        raise ConfigError("-config must not be empty")
    from gvproxy import configfile

    file = configfile.load(Path(path))
    try:
        return configure(**file.values | given)
    except ConfigError as error:
        raise ConfigError(file.renamed(str(error), besides=given)) from error


_SSH_FORWARD_FLAGS = {
    f"forward_{flag}": field
    for flag, field in (
        ("sock", "socket"),
        ("dest", "dest"),
        ("user", "user"),
        ("identity", "identity"),
    )
}


def _join_ssh_forwards(given: dict[str, Any]) -> None:
    """Put what belongs together of -forward-sock, -dest, -user and -identity into one setting."""
    lists = {field: given.pop(flag, []) for flag, field in _SSH_FORWARD_FLAGS.items()}
    if len({len(values) for values in lists.values()}) > 1:
        raise ConfigError(
            "-forward-sock, -forward-dest, -forward-user and -forward-identity "
            "must each be given the same number of times"
        )
    if lists["socket"]:
        given["ssh_forwards"] = [
            SshForward(**dict(zip(lists, values, strict=True)))
            for values in zip(*lists.values(), strict=True)
        ]


def set_up_logging(level: int, log_file: Path | None) -> None:
    """Send the log to `log_file`, appending, or to the journal or standard error.

    Raises ConfigError.
    """
    handler = journal.log_handler(PROGRAM, _LOG_FORMAT)
    if log_file is not None:
        try:
            handler = journal.log_file(log_file, _LOG_FORMAT)
        except (OSError, ValueError) as error:
            raise ConfigError(f"-log-file {log_file} cannot be written: {reason(error)}") from error
    logging.basicConfig(level=level, handlers=[handler], force=True)


def make_parser() -> flags.Parser:
    """Make what reads the command line, and what its manual page is made of."""
    parser = flags.Parser(
        PROGRAM,
        "A network for virtual machines, without privileges on the host.",
        only_given=True,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="read settings from FILE, in YAML; flags override them")
    add(
        "--profile",
        metavar="NAME",
        help=f"the set of built-in names, one of {', '.join(settings.PROFILES)} "
        f"(default {settings.DEFAULT_PROFILE})",
    )
    add(
        "--listen",
        action="append",
        metavar="URL",
        help="take guests and API calls at vsock://[CID]:PORT, unix:///PATH or tcp://HOST:PORT; "
        f"may be given more than once (default {listening.DEFAULT_LISTEN}, if no other is given)",
    )
    add(
        "--services",
        metavar="URL",
        help="take API calls there as well, and no guests",
    )
    add(
        "--api-token-file",
        metavar="FILE",
        help="ask callers over TCP for the token in FILE, which nobody else may read; "
        "without it -listen and -services take TCP at loopback addresses only",
    )
    for name, url, what in (
        ("qemu", "URL", "QEMU's -netdev stream or socket at unix:///PATH or tcp://HOST:PORT"),
        (
            "vpnkit",
            "URL",
            "hyperkit's vpnkit protocol at unix:///PATH, tcp://HOST:PORT or vsock://:PORT",
        ),
        ("bess", "URL", "BESS at unixpacket:///PATH"),
        ("vfkit", "URL", "vfkit at unixgram:///PATH"),
        ("tap", "URL", "taps that are handed over at unix:///PATH (SCM_RIGHTS)"),
        ("stdio", "TEXT", "a guest at standard input and output, whatever TEXT is"),
    ):
        add(f"--listen-{name}", metavar=url, help=f"take {what}")
    add(
        "--listen-fd",
        action="append",
        type=flags.integer,
        metavar="N",
        help="take a guest at descriptor N: a tap, or a connected socket as QEMU has it",
    )
    add(
        "--mtu",
        type=flags.integer,
        metavar="BYTES",
        help=f"the guests' MTU, {settings.MIN_MTU} to {settings.MAX_MTU} "
        f"(default {settings.DEFAULT_MTU})",
    )
    add(
        "--ssh-port",
        type=flags.integer,
        metavar="PORT",
        help="the port on 127.0.0.1 that leads to the guest's port 22, "
        f"{settings.MIN_SSH_PORT} to 65535; -1 for none (default {settings.DEFAULT_SSH_PORT})",
    )
    add(
        "--subnet",
        metavar="CIDR",
        help=f"the virtual network (default {settings.DEFAULT_SUBNET})",
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
        metavar="SECONDS",
        help="give a guest's connection to the outside up after so long "
        f"(default {settings.DEFAULT_CONNECT_TIMEOUT})",
    )
    add(
        "--tcp-keepalive",
        dest="keepalive",
        type=flags.integer,
        metavar="SECONDS",
        help="ask a guest about a connection that was silent for so long; 0 for never "
        f"(default {settings.DEFAULT_KEEPALIVE})",
    )
    add(
        "--drain",
        type=flags.integer,
        metavar="SECONDS",
        help="give TCP connections so long to end after SIGTERM, before they are reset, "
        f"0 to {settings.MAX_DRAIN} (default {settings.DEFAULT_DRAIN})",
    )
    add("--log-file", metavar="FILE", help="append the log to FILE, instead of standard error")
    add("--pid-file", metavar="FILE", help="write the process id to FILE, removed at the end")
    add(
        "--state-dir",
        metavar="DIR",
        help="keep leases, published ports and names of the API in DIR, and have them again at the "
        "next start",
    )
    add("--pcap", metavar="FILE", help="record all frames in FILE, for Wireshark and tcpdump")
    add(
        "--notification",
        metavar="PATH",
        help="tell the unix socket PATH of guests that come and go, in JSON",
    )
    for flag, what in (
        ("sock", "a unix socket of the host that leads, through ssh, to one of the guest"),
        ("dest", "the path of the guest's"),
        ("user", "the user to log in as"),
        ("identity", "the file of the private key"),
    ):
        add(f"--forward-{flag}", action="append", metavar="TEXT", help=what)
    parser.add_switch(
        "--source-checks",
        "refuse frames of guests with another's MAC or IP address (default true)",
        dest="source_checks",
    )
    parser.add_switch(
        "--drop-privileges",
        "once it runs, give up what gvproxy does not need, as far as the system knows how to: "
        "capabilities, other programs, system calls, files; -drop-privileges=false keeps them "
        "(default true)",
    )
    add(
        "--allow-path",
        dest="allow_paths",
        action="append",
        metavar="DIR",
        help="keep access to DIR, for keys and unix sockets that the API is told of later; may be "
        "given more than once",
    )
    parser.add_switch(
        "--guest-api",
        "have an API for guests at the gateway's port 80, by which they publish their own ports "
        "(default true)",
    )
    parser.add_switch(
        "--ec2-metadata-access",
        "let guests reach 169.254.0.0/16 and with it the cloud's metadata",
        dest="ec2_metadata",
    )
    parser.add_switch("--debug", "log in detail, and have /debug/profile in the API")
    return parser
