"""What is measured: each load takes one way and a number of seconds, and returns figures by name.

iperf3, wrk, dnsperf and ping are the load; their output is read here and nowhere else.
"""

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from tests.bench.ways import HTTP_PORT, IDLE_PORT, Way
from tests.lab import dns

Figures = Mapping[str, float]

IDLE_CONNECTIONS = 1000
_IPERF_PORT = 5201
_UDP_RATE = "300M"
_UDP_MOST = "0"
_UDP_SIZE = "1400"
"""One packet at an MTU of 1500."""


class LoadError(Exception):
    """A load came to no figure on this way; one line."""


_numbers = itertools.count()


@dataclass(frozen=True)
class Load:
    """One run of a tool, and the figures it comes to, named as in the report."""

    name: str
    measure: Callable[[Way, float], Figures]


def iperf(way: Way, seconds: float, *options: str) -> dict[str, dict[str, float]]:
    """Run iperf3 and return the sums that its report ends with.

    Each run has a server of its own, so that none finds the last one's still busy.
    """
    server = way.host.start(
        f"iperf3-{next(_numbers)}",
        *("iperf3", "--server", "--one-off", "--forceflush"),
        *("--bind", "0.0.0.0", "--port", str(_IPERF_PORT)),
    )
    server.wait_for("listening")
    try:
        return _iperf_client(way, seconds, *options)
    finally:
        server.kill()


def _iperf_client(way: Way, seconds: float, *options: str) -> dict[str, dict[str, float]]:
    command = ["iperf3", "-J", "-c", way.address, "-p", str(_IPERF_PORT)]
    timeout = seconds * 3 + 30
    try:
        done = way.client.try_run(*command, "-t", f"{seconds:g}", *options, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"iperf3 did not end in {timeout:g} s") from error
    try:
        report = json.loads(done.stdout)
    except ValueError as error:
        raise LoadError(done.stderr.strip() or "iperf3 wrote nothing") from error
    if "error" in report:
        raise LoadError(f"iperf3: {report['error']}")
    end: dict[str, dict[str, float]] = report["end"]
    return end


def _stream(name: str, *options: str) -> Load:
    """One direction of TCP, and what a gigabyte of it costs."""

    def measure(way: Way, seconds: float) -> Figures:
        before = way.cpu()
        received = iperf(way, seconds, *options)["sum_received"]
        figures = {name: received["bits_per_second"] / 1e9}
        if way.processes and received["bytes"]:
            figures[f"{name}-cpu"] = (way.cpu() - before) / received["bytes"] * 1e9
        return figures

    return Load(name, measure)


def _elsewhere(name: str, which: Callable[[Way], Way | None], *options: str) -> Load:
    """One direction of TCP with the guest that `which` gives, where there is one."""

    def measure(way: Way, seconds: float) -> Figures:
        other = which(way)
        if other is None:
            return {}
        received = iperf(other, seconds, *options)["sum_received"]
        return {name: received["bits_per_second"] / 1e9}

    return Load(name, measure)


def _stalled(way: Way, seconds: float) -> Figures:
    """One stream down beside a guest that does not read, as a part of what it is without."""
    if way.stall is None:
        return {}
    alone = iperf(way, seconds, "-R")["sum_received"]["bits_per_second"]
    with way.stall():
        beside = iperf(way, seconds, "-R")["sum_received"]["bits_per_second"]
    return {"stalled": beside / alone}


def _both(name: str, *options: str) -> Load:
    """Both directions at once: each one's rate."""

    def measure(way: Way, seconds: float) -> Figures:
        end = iperf(way, seconds, "--bidir", *options)
        return {
            f"{name}-up": end["sum_received"]["bits_per_second"] / 1e9,
            f"{name}-down": end["sum_received_bidir_reverse"]["bits_per_second"] / 1e9,
        }

    return Load(name, measure)


def _udp(name: str, rate: str, *options: str) -> Load:
    """Datagrams of one packet at a steady rate, or as fast as they are made: how many arrive."""

    def measure(way: Way, seconds: float) -> Figures:
        end = iperf(way, seconds, "-u", "-b", rate, "-l", _UDP_SIZE, *options)["sum"]
        arrived = 1 - end["lost_packets"] / max(1, end["packets"])
        return {name: end["bits_per_second"] / 1e9 * arrived, f"{name}-loss": (1 - arrived) * 100}

    return Load(name, measure)


def _http(name: str, connections: int, *headers: str) -> Load:
    """Requests per second for a small page."""

    def measure(way: Way, seconds: float) -> Figures:
        options = [f"-t{min(2, connections)}", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        for header in headers:
            options += ["-H", header]
        url = f"http://{way.address}:{HTTP_PORT}/"
        output = way.client.run("wrk", *options, url, timeout=seconds + 60)
        match = re.search(r"Requests/sec:\s*([0-9.]+)", output)
        if match is None:
            raise LoadError("wrk gave no rate")
        return {name: float(match[1])}

    return Load(name, measure)


def _beside(name: str, load: Load) -> Load:
    """A load beside another guest that downloads, as a part of what it is without."""

    def measure(way: Way, seconds: float) -> Figures:
        if way.busy is None:
            return {}
        (alone,) = load.measure(way, seconds).values()
        with way.busy():
            (beside,) = load.measure(way, seconds).values()
        return {name: beside / alone}

    return Load(name, measure)


def _ping(way: Way, seconds: float) -> Figures:
    output = way.client.try_run("ping", "-n", "-c", "100", "-i", "0.01", "-w", "5", way.gateway)
    times = [float(part.split()[0]) for part in output.stdout.split("time=")[1:]]
    if not times:
        raise LoadError("no answer to a ping")
    return {"ping": median(times)}


def _dns(way: Way, seconds: float) -> Figures:
    """Look-ups of one name that the name server has been asked for before."""
    if not way.name_server:
        return {}
    names = way.client.folder / "names"
    names.write_text(f"{dns.NAME} A\n")
    command = [
        "dnsperf",
        "-s",
        way.name_server,
        "-d",
        str(names),
        "-l",
        str(max(1, round(seconds))),
    ]
    output = way.client.run(*command, timeout=seconds + 30)
    match = re.search(r"Queries per second:\s*([0-9.]+)", output)
    if match is None:
        raise LoadError("dnsperf gave no rate")
    return {"dns": float(match[1])}


def _idle(way: Way, seconds: float) -> Figures:
    """Memory as the programs stand, and for each connection that is held and says nothing."""
    if not way.processes:
        return {}
    host = way.processes[0]
    before = host.resident()
    with ExitStack() as stack:
        for _ in range(IDLE_CONNECTIONS):
            stack.enter_context(way.client.connect(way.address, IDLE_PORT))
        each = (host.resident() - before) / IDLE_CONNECTIONS
    figures = {"memory-host": before / 2**20, "memory-connection": each / 1024}
    if len(way.processes) > 1:
        figures["memory-guest"] = way.processes[1].resident() / 2**20
    return figures


def _quiet(way: Way, seconds: float) -> Figures:
    """CPU that is used while nothing happens, in percent of one."""
    if not way.processes:
        return {}
    before = way.cpu()
    way.client.run("sleep", f"{seconds:g}", timeout=seconds + 10)
    return {"idle-cpu": (way.cpu() - before) / seconds * 100}


STANDING = (Load("quiet", _quiet), Load("idle", _idle))
"""Measured once, before anything else has warmed memory up."""

LOADS = (
    _stream("tcp1-up"),
    _stream("tcp1-down", "-R"),
    _both("tcp1-both"),
    _stream("tcp8-up", "-P", "8"),
    _stream("tcp8-down", "-P", "8", "-R"),
    _both("tcp8-both", "-P", "8"),
    _elsewhere("plain1-up", lambda way: way.plain),
    _elsewhere("plain1-down", lambda way: way.plain, "-R"),
    _elsewhere("jumbo1-up", lambda way: way.jumbo),
    _elsewhere("jumbo1-down", lambda way: way.jumbo, "-R"),
    _elsewhere("guests1", lambda way: way.guests),
    Load("stalled", _stalled),
    _beside("busy-http64", _http("http64", 64)),
    _beside("busy-new64", _http("new64", 64, "Connection: close")),
    _udp("udp-up", _UDP_RATE),
    _udp("udp-down", _UDP_RATE, "-R"),
    _udp("udp-most-up", _UDP_MOST),
    _udp("udp-most-down", _UDP_MOST, "-R"),
    _http("http1", 1),
    _http("http64", 64),
    _http("new1", 1, "Connection: close"),
    _http("new64", 64, "Connection: close"),
    Load("dns", _dns),
    Load("ping", _ping),
)
"""Measured way after way, so that each ratio is of moments that follow one another."""
