"""What `configure` fills in, and what it refuses."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from gvproxy.config import Forward, Record, Zone, configure
from gvproxy.errors import ConfigError


def test_defaults_are_those_clients_know() -> None:
    config = configure()
    gateway, device, host = (IPv4Address(f"192.168.127.{last}") for last in (1, 2, 254))
    assert [str(one) for one in config.listen] == ["vsock://:1024"]
    assert config.mtu == 1500
    assert config.ssh_port == 2222
    assert config.subnet == IPv4Network("192.168.127.0/24")
    assert (config.gateway_ip, config.device_ip, config.host_ip) == (gateway, device, host)
    assert config.gateway_mac.hex(":") == "5a:94:ef:e4:0c:dd"
    assert config.device_mac.hex(":") == "5a:94:ef:e4:0c:ee"
    names = (Record("gateway", gateway), Record("host", host))
    assert config.zones == (Zone("containers.internal.", names), Zone("docker.internal.", names))
    assert config.search_domains is None
    assert config.nat == {host: IPv4Address("127.0.0.1")}
    assert config.virtual_ips == {host}
    assert config.static_leases == {device: config.device_mac}
    assert config.forwards == (Forward("127.0.0.1:2222", "192.168.127.2:22"),)


def test_everything_follows_the_addresses() -> None:
    config = configure(
        subnet="10.1.0.0/16", gateway_ip="10.1.2.3", device_ip="10.1.9.9", ssh_port=4000
    )
    assert str(config.host_ip) == "10.1.255.254"
    assert config.zones[0].records[0].address == IPv4Address("10.1.2.3")
    assert config.static_leases == {IPv4Address("10.1.9.9"): config.device_mac}
    assert config.forwards == (Forward("127.0.0.1:4000", "10.1.9.9:22"),)


def test_the_smallest_subnet_has_room_for_all() -> None:
    config = configure(subnet="10.0.0.8/29")
    addresses = (config.gateway_ip, config.device_ip, config.host_ip)
    assert [str(address) for address in addresses] == ["10.0.0.9", "10.0.0.10", "10.0.0.14"]


def test_no_ssh_port() -> None:
    config = configure(ssh_port=-1)
    assert config.ssh_port is None
    assert config.forwards == ()


def test_bits_of_a_host_in_the_subnet_are_ignored() -> None:
    assert configure(subnet="10.0.0.77/24").subnet == IPv4Network("10.0.0.0/24")


def test_files() -> None:
    config = configure(log_file="/tmp/a.log", pid_file="a.pid")
    assert (config.log_file, config.pid_file) == (Path("/tmp/a.log"), Path("a.pid"))


@pytest.mark.parametrize("mtu", [576, 1500, 4000, 65520])
def test_mtu_taken(mtu: int) -> None:
    assert configure(mtu=mtu).mtu == mtu


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mtu": 575}, "-mtu must be from 576 to 65520, not 575"),
        ({"mtu": 65521}, "-mtu must be"),
        ({"connect_timeout": 0}, "-connect-timeout must be from 1 to"),
        ({"drain": 31}, "-drain must be from 0 to 30, not 31"),
        ({"keepalive": -1}, "-tcp-keepalive must be from 1 to"),
        ({"ssh_port": 1023}, "-ssh-port must be from 1024 to 65535, or -1 for none, not 1023"),
        ({"ssh_port": 65536}, "-ssh-port must be"),
        ({"ssh_port": 0}, "-ssh-port must be"),
        ({"subnet": "192.168.127.0"}, "-subnet must be an IPv4 network"),
        ({"subnet": "fd00::/64"}, "-subnet must be an IPv4 network"),
        ({"subnet": "10.0.0.0/33"}, "-subnet must be an IPv4 network"),
        ({"subnet": ""}, "-subnet must be an IPv4 network"),
        ({"subnet": "10.0.0.0/30"}, "-subnet must be a /8 to /29"),
        ({"subnet": "10.0.0.0/7"}, "-subnet must be a /8 to /29"),
        ({"subnet": "127.0.0.0/24"}, "reserved"),
        ({"subnet": "169.254.0.0/16"}, "reserved"),
        ({"subnet": "239.0.0.0/24"}, "reserved"),
        ({"gateway_ip": "10.0.0.1"}, "-gatewayIP 10.0.0.1 is no address of a host in the subnet"),
        ({"device_ip": "192.168.127.0"}, "-deviceIP 192.168.127.0 is no address"),
        ({"host_ip": "192.168.127.255"}, "-hostIP 192.168.127.255 is no address"),
        ({"host_ip": "::1"}, "-hostIP must be an IPv4 address, not '::1'"),
        ({"gateway_ip": "192.168.127.2"}, "must differ"),
        ({"device_ip": "192.168.127.254"}, "must differ"),
        ({"listen": ["nonsense"]}, "-listen: 'nonsense'"),
        ({"listen": ["unixgram:///a"]}, "-listen: 'unixgram:///a' belongs to -listen-vfkit"),
        ({"listen": ["UnixPacket:///a"]}, "-listen: 'UnixPacket:///a' belongs to -listen-bess"),
        ({"services": "unixgram:///a"}, "-services: unixgram:///a: unixgram:// is no byte stream"),
        ({"listen_vfkit": "foo:///a"}, "unknown scheme 'foo' (known are unixgram://)"),
        ({"listen": ["tcp://a..b:80"]}, "-listen: tcp://a..b:80: each part of a host's name"),
        ({"listen": ["unix:///tmp/a", "unix:///tmp/a"]}, "-listen: unix:///tmp/a is given twice"),
        ({"services": "nonsense"}, "-services: 'nonsense'"),
        (
            {"listen": ["unix:///tmp/a"], "services": "unix:///tmp/a"},
            "-services: unix:///tmp/a is given twice",
        ),
        ({"notification": "unix://"}, "-notification must be the path of a unix socket"),
        ({"notification": "a\0b"}, "-notification must be the path of a unix socket"),
    ],
)
def test_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(**settings)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ({}, ["vsock://:1024"]),
        ({"services": "unix:///a"}, ["vsock://:1024"]),
        ({"listen": ["unix:///a"], "listen_qemu": "unix:///b"}, ["unix:///a"]),
        ({"listen_qemu": "unix:///b"}, []),
        ({"listen_vfkit": "unixgram:///b"}, []),
        ({"listen_stdio": "accept"}, []),
    ],
)
def test_where_it_listens_by_default(given: dict[str, Any], places: list[str]) -> None:
    config = configure(**given)
    assert [str(place) for place in config.listen] == places
    assert config.stdio == ("listen_stdio" in given)
