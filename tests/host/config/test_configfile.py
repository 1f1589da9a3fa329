"""The configuration file: every key, every refusal, and the command line above it."""

import logging
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from gvproxy import cli, configfile
from gvproxy.config import Config, Forward, Record, SshForward, Zone, configure
from gvproxy.errors import ConfigError
from gvproxy.limits import Limit, Limits
from gvproxy.rules import Protocol, Rule

DOCUMENT = Path(__file__).parents[3] / "docs" / "config.md"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gvproxy.yaml"


def parse(path: Path, text: str | bytes, *argv: str) -> Config:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return cli.parse(["-config", str(path), *argv])


def ip(text: str) -> IPv4Address:
    return IPv4Address(text)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        ("# nothing\n---\n", {}),
        ("stack:\nlisten:\n", {}),
        (
            "listen: ['unix:///a', 'tcp://127.0.0.1:7']",
            {"listen": ["unix:///a", "tcp://127.0.0.1:7"]},
        ),
        ("services: unix:///a", {"services": "unix:///a"}),
        ("log-level: debug", {"log_level": "trace"}),
        ("log-level: warn", {"log_level": "warning"}),
        ("log-file: /a", {"log_file": "/a"}),
        ("pid-file: /a", {"pid_file": "/a"}),
        ("notification: unix:///a", {"notification": "/a"}),
        ("drop-privileges: false", {"drop_privileges": False}),
        ("allow-paths: [/a, /b]", {"allow_paths": ["/a", "/b"]}),
        ("ec2-metadata-access: true", {"ec2_metadata": True}),
        ("profile: crc", {"profile": "crc"}),
        ("interfaces: {vpnkit: '', qemu: , bess: ''}\nforwards: []", {}),
        ("stack: {debug: true}", {"debug": True}),
        ("stack: {capture-file: /a}", {"pcap": "/a"}),
        ("stack: {source-checks: false}", {"source_checks": False}),
        ("stack: {source-checks: true}", {}),
        ("stack: {mtu: 4000}", {"mtu": 4000}),
        ("stack: {subnet: 10.0.0.0/24}", {"subnet": "10.0.0.0/24"}),
        ("stack: {gatewayIP: 192.168.127.9}", {"gateway_ip": "192.168.127.9"}),
        ("stack: {deviceIP: 192.168.127.9}", {"device_ip": "192.168.127.9"}),
        ("stack: {hostIP: 192.168.127.9}", {"host_ip": "192.168.127.9"}),
        ("stack: {gatewayMacAddress: '02-00-00-00-00-AB'}", {"gateway_mac": b"\2\0\0\0\0\xab"}),
        (
            "stack: {dns: [{name: a., records: [{name: b, ip: 1.2.3.4}, {regexp: c+, ip: fd00::1}],"
            " defaultIP: 5.6.7.8}, {name: d.}]}",
            {
                "zones": [
                    Zone(
                        "a.",
                        (Record("b", ip("1.2.3.4")), Record("", IPv6Address("fd00::1"), "c+")),
                        ip("5.6.7.8"),
                    ),
                    Zone("d."),
                ]
            },
        ),
        ("stack: {dns: []}", {"zones": []}),
        ("stack: {dnsSearchDomains: [a.b, c]}", {"search_domains": ["a.b", "c"]}),
        (
            "stack: {forwards: {':80': '192.168.127.2:80', '[::1]:81': '192.168.127.2:81'}}",
            {
                "forwards": [
                    Forward(":80", "192.168.127.2:80"),
                    Forward("[::1]:81", "192.168.127.2:81"),
                ]
            },
        ),
        (
            "stack: {nat: {192.168.127.254: 127.0.0.9}}",
            {"nat": {ip("192.168.127.254"): ip("127.0.0.9")}},
        ),
        ("stack: {nat: {}}", {"nat": {}}),
        (
            "stack: {nat: {10.9.9.9: 169.254.1.1}}\nec2-metadata-access: true",
            {"nat": {ip("10.9.9.9"): ip("169.254.1.1")}, "ec2_metadata": True},
        ),
        ("stack: {destinations: }", {}),
        ("stack: {destinations: []}", {}),
        ("stack: {gatewayVirtualIPs: [192.168.127.7]}", {"virtual_ips": [ip("192.168.127.7")]}),
        (
            "stack: {dhcpStaticLeases: {192.168.127.8: '02:00:00:00:00:01'}}",
            {"static_leases": {ip("192.168.127.8"): b"\2\0\0\0\0\1"}},
        ),
        ("stack: {vpnKitUUIDMacAddresses: {}}", {"vpnkit_macs": {}}),
        (
            "stack: {vpnKitUUIDMacAddresses: {A-b: '02-00-00-00-00-01'}}",
            {"vpnkit_macs": {"a-b": b"\2\0\0\0\0\1"}},
        ),
        ("interfaces: {vpnkit: 'unix:///a'}", {"listen_vpnkit": "unix:///a"}),
        ("interfaces: {qemu: 'tcp://127.0.0.1:1'}", {"listen_qemu": "tcp://127.0.0.1:1"}),
        ("interfaces: {bess: 'unixpacket:///a'}", {"listen_bess": "unixpacket:///a"}),
        ("interfaces: {stdio: accept}", {"listen_stdio": "accept"}),
        ("interfaces: {vfkit: 'unixgram:///a'}", {"listen_vfkit": "unixgram:///a"}),
        (
            "stack: {forwards: {'udp::53': 'a:53', 'unix:/s': 'tcp://a:1', 'unix:///t': 'tcp://a:2'}}",
            {
                "forwards": [
                    Forward(":53", "a:53", "udp"),
                    Forward("/s", "tcp://a:1", "unix"),
                    Forward("/t", "tcp://a:2", "unix"),
                ]
            },
        ),
        (
            "forwards: [{socket: /a, dest: /b, user: c, identity: /d}]",
            {"ssh_forwards": [SshForward("/a", "/b", "c", "/d")]},
        ),
        ("stack: {ec2MetadataAccess: true}\nec2-metadata-access: false", {"ec2_metadata": True}),
        ("stack: {ec2MetadataAccess: false}\nec2-metadata-access: true", {"ec2_metadata": True}),
    ],
)
def test_every_key(path: Path, text: str, settings: dict[str, Any]) -> None:
    assert parse(path, text) == configure(**settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lisen: []", "lisen @1 is no known key"),
        ("\nstack:\n  mtu: 1500\n  MTU: 1500", "stack.MTU @4 is no known key"),
        ("interfaces: {kvm: a}", "interfaces.kvm @1 is no known key"),
        (
            "stack: {dns: [{name: a, record: []}]}",
            "stack.dns[0].record @1 is no known key",
        ),
        ("<<: {a: b}", "<< @1 is no known key"),
        (
            "interfaces:\n  vfkit: unix:///a",
            "interfaces.vfkit @2: unix:///a: must be a unixgram:// URL",
        ),
        (
            "interfaces: {qemu: 'unix:///a', vpnkit: 'unix:///b'}",
            "interfaces.qemu @1 and interfaces.vpnkit @1 cannot both be given",
        ),
        ("forwards: [{socket: /a}]", "forwards[0] @1 needs a dest"),
        ("forwards: [{socket: /a, path: /b}]", "forwards[0].path @1 is no known key"),
        (
            "forwards:\n- {socket: /a, dest: b, user: c, identity: d}",
            "forwards @2 must be an absolute path, not 'b'",
        ),
        (
            "stack: {vpnKitUUIDMacAddresses: {a: b}}",
            "stack.vpnKitUUIDMacAddresses.a @1 must be a MAC address",
        ),
        ("stack: {mtu: fast}", "stack.mtu @1 must be a whole number"),
        ("stack: {mtu: 1e3}", "stack.mtu @1 must be a whole number"),
        ("stack: {mtu: 0x600}", "stack.mtu @1 must be a whole number"),
        (
            "stack: {mtu: !!python/object/apply:os.system [a]}",
            "stack.mtu @1 must be a whole number",
        ),
        ("listen: !!python/name:os.system a", "listen @1 must be a list"),
        ("pid-file: !!binary aGk=", "pid-file @1 must be a text"),
        ("listen: unix:///a", "listen @1 must be a list"),
        ("listen:\n- [a]", "listen[0] @2 must be a text"),
        ("stack: [mtu]", "stack @1 must be a mapping of keys to values"),
        ("ec2-metadata-access: 1", "ec2-metadata-access @1 must be true or false"),
        ("allow-paths: /a", "allow-paths @1 must be a list"),
        ("allow-paths: [a]", "allow-paths @1 must be an absolute path, not 'a'"),
        ("log-file: a\nlog-file: b\n", "log-file @2 is given twice"),
        (
            "stack: {nat: {1.1.1.1: 2.2.2.2, 1.1.1.1: 3.3.3.3}}",
            "stack.nat.1.1.1.1 @1 is given",
        ),
        ("stack: {nat: {1.1.1.1: fd00::1}}", "must be an IPv4 address, not fd00::1"),
        (
            "stack: {nat: {here: 1.1.1.1}}",
            "stack.nat.here @1 must be an IP address, not 'here'",
        ),
        (
            "stack: {nat: {10.9.9.9: 169.254.169.254}}",
            "stack.nat @1 10.9.9.9 leads to 169.254.169.254, which takes -ec2-metadata-access",
        ),
        (
            "stack: {nat: {10.9.9.9: 0.0.0.0}}",
            "stack.nat @1 10.9.9.9 leads to 0.0.0.0, which is no address of a host",
        ),
        ("stack: {nat: {10.9.9.9: 255.255.255.255}}", "which is no address of a host"),
        ("stack: {nat: {10.9.9.9: 224.0.0.251}}", "which is no address of a host"),
        ("stack: {destinations: {deny: any}}", "stack.destinations @1 must be a list"),
        ("stack: {destinations: [any]}", "stack.destinations[0] @1 must be a mapping"),
        (
            "stack:\n  destinations:\n  - deny: any\n  - ports: 1",
            "stack.destinations[1] @4 needs either allow or deny",
        ),
        ("stack: {destinations: [{deny: }]}", "[0] @1 needs either allow or deny"),
        (
            "stack: {destinations: [{allow: any, deny: any}]}",
            "stack.destinations[0] @1 needs either allow or deny",
        ),
        ("stack: {destinations: [{deny: any, to: a}]}", "destinations[0].to @1 is no known key"),
        ("stack: {destinations: [{deny: []}]}", "destinations[0].deny @1 must not be empty"),
        # Left out it would match all, and its list may be behind a `#`.
        (
            "stack:\n  destinations:\n  - allow: any\n    ports:\n    # - 443",
            "stack.destinations[0].ports @4 must not be empty",
        ),
        ("stack: {destinations: [{allow: any, guests: ''}]}", "[0].guests @1 must not be empty"),
        ("stack: {destinations: [{deny: any, protocols: ~}]}", "protocols @1 must not be empty"),
        (
            "stack: {destinations: [{deny: [any, 10.0.0.0/33]}]}",
            "stack.destinations[0].deny[1] @1 must be an IP address or network, not '10.0.0.0/33'",
        ),
        ("stack: {destinations: [{deny: host}]}", "address or network, not 'host'"),
        ("stack: {destinations: [{deny: fe80::1%a}]}", "address or network, not 'fe80::1%a'"),
        (
            "stack: {destinations: [{allow: 10.0.0.5/8}]}",
            "must be a network such as 10.0.0.0/8, not '10.0.0.5/8'",
        ),
        (
            "stack: {destinations: [{deny: any, ports: [1, 9-8]}]}",
            "ports[1] @1 must be a port or a range such as 8000-8100, not '9-8'",
        ),
        ("stack: {destinations: [{deny: any, ports: 65536}]}", "a port or a range"),
        (
            "stack: {destinations: [{deny: any, ports: [1, 0]}]}",
            "ports[1] @1 must not be 0 alone, which is nobody's port",
        ),
        ("stack: {destinations: [{deny: any, ports: 0-0}]}", "must not be 0 alone"),
        *(
            (
                f"stack: {{destinations: [{{deny: '{nobody}'}}]}}",
                f"deny @1 must not be {nobody}, which is nobody's address; all of them are {all}",
            )
            for nobody, all in (
                ("0.0.0.0", "0.0.0.0/0"),
                ("0.0.0.0/32", "0.0.0.0/0"),
                ("::", "::/0"),
                ("::/128", "::/0"),
                ("::ffff:0.0.0.0", "0.0.0.0/0"),
            )
        ),
        (
            "stack: {destinations: [{deny: any, guests: 0.0.0.0}]}",
            "or a MAC address, not '0.0.0.0'",
        ),
        ("mtu: \0", "is no YAML: line 1: the character U+0000 may not be in it"),
        ("# \xe9\nmtu: \x1b", "is no YAML: line 2: the character U+001B may not be in it"),
        ("stack: {destinations: [{deny: any, ports: 1-}]}", "a port or a range"),
        ("stack: {destinations: [{deny: any, ports: -1}]}", "a port or a range"),
        ("stack: {destinations: [{deny: any, ports: ²}]}", "a port or a range"),
        ("stack: {destinations: [{deny: any, ports: []}]}", "ports @1 must not be empty"),
        (
            "stack: {destinations: [{deny: any, protocols: [tcp, sctp]}]}",
            "protocols[1] @1 must be one of tcp, udp, icmp, not 'sctp'",
        ),
        (
            "stack: {destinations: [{deny: any, ports: 1, protocols: icmp}]}",
            "ports @1 cannot be given for icmp, which has none",
        ),
        (
            "stack: {destinations: [{deny: any, guests: 5a:94}]}",
            "guests @1 must be an IP address, a network or a MAC address, not '5a:94'",
        ),
        ("stack: {dns: [{records: []}]}", "stack.dns[0] @1 needs a name"),
        ("stack: {dns: [{name: a, records: [{name: b}]}]}", "records[0] @1 needs an ip"),
        ("stack: {dns: [{name: a, records: [{ip: 1.1.1.1}]}]}", "and a name or a regexp"),
        (
            "stack: {dns: [{name: a, records: [{ip: 1.1.1.1, regexp: '('}]}]}",
            "stack.dns[0].records[0].regexp @1 is no regular expression: missing )",
        ),
        (
            f"stack: {{dns: [{{name: a, records: [{{ip: 1.1.1.1, regexp: {'(' * 3000}}}]}}]}}",
            "stack.dns[0].records[0].regexp @1 is no regular expression: it has more than 100",
        ),
        (
            "stack: {gatewayMacAddress: 5a}",
            "must be a MAC address such as 5a:94:ef:e4:0c:ee, not '5a'",
        ),
        # What only `configure` can tell.
        ("stack:\n  mtu: 100", "stack.mtu @2 must be from 576 to 65520, not 100"),
        ("stack: {subnet: here}", "stack.subnet @1 must be an IPv4 network"),
        (
            "stack: {gatewayIP: 10.0.0.1}",
            "stack.gatewayIP @1 10.0.0.1 is no address of a host",
        ),
        (
            "stack: {hostIP: 192.168.127.1}",
            "-gatewayIP, -deviceIP and stack.hostIP @1 must differ",
        ),
        ("listen: [http://a]", "listen @1: http://a: unknown scheme"),
        ("listen: [unix:///a, unix:///a]", "listen @1: unix:///a is given twice"),
        ("services: nonsense", "services @1: 'nonsense'"),
        ("log-level: loud", "log-level @1 must be one of trace, debug, info, warn"),
        ("api-token-file: ''", "api-token-file @1 must not be empty"),
        ("listen: [unix:///a]\napi-token-file:\n", "api-token-file @2 must not be empty"),
        ("api-token-file: ~", "api-token-file @1 must not be empty"),
        ("state-dir: ''", "state-dir @1 must not be empty"),
        ("state-dir:", "state-dir @1 must not be empty"),
        ("profile: k8s", "profile @1 must be one of containers, crc, not 'k8s'"),
        ("notification: tcp://a:1", "notification @1 must be the path of a unix socket"),
        (
            "stack: {gatewayMacAddress: 'ff:ff:ff:ff:ff:ff'}",
            "stack.gatewayMacAddress @1 ff:ff:ff:ff:ff:ff is no address of one host",
        ),
        (
            "stack: {gatewayVirtualIPs: [10.0.0.1]}",
            "stack.gatewayVirtualIPs @1 10.0.0.1 is no free address of 192.168.127.0/24",
        ),
        ("stack: {gatewayVirtualIPs: [192.168.127.2]}", "192.168.127.2 is no free address"),
        (
            "stack: {dhcpStaticLeases: {192.168.127.254: '02:00:00:00:00:01'}}",
            "stack.dhcpStaticLeases @1 192.168.127.254 is no address for a guest",
        ),
        (
            "stack: {dhcpStaticLeases: {192.168.127.1: '02:00:00:00:00:01'}}",
            "no address for a guest",
        ),
        ("stack: {dhcpStaticLeases: {10.1.1.1: '02:00:00:00:00:01'}}", "no address for a guest"),
        (
            "stack: {dhcpStaticLeases: {192.168.127.9: '03:00:00:00:00:01'}}",
            "no address of one host",
        ),
        (
            "stack: {dhcpStaticLeases: {192.168.127.9: '02:00:00:00:00:01',"
            " 192.168.127.8: '02:00:00:00:00:01'}}",
            "has two addresses for one MAC address",
        ),
        ("limits: {macs: 0}", "limits.macs @1 must be 1 at least, not 0"),
        ("limits: {tcp-buffers: 256 MiB}", "limits.tcp-buffers @1 must be a whole number"),
        ("limits: {macs: 9999999999}", "limits.macs @1 must have nine digits at most"),
        ("limits: {macs: many}", "limits.macs @1 must be a whole number"),
        ("limits: {ports: 1}", "limits.ports @1 is no known key"),
        ("limits: {macs: {each: 1}}", "limits.macs.each @1 is no known key"),
        ("limits: {guests: {total: 1}}", "limits.guests @1 must be a whole number"),
        (
            "limits: {macs: {guest: 2000}}",
            "limits.macs.guest @1 is more than all guests may hold, 1024",
        ),
        # What is no such file at all.
        ("[]", "-config FILE is no mapping of keys to values"),
        ("just text", "-config FILE is no mapping of keys to values"),
        ("a: [", "-config FILE is no YAML: line 1, column 5: "),
        ("a:\n\tb: 1", "-config FILE is no YAML: line 2, column 1: found character '\\t'"),
        ("a: b: c", "-config FILE is no YAML: "),
        ("a: *b", "-config FILE is no YAML: "),
        (b"\xff\xfe\x00", "-config FILE is no YAML: "),
        (b"a: \x00", "-config FILE is no YAML: "),
        ("[" * 5000, "-config FILE is no YAML: "),
        ("#" * (configfile.MAX_SIZE + 1), "-config FILE has more than 1048576 bytes"),
        ("? [a]\n: b", " @1 has a key that is no text"),
    ],
)
def test_every_refusal_names_the_key_and_its_line(path: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(path, text)
    error = str(caught.value)
    assert re.sub(r"@(\d)", f"({path} line \\1)", said).replace("FILE", str(path)) in error
    assert "\n" not in error


def test_rules_in_their_order(path: Path) -> None:
    text = """\
stack:
  destinations:
    - deny: 10.0.0.0/8
    - allow: [10.0.0.5, "::ffff:10.0.0.0/104", fd00::/8]
      ports: [443, 8000-8100]
      protocols: [tcp, udp]
      guests: [192.168.127.3, 192.168.127.128/25, 5A-94-EF-E4-0C-EE, 52:54:00:12:34:56]
    - deny: [any, 10.0.0.5]
"""
    first, second, third = parse(path, text).destinations
    assert first == Rule(
        False, (IPv4Network("10.0.0.0/8"),), where=f"stack.destinations[0] ({path} line 3)"
    )
    assert second == Rule(
        True,
        (IPv4Network("10.0.0.5"), IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8")),
        (range(443, 444), range(8000, 8101)),
        frozenset({Protocol.TCP, Protocol.UDP}),
        (IPv4Network("192.168.127.3"), IPv4Network("192.168.127.128/25")),
        frozenset({bytes.fromhex("5a94efe40cee"), bytes.fromhex("525400123456")}),
        where=f"stack.destinations[1] ({path} line 4)",
    )
    assert third == Rule(False, where=f"stack.destinations[2] ({path} line 8)")


def test_the_command_line_overrides(path: Path) -> None:
    text = "listen: [unix:///a]\nlog-level: error\n"
    text += "stack: {mtu: 4000, subnet: 10.0.0.0/24, debug: true}"
    config = parse(
        *(path, text, "-listen", "unix:///b", "-subnet", "10.1.0.0/24", "-debug=false"),
    )
    assert config == configure(
        listen=["unix:///b"], mtu=4000, subnet="10.1.0.0/24", log_level="error"
    )
    assert config.log_level == logging.ERROR


def test_an_error_names_the_flag_that_overrides(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^-mtu must be from 576"):
        parse(path, "stack: {mtu: 4000}", "-mtu", "1")
    # A value that is overridden does no harm.
    assert parse(path, "stack: {mtu: 1}", "-mtu", "1500").mtu == 1500


def test_forwards_take_the_place_of_ssh_unless_its_port_is_given(path: Path) -> None:
    text = "stack: {forwards: {':80': '192.168.127.2:80'}}"
    assert [one.local for one in parse(path, text).forwards] == [":80"]
    config = parse(path, text, "-ssh-port", "2223")
    assert [one.local for one in config.forwards] == ["127.0.0.1:2223", ":80"]
    assert config.forwards[1].hint == f"see stack.forwards.:80 ({path} line 1)"


def test_no_forwards_are_no_ssh_either(path: Path) -> None:
    assert parse(path, "stack: {forwards: {}}").forwards == ()
    assert parse(path, "forwards: []").forwards != (), "those by ssh are others"


def test_limits(path: Path) -> None:
    """All that is not named has its default; of a smaller total a guest has seven eighths."""
    text = """
        limits:
          guests: 7
          macs: 100
          dns-queries: {guest: 5}
          half-open: {total: 10000, guest: 9000}
    """
    assert parse(path, text).limits == Limits(
        guests=7,
        macs=Limit(100, 87),
        dns_queries=Limit(2048, 5),
        half_open=Limit(10000, 9000),
    )


def test_the_documents_example_has_every_key(path: Path) -> None:
    (text,) = re.findall("```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    config = parse(path, text)
    assert config.zones[0].default == ip("192.168.127.2")
    written = set(re.findall(r"^ *([a-zA-Z0-9-]+):", text, re.MULTILINE))
    left_out = {"api-token-file", "debug", "ec2MetadataAccess", "vpnKitUUIDMacAddresses"}
    assert configfile._TOP.keys() | configfile._STACK.keys() <= written | left_out
