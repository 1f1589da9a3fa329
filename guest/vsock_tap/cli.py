"""The command `vsock-tap`: its flags, its log, its exit status.

The flags are gvforwarder's, in whose place the command stands; `taplink.flags` says how they are
written.
"""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Coroutine, Sequence

from taplink import flags
from taplink.endpoint import parse_peer
from taplink.flags import checked
from taplink.tap import TapError, check_name
from vsock_tap import config
from vsock_tap.agent import Agent
from vsock_tap.config import Config
from vsock_tap.errors import AgentError

PROGRAM = "vsock-tap"
log = logging.getLogger("vsock_tap")


def _interface(text: str) -> str:
    try:
        check_name(text)
    except TapError as error:
        raise ValueError(str(error)) from None
    return text


def _parser() -> flags.Parser:
    parser = flags.Parser(
        PROGRAM, "Give this virtual machine a network through the host's gvproxy."
    )
    add = parser.add_argument
    add(
        "--url",
        type=checked(parse_peer),
        default=config.DEFAULT_URL,
        help="where the host listens: vsock://, unix:// or tcp://, or stdio:///PROGRAM to start it "
        f"({config.DEFAULT_URL})",
    )
    add(
        "--iface",
        type=checked(_interface),
        default=config.DEFAULT_INTERFACE,
        help=f"name of the tap ({config.DEFAULT_INTERFACE})",
    )
    add(
        "--mac",
        type=checked(config.parse_mac),
        default=config.DEFAULT_MAC,
        help=f"its MAC address ({config.DEFAULT_MAC})",
    )
    add(
        "--mtu",
        type=checked(config.parse_mtu),
        help=f"its MTU, at most (what the lease says, or {config.DEFAULT_MTU})",
    )
    add(
        "--stop-if-exist",
        type=config.parse_names,
        default=config.DEFAULT_STOP_IF_EXIST,
        metavar="NAMES",
        help=f"exit with status 0 if one of these exists ({config.DEFAULT_STOP_IF_EXIST})",
    )
    parser.add_switch("--preexisting", "take a tap that exists; one with an address keeps it")
    parser.add_switch("--debug", "log more")
    return parser


def parse_arguments(arguments: Sequence[str]) -> Config:
    """Read the command line; exits with status 1 and one line where it is wrong."""
    values = _parser().read(arguments)
    return Config(
        endpoint=values.url,
        interface=values.iface,
        mac=values.mac,
        mtu=values.mtu,
        preexisting=values.preexisting,
        stop_if_exist=values.stop_if_exist,
        debug=values.debug,
    )


def main() -> None:
    """Run the agent until SIGTERM or SIGINT."""
    with flags.errors_in_one_line(PROGRAM, log, AgentError, TapError):
        settings = parse_arguments(sys.argv[1:])
        _set_up_log(settings.debug)
        for _, name in socket.if_nameindex():
            if name in settings.stop_if_exist:
                log.info("the interface %s exists (-stop-if-exist): nothing to do", name)
                return
        _run(Agent(settings).run())


def _run(agent: Coroutine[object, object, None]) -> None:
    """Run on uvloop where it installs: it takes a tenth less CPU per frame."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        from asyncio import new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(agent)


def _set_up_log(debug: bool) -> None:
    # The journal has a clock of its own.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(format=f"{stamp}%(levelname)s %(message)s", level=logging.INFO)
    log.setLevel(logging.DEBUG if debug else logging.INFO)  # not pyroute2's, of every message


if __name__ == "__main__":
    main()
