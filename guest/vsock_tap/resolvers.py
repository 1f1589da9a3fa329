"""Who is told of name servers: systemd-resolved, resolvconf, or /etc/resolv.conf itself."""

import os
import shutil
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Protocol

from vsock_tap.resolvconf import ResolvConf
from vsock_tap.run import run

_STUBS = ("/run/systemd/resolve/stub-resolv.conf", "/usr/lib/systemd/resolv.conf")
"""What /etc/resolv.conf leads to where programs ask systemd-resolved (systemd-resolved(8))."""
_STUB_LISTENS = "3500007F:0035 "
"""127.0.0.53, port 53, as /proc/net/udp has it."""


class Resolver(Protocol):
    """Takes name servers for as long as the agent runs; every method may raise OSError."""

    @property
    def kept(self) -> str:
        """Tell where the original is, for a message that it could not be put back."""

    def claim(self) -> bool:
        """Look after names from now until `release`; False where another agent does."""

    def write(self, nameservers: Sequence[IPv4Address], search: Sequence[str]) -> None:
        """Let names be looked up at `nameservers`, and unqualified ones in `search` as well."""

    def restore(self) -> bool:
        """Take that back; returns whether there was something to take back."""

    def release(self) -> None:
        """Let another agent look after names."""


class _Program:
    """A program that is told about one interface."""

    kept = ""

    def __init__(self, program: str, interface: str) -> None:
        self._program = program
        self._interface = interface
        self._told = False

    def claim(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Resolved(_Program):
    """systemd-resolved, which forgets about an interface that goes."""

    def __str__(self) -> str:
        return "systemd-resolved"

    def write(self, nameservers: Sequence[IPv4Address], search: Sequence[str]) -> None:
        self._told = True
        run(self._program, "dns", self._interface, *map(str, nameservers))
        run(self._program, "domain", self._interface, *(search or [""]))

    def restore(self) -> bool:
        if self._told and _exists(self._interface):
            run(self._program, "revert", self._interface)
        told, self._told = self._told, False
        return told


class Resolvconf(_Program):
    """Debian's resolvconf or openresolv."""

    def __init__(self, program: str, interface: str) -> None:
        super().__init__(program, f"{interface}.vsock-tap")

    def __str__(self) -> str:
        return "resolvconf"

    def write(self, nameservers: Sequence[IPv4Address], search: Sequence[str]) -> None:
        lines = [f"nameserver {address}\n" for address in nameservers]
        if search:
            lines.append(f"search {' '.join(search)}\n")
        # Before all others, as wg-quick has it; Debian's ignores that.
        run(self._program, "-a", self._interface, "-m", "0", "-x", text="".join(lines))
        self._told = True

    def restore(self) -> bool:
        """Also at the beginning: it keeps what an agent that has crashed told it."""
        run(self._program, "-d", self._interface, "-f")
        told, self._told = self._told, False
        return told


def _exists(interface: str) -> bool:
    return interface in (name for _, name in socket.if_nameindex())


def choose(path: Path, interface: str, state_directory: Path, root: Path = Path("/")) -> Resolver:
    """Return whom this machine's programs ask, going by what `path` is."""
    if resolvectl := _resolved(path, root):
        return Resolved(resolvectl, interface)
    resolvconf = shutil.which("resolvconf")
    if resolvconf and Path(os.path.realpath(resolvconf)).name != "resolvectl":
        return Resolvconf(resolvconf, interface)
    return ResolvConf(path, state_directory)


def _resolved(path: Path, root: Path) -> str | None:
    """Return resolvectl where systemd-resolved is asked, and knows this network's interfaces.

    In a network namespace of our own it does not listen, and a link of the same number is another.
    """
    if os.path.realpath(path) not in [str(root / stub[1:]) for stub in _STUBS]:
        return None
    try:
        listens = _STUB_LISTENS in (root / "proc/net/udp").read_text()
    except OSError:
        return None
    return shutil.which("resolvectl") if listens else None
