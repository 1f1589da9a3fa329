"""The interface's settings, against the kernel of a namespace."""

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import IPv4Address, IPv4Interface
from typing import Any, TypeVar

import pytest

from tests.lab.namespace import Namespace
from tests.lab.wait import NotYetError, until
from vsock_tap.errors import AgentError, RefusedError
from vsock_tap.network import METRIC, Network

pytestmark = pytest.mark.root
T = TypeVar("T")
MAC = "5a:94:ef:e4:0c:ee"
ADDRESS, ROUTER = IPv4Interface("192.168.127.2/24"), IPv4Address("192.168.127.1")


class Machine:
    """A namespace with a persistent tap."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.network = Network("tap0")

    def do(self, call: Callable[[], Coroutine[None, None, T]]) -> T:
        """Run a method of Network inside: the threads it uses are made here and belong there."""
        with self.namespace.entered():
            return asyncio.run(call())

    def ip(self, *arguments: str) -> Any:
        return json.loads(self.namespace.run("ip", "-json", *arguments) or "[]")

    def addresses(self) -> list[str]:
        (device,) = self.ip("-4", "address", "show", "dev", "tap0") or [{}]
        return [f"{at['local']}/{at['prefixlen']}" for at in device.get("addr_info", [])]

    def routes(self) -> list[tuple[str, str, str, int]]:
        return [
            (
                route["dst"],
                route.get("gateway", ""),
                route.get("protocol", ""),
                route.get("metric", 0),
            )
            for route in self.ip("-4", "route", "show", "dev", "tap0")
        ]

    def set_up(self) -> None:
        self.do(lambda: self.network.set_up(MAC, 1500))

    def configure(self, address: IPv4Interface, router: IPv4Address | None) -> None:
        self.do(lambda: self.network.configure(address, router))


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with Namespace("machine", tmp_path_factory.mktemp("network")) as namespace:
        namespace.run("ip", "tuntap", "add", "tap0", "mode", "tap")
        yield Machine(namespace)


def test_set_up(machine: Machine) -> None:
    machine.do(lambda: machine.network.set_up(MAC, 1400))
    (link,) = machine.ip("link", "show", "dev", "tap0")
    assert (link["address"], link["mtu"]) == (MAC, 1400)
    assert "UP" in link["flags"]
    machine.do(lambda: machine.network.set_mtu(9000))
    assert machine.ip("link", "show", "dev", "tap0")[0]["mtu"] == 9000
    assert machine.do(machine.network.mac) == MAC


def test_configure_and_clear(machine: Machine) -> None:
    machine.set_up()
    default = ("default", str(ROUTER), "dhcp", METRIC)
    for _ in range(2):
        machine.configure(ADDRESS, ROUTER)
        assert machine.addresses() == [str(ADDRESS)]
        assert default in machine.routes()
    machine.do(machine.network.clear)
    assert machine.addresses() == []
    assert machine.routes() == []
    machine.do(machine.network.clear)


def test_a_new_lease_replaces_the_old(machine: Machine) -> None:
    machine.set_up()
    machine.configure(ADDRESS, ROUTER)
    for address, router in (
        ("192.168.127.3/24", "192.168.127.1"),
        ("192.168.127.3/24", "192.168.127.254"),
        ("192.168.127.3/16", "192.168.127.254"),
        ("10.0.0.2/8", "10.0.0.1"),
    ):
        machine.configure(IPv4Interface(address), IPv4Address(router))
        assert machine.addresses() == [address]
        defaults = [route for route in machine.routes() if route[0] == "default"]
        assert defaults == [("default", router, "dhcp", METRIC)]
    machine.configure(IPv4Interface("10.0.0.2/8"), None)
    assert not [route for route in machine.routes() if route[0] == "default"]


def test_what_others_have_set_stays(machine: Machine) -> None:
    machine.set_up()
    machine.namespace.run("ip", "address", "add", "10.9.0.1/24", "dev", "tap0")
    for metric in (100, METRIC):
        route = ("default", "via", "10.9.0.9", "metric", str(metric))
        machine.namespace.run("ip", "route", "add", *route)
    assert machine.do(machine.network.foreign_addresses) == [IPv4Address("10.9.0.1")]
    theirs = machine.routes()
    machine.configure(ADDRESS, ROUTER)
    assert machine.do(machine.network.foreign_addresses) == [IPv4Address("10.9.0.1")]
    assert ("default", str(ROUTER), "dhcp", METRIC) in machine.routes()
    machine.do(machine.network.clear)
    assert machine.addresses() == ["10.9.0.1/24"]
    assert machine.routes() == theirs


def test_what_a_crash_left_is_known_again(machine: Machine) -> None:
    machine.set_up()
    machine.configure(ADDRESS, ROUTER)
    again = Network("tap0")
    assert machine.do(again.foreign_addresses) == []
    machine.do(lambda: again.configure(IPv4Interface("192.168.127.9/24"), ROUTER))
    assert machine.addresses() == ["192.168.127.9/24"]


def test_what_is_right_is_not_touched(machine: Machine) -> None:
    machine.set_up()
    machine.configure(ADDRESS, ROUTER)
    monitor = machine.namespace.start("monitor", "ip", "-4", "monitor", "address", "route")
    marks = itertools.count(1)

    def mark() -> str:
        """Return what the monitor has said, once it says what was set last."""
        address = f"10.0.0.{next(marks)}"
        machine.namespace.run("ip", "address", "add", f"{address}/32", "dev", "lo")
        monitor.wait_for(address, 5)
        return monitor.log.read_text()

    def listening() -> None:
        if "10.0.0." not in monitor.log.read_text():
            machine.namespace.run("ip", "address", "replace", "10.0.0.1/32", "dev", "lo")
            raise NotYetError("it is silent")

    until(listening, "the monitor listens")
    next(marks)
    for _ in range(3):
        machine.configure(ADDRESS, ROUTER)
    assert "tap0" not in mark()
    machine.configure(ADDRESS, None)
    assert f"Deleted default via {ROUTER} dev tap0" in mark()
    assert "inet" not in "".join(line for line in mark().splitlines() if "tap0" in line)


def test_a_route_that_was_lost_comes_back(machine: Machine) -> None:
    machine.set_up()
    machine.configure(ADDRESS, ROUTER)
    before = machine.routes()
    machine.namespace.run("ip", "link", "set", "tap0", "down")
    with pytest.raises(RefusedError, match="tap0: "):
        machine.configure(ADDRESS, ROUTER)
    machine.namespace.run("ip", "link", "set", "tap0", "up")
    assert machine.routes() != before
    machine.configure(ADDRESS, ROUTER)
    assert sorted(machine.routes()) == sorted(before)


def test_a_default_route_without_a_router_is_not_the_agents(machine: Machine) -> None:
    machine.set_up()
    machine.configure(ADDRESS, None)
    route = ("default", "dev", "tap0", "proto", "dhcp", "metric", str(METRIC))
    machine.namespace.run("ip", "route", "add", *route)
    machine.configure(ADDRESS, ROUTER)
    assert ("default", str(ROUTER), "dhcp", METRIC) in machine.routes()
    machine.do(machine.network.clear)
    assert machine.addresses() == []


def test_refusals(machine: Machine) -> None:
    machine.set_up()
    with pytest.raises(RefusedError, match=r"tap0: .*unreachable"):
        machine.configure(ADDRESS, IPv4Address("10.0.0.1"))
    missing = Network("tap9")
    with pytest.raises(AgentError, match="tap9: no interface") as error:
        machine.do(lambda: missing.set_up(MAC, 1500))
    assert not isinstance(error.value, RefusedError)
