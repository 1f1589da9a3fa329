"""The project's two programs, as their users start them."""

import itertools
import socket
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import api
from tests.lab.namespace import Namespace
from tests.lab.process import Process
from tests.lab.wait import NotYetError, until

GATEWAY = "192.168.127.1"
DEVICE = "192.168.127.2"
HOST = "192.168.127.254"
"""Inside the virtual network this is the host's loopback."""

_SCRIPTS = Path(sysconfig.get_path("scripts"))
GVPROXY = _SCRIPTS / "gvproxy"
VSOCK_TAP = _SCRIPTS / "vsock-tap"


class Gvproxy:
    """The host daemon, listening at the unix socket `path`; ready when the constructor returns."""

    def __init__(
        self,
        folder: Path,
        namespace: Namespace | None = None,
        *flags: str,
        name: str = "gvproxy",
        env: Mapping[str, str] | None = None,
        before: Sequence[str | Path] = (),
        drain: int | None = 0,
    ) -> None:
        """`before` is a command that runs the daemon, such as prlimit.

        Tests do not wait for connections that they have left open; None is what users have.
        """
        self.path = folder / f"{name}.sock"
        argv: list[str | Path] = [
            *before,
            GVPROXY,
            "-listen",
            f"unix://{self.path}",
            "-ssh-port",
            "-1",
            *([] if drain is None else ["-drain", str(drain)]),
            *flags,
        ]
        if namespace is None:
            self.process = Process(name, argv, folder / f"{name}.log", env)
        else:
            self.process = namespace.start(name, *argv, env=env)
        try:
            until(self._listening, f"{name} listens at {self.path}")
        except BaseException:
            self.process.stop(status=None)
            raise

    @property
    def url(self) -> str:
        """Where an agent finds it."""
        return f"unix://{self.path}"

    def get(self, target: str) -> Any:
        """Return the JSON that a GET on the host's API is answered with."""
        return api.get(self.path, target)

    def post(self, target: str, body: object) -> str:
        """Post JSON to the host's API and return the answer's text; raises ApiError."""
        return api.call(self.path, "POST", target, body)

    def expose(self, local: str, remote: str) -> None:
        """Publish a guest's TCP port on the host."""
        body = {"local": local, "remote": remote, "protocol": "tcp"}
        self.post("/services/forwarder/expose", body)

    def unexpose(self, local: str) -> None:
        """Take a published TCP port back."""
        self.post("/services/forwarder/unexpose", {"local": local, "protocol": "tcp"})

    def wait_until_unused(self, timeout: float = 30.0) -> None:
        """Wait until nothing is left of the guests' TCP connections."""
        until(self._unused, f"the connections of {self.process.name} are gone", timeout)

    def _unused(self) -> None:
        totals = self.get("/stats")["Details"]["Totals"]
        left = {name: totals[name] for name in ("Connections", "Flows", "Timers") if totals[name]}
        if left:
            raise NotYetError(str(left))

    def _listening(self) -> None:
        self.process.check()
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.path))
            except OSError as error:
                raise NotYetError(str(error)) from error


@dataclass(frozen=True)
class Settings:
    """What an agent set up in its guest."""

    address: str
    routes: tuple[str, ...]
    resolvers: tuple[str, ...]


class Agent:
    """The guest agent in a namespace; `wait` for its lease."""

    def __init__(self, namespace: Namespace, url: str, *flags: str, iface: str = "tap0") -> None:
        self.namespace = namespace
        self.iface = iface
        self.process = namespace.start(
            "vsock-tap", VSOCK_TAP, "-url", url, "-iface", iface, "-stop-if-exist", "", *flags
        )

    def settings(self) -> Settings:
        """Read what is set up; raises NotYetError as long as something is missing."""
        self.process.check()
        show = ["ip", "-oneline", "-4", "address", "show", "dev", self.iface]
        addresses = self.namespace.try_run(*show).stdout.split()
        routes = self.namespace.run("ip", "-4", "route", "show").splitlines()
        text = self.namespace.run("cat", "/etc/resolv.conf")
        words = text.split()
        resolvers = [after for word, after in itertools.pairwise(words) if word == "nameserver"]
        if "inet" not in addresses:
            raise NotYetError(f"{self.iface} has no address")
        if not any(route.startswith("default ") for route in routes):
            raise NotYetError("no default route")
        if not resolvers or "vsock-tap" not in text:
            raise NotYetError("no resolver of an agent's")
        address = addresses[addresses.index("inet") + 1]
        return Settings(address, tuple(map(str.strip, routes)), tuple(resolvers))

    def wait(self, timeout: float = 15.0) -> Settings:
        """Wait until the guest has its address, routes and resolver."""
        return until(self.settings, f"{self.namespace.name} is set up", timeout)
