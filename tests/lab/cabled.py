"""A guest at a bad cable, and at its other end a kernel, or gvproxy: the same but for the TCP.

    guest ── tap0 ═══ cable ═══ tap0 ── host                           `kernels`
    guest ── tap0 ═══ cable ═══ unix ═══ gvproxy ═ host's loopback     `ours`

Either way the guest reaches what listens on every address of the host at `programs.HOST`.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import cable
from tests.lab.impairment import Counters, Impairment
from tests.lab.namespace import Namespace
from tests.lab.process import Process
from tests.lab.programs import DEVICE, HOST, Gvproxy

NETWORK = "192.168.127.0/24"
MTU = 1500
DEVICE_NAME = "tap0"
CONGESTION = "cubic"
"""RFC 9438, and what a kernel does where its builder has not chosen something else."""
_QUEUE = 8192
"""Frames a tap holds while the cable is busy, as the agent sets it."""
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Setting:
    """What is the same for both sides of a comparison."""

    impairment: Impairment
    offload: bool
    seed: int = 1
    congestion: str = CONGESTION
    """Of the kernels' TCP."""


@dataclass
class Cabled:
    """A guest and a host, and what is between them; gvproxy is None between kernels."""

    guest: Namespace
    host: Namespace
    gvproxy: Gvproxy | None
    _process: Process

    def end(self) -> dict[str, Counters]:
        """Take the cable away and return the counters of `up`, from the guest, and `down`."""
        self._process.stop()
        lines = self._process.log.read_text().splitlines()
        words = [line.split(maxsplit=1) for line in lines if line.startswith(("up ", "down "))]
        return {direction: Counters(**json.loads(counters)) for direction, counters in words}


Side = Callable[[Path, Setting], contextlib.AbstractContextManager[Cabled]]


@contextlib.contextmanager
def kernels(folder: Path, setting: Setting) -> Iterator[Cabled]:
    """Lay the cable between two kernels."""
    with _namespaces(folder) as (guest, host):
        process = lay(folder, setting, guest, f"{host.pid}/{DEVICE_NAME}")
        try:
            _set_up(host, HOST, setting)
            yield Cabled(guest, host, None, process)
        finally:
            process.stop(status=None)


@contextlib.contextmanager
def ours(folder: Path, setting: Setting) -> Iterator[Cabled]:
    """Lay the cable between a kernel and gvproxy."""
    with _namespaces(folder) as (guest, host):
        gvproxy = Gvproxy(folder, host)
        process = lay(folder, setting, guest, gvproxy.url)
        try:
            yield Cabled(guest, host, gvproxy, process)
        finally:
            process.stop(status=None)
            gvproxy.process.stop()


@contextlib.contextmanager
def _namespaces(folder: Path) -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace("guest", folder) as guest, Namespace("host", folder) as host:
        yield guest, host


def lay(
    folder: Path,
    setting: Setting,
    guest: Namespace,
    far: str,
    address: str = DEVICE,
    mtu: int = MTU,
) -> Process:
    """Lay a cable from the guest's tap0 to `far`: another tap, or the URL of a gvproxy."""
    argv = cable.command(
        *(f"{guest.pid}/{DEVICE_NAME}", far, setting.impairment),
        offload=setting.offload,
        seed=setting.seed,
    )
    log = folder / f"{guest.name}.cable.log"
    process = Process("cable", argv, log, {"PYTHONPATH": str(_ROOT)})
    try:
        process.wait_for("ready")
        _set_up(guest, address, setting, mtu)
    except BaseException:
        process.stop(status=None)
        raise
    return process


def _set_up(namespace: Namespace, address: str, setting: Setting, mtu: int = MTU) -> None:
    link = ("ip", "link", "set", DEVICE_NAME)
    namespace.run(*link, "mtu", str(mtu), "txqueuelen", str(_QUEUE), "up")
    namespace.run(*("ip", "address", "add", f"{address}/24", "dev", DEVICE_NAME, "noprefixroute"))
    # By the route: the sysctl takes in a namespace only what the whole machine allows everyone.
    namespace.run(
        *("ip", "route", "add", NETWORK, "dev", DEVICE_NAME, "src", address),
        *("congctl", setting.congestion),
    )
