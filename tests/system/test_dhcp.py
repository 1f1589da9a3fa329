"""Leases for real clients, ISC's dhclient and busybox's udhcpc, and names for what has one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.namespace import Namespace
from tests.lab.network import World, make_guest, make_world
from tests.lab.process import Process
from tests.lab.programs import GATEWAY, HOST, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

MAC = "02:00:00:00:00:07"
AGENT, FIRST = "192.168.127.3", "192.168.127.4"
"""Of the pool: what the agent has, and what comes next."""
UNTOLD = ("new_expiry", "new_network_number", "new_next_server")
"""What dhclient makes up, or what is of no use here."""
CONFIG = "stack: {mtu: 1400, dnsSearchDomains: [corp.example.com, example.com]}"
SCRIPT = """\
#!/bin/sh
reason=${{reason:-$1}} address=${{new_ip_address:-$ip}}
case $reason in
    BOUND | bound) ip address add "$address/24" dev tap0 ;;  # to send RELEASE from
    RELEASE) ip address del "$old_ip_address/24" dev tap0 ;;
esac
env >"{folder}/$reason.new"
mv "{folder}/$reason.new" "{folder}/$reason"
"""


class Machine:
    """A guest in which nothing listens to what a client is told but its script, and the test."""

    def __init__(self, gvproxy: Gvproxy, guest: Namespace, folder: Path) -> None:
        self.gvproxy = gvproxy
        self.guest = guest
        self.folder = folder
        self.script = folder / "script"
        self.script.write_text(SCRIPT.format(folder=folder))
        self.script.chmod(0o755)

    def told(self, reason: str) -> dict[str, str]:
        """Return the variables that the client's script was called with."""

        def read() -> dict[str, str]:
            try:
                text = (self.folder / reason).read_text()
            except FileNotFoundError:
                raise NotYetError(f"the script was not called for {reason}") from None
            return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

        return until(read, f"the client's script is called for {reason}")

    def leases(self) -> dict[str, str]:
        leases: dict[str, str] = self.gvproxy.get("/leases")
        return leases

    def dig(self, *arguments: str) -> str:
        return self.guest.run("dig", "+short", "+tries=1", f"@{GATEWAY}", *arguments).strip()

    def status(self, *arguments: str) -> str:
        said = self.guest.run("dig", "+tries=1", f"@{GATEWAY}", *arguments)
        return said.partition("status: ")[2].partition(",")[0]

    def dhclient(self, *flags: str, name: str = "db", lease: str = "") -> list[str | Path]:
        conf, leases = self.folder / "dhclient.conf", self.folder / "dhclient.leases"
        conf.write_text(
            f'send host-name "{name}";\nsend dhcp-client-identifier "client of {name}";\n'
            "request subnet-mask, routers, domain-name-servers, interface-mtu, domain-search,\n"
            "  broadcast-address, dhcp-renewal-time, dhcp-rebinding-time;\n"
        )
        if lease:
            leases.write_text(lease)
        files = {"-cf": conf, "-lf": leases, "-pf": self.folder / "pid", "-sf": self.script}
        return ["dhclient", *flags, *(word for pair in files.items() for word in pair), "tap0"]

    @contextlib.contextmanager
    def running_dhclient(self, name: str = "db", lease: str = "") -> Iterator[Process]:
        """Run it until it has its lease, and at the end until it has given that back."""
        process = self.guest.start("dhclient", *self.dhclient("-d", "-v", name=name, lease=lease))
        try:
            yield process
            self.guest.run(*self.dhclient("-r", name=name))
            process.wait(10)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[World, Gvproxy, Namespace]]:
    with make_world() as world:
        config, hosts = world.folder / "config.yaml", world.folder / "hosts"
        config.write_text(CONFIG)
        hosts.write_text(f"127.0.0.1 localhost dev.example\n10.0.0.7 nas.example\n{AGENT} vm.lan\n")
        world.host.run("mount", "--bind", hosts, "/etc/hosts")
        gvproxy = Gvproxy(world.folder, world.host, "-config", str(config))
        try:
            with make_guest(world, gvproxy, "guest", "-mac", MAC) as (guest, _):
                yield world, gvproxy, guest
        finally:
            gvproxy.process.stop()


@pytest.fixture
def machine(network: tuple[World, Gvproxy, Namespace], tmp_path: Path) -> Machine:
    return Machine(network[1], network[2], tmp_path)


def test_dhclient_gets_a_lease_and_gives_it_back(machine: Machine) -> None:
    with machine.running_dhclient():
        address = check_dhclient(machine.told("BOUND"))
        assert machine.leases()[address] == MAC
        assert machine.dig("db") == machine.dig("DB.containers.internal") == address
        assert machine.dig("-x", address) == "db.containers.internal."
    assert address not in machine.leases()
    assert machine.status("db.containers.internal") == "NXDOMAIN"


def check_dhclient(told: dict[str, str]) -> str:
    """Check what dhclient is told besides its address, which is returned."""
    given = {
        name.removeprefix("new_"): value
        for name, value in told.items()
        if name.startswith("new_") and name not in UNTOLD
    }
    address = given.pop("ip_address")
    assert given == {
        "subnet_mask": "255.255.255.0",
        "routers": GATEWAY,
        "domain_name_servers": GATEWAY,
        "interface_mtu": "1400",
        "domain_search": "corp.example.com. example.com.",
        "broadcast_address": "192.168.127.255",
        "dhcp_lease_time": "3600",
        "dhcp_renewal_time": "1800",
        "dhcp_rebinding_time": "3150",
        "dhcp_message_type": "5",
        "dhcp_server_identifier": GATEWAY,
    }
    return address


def test_dhclient_with_an_address_it_may_not_have(machine: Machine) -> None:
    lease = (
        f'lease {{ interface "tap0"; fixed-address {HOST}; option subnet-mask 255.255.255.0;\n'
        "  renew never; rebind never; expire never; }\n"
    )
    with machine.running_dhclient("late", lease) as process:
        address = machine.told("BOUND")["new_ip_address"]
        log = process.log.read_text()
        assert f"DHCPREQUEST for {HOST}" in log
        assert "DHCPNAK from" in log
        assert address in machine.leases()
        assert address != HOST


@pytest.mark.parametrize(
    ("name", "wanted"), [("cache1", None), ("cache2", "192.168.127.77"), ("cache3", HOST)]
)
def test_udhcpc_gets_a_lease(machine: Machine, name: str, wanted: str | None) -> None:
    flags = ["-f", "-q", "-n", "-i", "tap0", "-s", str(machine.script), "-O", "search", "-O", "mtu"]
    flags += ["-x", f"hostname:{name}", "-x", f"0x3d:00{name.encode().hex()}"]
    machine.guest.run("udhcpc", *flags, *(["-r", wanted] if wanted else []))
    told = machine.told("bound")
    address = told["ip"]
    machine.guest.run("ip", "address", "del", f"{address}/24", "dev", "tap0")
    assert (address == wanted) == (wanted == "192.168.127.77")
    assert told["subnet"] == "255.255.255.0"
    assert told["router"] == told["dns"] == told["serverid"] == GATEWAY
    assert (told["mtu"], told["lease"]) == ("1400", "3600")
    assert told["search"] == "corp.example.com example.com"
    assert machine.leases()[address] == MAC
    assert machine.dig(f"{name}.docker.internal") == address


def test_the_agents_machine_has_a_name(machine: Machine) -> None:
    name = machine.guest.run("hostname").strip().partition(".")[0]
    assert machine.leases()[AGENT] == MAC
    assert machine.dig(name) == AGENT
    assert machine.dig("-x", AGENT) == f"{name.lower()}.containers.internal."


def test_names_of_the_hosts_own(machine: Machine) -> None:
    assert machine.dig("nas.example") == "10.0.0.7"
    assert machine.dig("-x", "10.0.0.7") == "nas.example."
    assert machine.dig("dev.example") == HOST, "where a guest reaches the host's 127.0.0.1"
    machine.gvproxy.expose("127.0.0.1:8044", "vm.lan:80")
    assert machine.gvproxy.get("/services/forwarder/all")[-1]["remote"] == f"{AGENT}:80"


def test_other_names(machine: Machine) -> None:
    assert machine.dig("_gateway") == GATEWAY
    assert machine.dig("-x", GATEWAY) == "gateway.containers.internal."
    assert machine.status("-x", "192.168.127.200") == "NXDOMAIN"


def test_the_pool_says_when_it_is_used_up(world: World) -> None:
    """A /29 has three addresses besides the gateway's, the device's and the host's."""
    gvproxy = Gvproxy(world.folder, world.host, "-subnet", "10.9.9.0/29")
    with make_guest(world, gvproxy, "guest", "-mac", MAC) as (guest, _):
        machine = Machine(gvproxy, guest, world.folder)
        client = ["udhcpc", "-f", "-q", "-n", "-t", "1", "-T", "1", "-i", "tap0", "-s"]
        for number in range(3):
            done = guest.try_run(*client, "/bin/true", "-x", f"0x3d:0000{number:02x}")
            assert (done.returncode == 0) == (number < 2), done.stderr
        assert list(machine.leases()) == [f"10.9.9.{number}" for number in range(1, 6)]
        assert gvproxy.get("/stats")["Details"]["DHCP"]["Exhausted"] >= 1
        gvproxy.process.wait_for(f"no address left in 10.9.9.0/29 for {MAC}")
    gvproxy.process.stop()
