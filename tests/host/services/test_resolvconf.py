"""What is read from resolv.conf, and when it is read again."""

import os
from pathlib import Path

import pytest

from gvproxy.services.resolvconf import ResolvConf


@pytest.mark.parametrize(
    ("text", "servers", "search"),
    [
        ("", [], []),
        ("nameserver 10.0.0.1\n", ["10.0.0.1"], []),
        ("nameserver\t10.0.0.1 # ours\nnameserver fe80::1%eth0", ["10.0.0.1", "fe80::1%eth0"], []),
        ("#nameserver 10.0.0.1\n;nameserver 10.0.0.2\nnameservers 10.0.0.3", [], []),
        ("nameserver nonsense\nnameserver\nnameserver ::1", ["::1"], []),
        ("nameserver 1.1.1.1\n" * 5, ["1.1.1.1"] * 3, []),
        ("search a.example b.example.\n", [], ["a.example", "b.example"]),
        ("domain a.example\nsearch b.example\n", [], ["b.example"]),
        ("search .\n", [], []),
        ("options edns0 trust-ad\nsortlist 1.2.3.4", [], []),
    ],
)
def test_what_is_read(tmp_path: Path, text: str, servers: list[str], search: list[str]) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    conf = ResolvConf(path)
    assert conf.servers(0.0) == tuple((server, 53) for server in servers)
    assert conf.search(0.0) == tuple(search)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"search \xff\xfe\nnameserver 10.0.0.1\n\0")
    assert ResolvConf(path).servers(0.0) == (("10.0.0.1", 53),)


@pytest.mark.parametrize("zone", [b"a\0b", b"\xff", b"a" * 64, b"a..b"])
def test_a_zone_that_no_socket_takes(tmp_path: Path, zone: bytes) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver fe80::1%" + zone + b"\nnameserver 10.0.0.1\n")
    assert ResolvConf(path).servers(0.0) == (("10.0.0.1", 53),)


def test_a_change_is_seen_within_a_second_of_asking(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\n")
    conf = ResolvConf(path, port=5353)
    assert conf.servers(10.0) == (("10.0.0.1", 5353),)
    replacement = tmp_path / "new"
    replacement.write_text("nameserver 10.0.0.2\nsearch vpn.example\n")
    replacement.rename(path)
    assert conf.servers(10.9) == (("10.0.0.1", 5353),), "looked at more than once a second"
    assert conf.servers(11.0) == (("10.0.0.2", 5353),)
    assert conf.search(11.0) == ("vpn.example",)


def test_a_file_that_goes_and_comes(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    conf = ResolvConf(path)
    assert conf.servers(0.0) == ()
    path.write_text("nameserver 10.0.0.1\n")
    assert conf.servers(1.0) == (("10.0.0.1", 53),)
    path.unlink()
    assert conf.servers(2.0) == ()
    path.mkdir()
    assert conf.servers(3.0) == ()


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\n")
    conf = ResolvConf(path)
    conf.servers(0.0)
    status = path.stat()
    path.write_text("nameserver 10.0.0.2\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert conf.servers(5.0) == (("10.0.0.1", 53),)
