"""The command `vsock-tap`: its flags, its log, its exit status.

The flags are gvforwarder's, in whose place the command stands: one dash or two, `-flag value` or
`-flag=value`, switches also as `-flag=false`, as Go's flag package reads them.
"""

import argparse
import asyncio
import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from typing import NoReturn, TypeVar

from taplink.endpoint import parse as parse_endpoint
from taplink.tap import TapError, check_name

from vsock_tap import config
from vsock_tap.agent import Agent
from vsock_tap.config import Config
from vsock_tap.errors import AgentError

T = TypeVar("T")
log = logging.getLogger("vsock_tap")

_SINGLE_DASH = re.compile(r"-[A-Za-z]")
_BOOLEANS = dict.fromkeys(("1", "t", "true"), True) | dict.fromkeys(("0", "f", "false"), False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line, without the usage, and exit with status 1, not 2."""
        self.exit(1, f"{self.prog}: {message}\n")


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Let argparse show the message of a ValueError instead of its own."""

    def convert(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _boolean(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is neither true nor false") from None


def _interface(text: str) -> str:
    try:
        check_name(text)
    except TapError as error:
        raise ValueError(str(error)) from None
    return text


def _parser() -> _Parser:
    parser = _Parser(
        prog="vsock-tap",
        description="Give this virtual machine a network through the host's gvproxy.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add(
        "--url",
        type=_checked(parse_endpoint),
        default=config.DEFAULT_URL,
        help=f"where the host listens: vsock://, unix:// or tcp:// ({config.DEFAULT_URL})",
    )
    add(
        "--iface",
        type=_checked(_interface),
        default=config.DEFAULT_INTERFACE,
        help=f"name of the tap ({config.DEFAULT_INTERFACE})",
    )
    add(
        "--mac",
        type=_checked(config.parse_mac),
        default=config.DEFAULT_MAC,
        help=f"its MAC address ({config.DEFAULT_MAC})",
    )
    add(
        "--mtu",
        type=_checked(config.parse_mtu),
        help=f"its MTU, at most (what the lease says, or {config.DEFAULT_MTU})",
    )
    add(
        "--stop-if-exist",
        type=config.parse_names,
        default=config.DEFAULT_STOP_IF_EXIST,
        metavar="NAMES",
        help=f"exit with status 0 if one of these exists ({config.DEFAULT_STOP_IF_EXIST})",
    )
    _add_switch(parser, "--preexisting", "take a tap that exists; one with an address keeps it")
    _add_switch(parser, "--debug", "log more")
    add("--version", "--v", action="version", version=f"vsock-tap version {version('vsock-tap')}")
    add("--help", "--h", action="help", help="show this")
    return parser


def _add_switch(parser: argparse.ArgumentParser, name: str, help: str) -> None:
    parser.add_argument(
        name, nargs="?", const=True, default=False, type=_checked(_boolean), help=help
    )


def parse_arguments(arguments: Sequence[str]) -> Config:
    """Read the command line; exits with status 1 and one line where it is wrong."""
    # Two dashes everywhere: argparse completes the beginning of a one-dash flag even without
    # allow_abbrev, and Go does not.
    values = _parser().parse_args(
        [f"-{text}" if _SINGLE_DASH.match(text) else text for text in arguments]
    )
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
    settings = parse_arguments(sys.argv[1:])
    _set_up_log(settings.debug)
    for _, name in socket.if_nameindex():
        if name in settings.stop_if_exist:
            log.info("the interface %s exists: nothing to do", name)
            return
    try:
        _run(Agent(settings).run())
    except (AgentError, TapError) as error:
        log.error("%s", error)
        sys.exit(1)


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
