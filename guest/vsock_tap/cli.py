"""The command `vsock-tap`: its flags, its log, its exit status.

The flags are gvforwarder's, in whose place the command stands; `taplink.flags` says how they are
written.  A settings file (`settings`) stands before what the command line says.
"""

import argparse
import asyncio
import logging
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from taplink import bearer, flags
from taplink.endpoint import parse_peer
from taplink.flags import checked
from taplink.journal import log_handler
from taplink.notify import notifier
from taplink.tap import TapError, check_name
from vsock_tap import check, config, modules, settings
from vsock_tap.agent import Agent
from vsock_tap.capability import CAP_SYS_MODULE, has_capability
from vsock_tap.config import PROGRAM, Config
from vsock_tap.errors import AgentError

log = logging.getLogger("vsock_tap")


def _interface(text: str) -> str:
    try:
        check_name(text)
    except TapError as error:
        raise ValueError(str(error)) from None
    return text


def make_parser() -> flags.Parser:
    """Make what reads the command line, and what its manual page is made of."""
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
        "--token-file",
        type=checked(bearer.read),
        metavar="FILE",
        help="the file, which nobody else may read, of the token that a host at tcp:// asks for",
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
        help=f"its MTU at most, {config.MIN_MTU} to {config.MAX_MTU} "
        f"(what the lease says, or {config.DEFAULT_MTU})",
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
    add(
        "--config",
        metavar="FILE",
        help="read settings from FILE, lines such as mtu = 4000, which flags override "
        f"({' or '.join(map(str, settings.FILES))}, if there)",
    )
    parser.add_switch("--check", "say what would be done, and do nothing")
    parser.add_switch(
        "--healthy",
        "exit with status 0 if the interface has the agent's address, or any "
        "with -preexisting, else with 1",
    )
    parser.add_switch(
        "--load-modules",
        "load the kernel modules that are needed, and do no more; "
        "with status 1 where one cannot be",
    )
    return parser


_COMMAND_LINE_ONLY = ("config", "check", "healthy", "load-modules", "help", "h", "version", "v")


def parse_arguments(arguments: Sequence[str]) -> Config:
    """Read the command line and the settings file; exits with status 1 and one line for errors."""
    parser = make_parser()
    values = parser.read(arguments)
    path = settings.find() if values.config is None else Path(values.config)
    if path is None or values.config == "":
        return _config(values, None)
    given = argparse.Namespace()
    try:
        for place, name, value in settings.read(path):
            if name in _COMMAND_LINE_ONLY:
                raise ValueError(f"{place}: {name} is for the command line only")
            if not parser.has(name):
                raise ValueError(f"{place}: {name} is no setting")
            parser.set(given, name, value, place)
    except ValueError as error:
        flags.fail(PROGRAM, error)
    return _config(parser.read(arguments, given), path)


def _config(values: argparse.Namespace, path: Path | None) -> Config:
    return Config(
        endpoint=values.url,
        bearer=values.token_file,
        interface=values.iface,
        mac=values.mac,
        mtu=values.mtu,
        preexisting=values.preexisting,
        stop_if_exist=values.stop_if_exist,
        debug=values.debug,
        check=values.check,
        healthy=values.healthy,
        load_modules=values.load_modules,
        settings=path,
    )


def main() -> None:
    """Run the agent until SIGTERM, SIGINT or SIGHUP."""
    with flags.errors_in_one_line(PROGRAM, log, AgentError, TapError):
        configured = parse_arguments(sys.argv[1:])
        if configured.check:
            sys.exit(check.report(configured))
        if configured.healthy:
            sys.exit(check.health(configured))
        _set_up_log(configured)
        if (name := check.reason_to_stop(configured)) is not None:
            text = f"the interface {name} exists (-stop-if-exist): nothing to do"
            log.info(text)
            # A service that ends before it was ready has failed.
            notifier()(f"READY=1\nSTATUS={text}")
            return
        all_there = _load_modules(configured)
        if configured.load_modules:
            sys.exit(0 if all_there else 1)
        _run(Agent(configured).run())


def _load_modules(configured: Config) -> bool:
    """Load what is missing, and tell what cannot be; returns whether that is nothing.

    Unless that is all there is to do, nothing is said of tun, for opening the tap does, and nothing
    is tried without the right to, such as in the service, which has had it done before: what is
    built in cannot always be seen.
    """
    if not configured.load_modules and not has_capability(CAP_SYS_MODULE):
        return True
    wrong = modules.load(configured.endpoint)
    for name, why in wrong.items():
        if configured.load_modules or name != "tun":
            log.warning("the module %s is not loaded: %s", name, why)
    return not wrong


def _run(agent: Coroutine[object, object, None]) -> None:
    """Run on uvloop where it installs: it takes a tenth less CPU per frame."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        from asyncio import new_event_loop
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(agent)


def _set_up_log(configured: Config) -> None:
    text = "%(asctime)s %(levelname)s %(message)s"
    handler = log_handler(PROGRAM, text, INTERFACE=configured.interface)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # Not pyroute2's, which logs every message.
    log.setLevel(logging.DEBUG if configured.debug else logging.INFO)
