"""How the two sides of a forward are written."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gvproxy.errors import BadLocalError, BadPortError, BadRemoteError, ForwarderError
from gvproxy.services import forwards
from gvproxy.services.forwards import Local, Protocol, Remote, SshRemote

KEY = "?key=/home/me/.ssh/id"


@pytest.mark.parametrize(
    ("local", "remote", "pairs"),
    [
        (":80", ":8080", [(Local(":80", "", 80), Remote("", 8080))]),
        ("[::1]:80", "a.b:1", [(Local("[::1]:80", "::1", 80), Remote("a.b", 1))]),
        (
            "127.0.0.1:7-8",
            "10.0.0.2:65534-65535",
            [
                (Local("127.0.0.1:7", "127.0.0.1", 7), Remote("10.0.0.2", 65534)),
                (Local("127.0.0.1:8", "127.0.0.1", 8), Remote("10.0.0.2", 65535)),
            ],
        ),
        (":5-5", ":6-6", [(Local(":5", "", 5), Remote("", 6))]),
    ],
)
def test_ports(local: str, remote: str, pairs: list[tuple[Local, Remote]]) -> None:
    assert forwards.read(Protocol.TCP, local, remote) == pairs
    assert forwards.read(Protocol.UDP, local, remote) == pairs


@pytest.mark.parametrize(
    ("local", "remote", "error", "text"),
    [
        (":2-1", ":1", BadPortError, "ports '2-1' are no range: the first comes first"),
        (":1-", ":1", BadPortError, "port '' is not a number from 1 to 65535"),
        (":-1", ":1", BadPortError, "port '' is not"),
        (":0-1", ":1", BadPortError, "port '0' is not"),
        (":1-65536", ":1", BadPortError, "port '65536' is not"),
        (":1-2-3", ":1", BadPortError, "port '2-3' is not"),
        (":1-1025", ":1", BadPortError, "ports '1-1025' are more than 1024"),
        (":1-65535", ":1-65535", BadPortError, "ports '1-65535' are more than 1024"),
        ("x" * 256 + ":1-9", ":1", BadLocalError, "local has a host of more than 255 characters"),
        (":1-2", ":1", BadRemoteError, "remote ':1' has 1 ports, and local ':1-2' has 2"),
        (":1", ":1-2", BadRemoteError, "remote ':1-2' has 2 ports, and local ':1' has 1"),
    ],
)
def test_ports_that_are_refused(
    local: str, remote: str, error: type[ForwarderError], text: str
) -> None:
    with pytest.raises(error) as caught:
        forwards.read(Protocol.TCP, local, remote)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("remote", "read", "shown"),
    [
        ("tcp://10.0.0.2:80", ("10.0.0.2", 80), "tcp://10.0.0.2:80"),
        ("tcp://guest:80", ("guest", 80), "tcp://guest:80"),
        (
            f"ssh-tunnel://core@10.0.0.2:2222/run/podman.sock{KEY}",
            SshRemote("10.0.0.2", 2222, "core", "/run/podman.sock", "/home/me/.ssh/id"),
            "ssh-tunnel://core@10.0.0.2:2222/run/podman.sock",
        ),
        (
            f"ssh-tunnel://a%40b@guest/run/a%20b{KEY}&passphrase=se%26cret",
            SshRemote("guest", 22, "a@b", "/run/a b", "/home/me/.ssh/id", "se&cret"),
            "ssh-tunnel://a%40b@guest:22/run/a%20b",
        ),
    ],
)
def test_urls(remote: str, read: Remote | tuple[str, int], shown: str) -> None:
    ((local, found),) = forwards.read(Protocol.UNIX, "unix:///tmp/s", remote)
    assert local == Local("/tmp/s")
    if isinstance(read, Remote):
        assert found == read
    else:
        assert (found.host, found.port) == read
    assert str(found) == shown
    assert "cret" not in f"{found!r}{found}{found.kept}"
    again = forwards.read(Protocol.UNIX, "/tmp/s", found.kept)[0][1]
    assert again == (replace(found, passphrase=None) if isinstance(found, SshRemote) else found)


@pytest.mark.parametrize(
    ("remote", "error", "text"),
    [
        ("10.0.0.2:80", BadRemoteError, "remote '10.0.0.2:80' must be tcp://host:port or ssh-"),
        ("", BadRemoteError, "remote is missing"),
        ("http://10.0.0.2:80", BadRemoteError, "remote 'http://10.0.0.2:80' must be tcp://"),
        ("tcp://[10.0.0.2:80", BadRemoteError, "remote 'tcp://[10.0.0.2:80' is no URL"),
        (f"ssh-tunnel://me@10.0.0.2/\ud800{KEY}", BadRemoteError, "/\\ud800' is no URL"),
        (f"ssh-tunnel://me@10.0.0.2/s{KEY}\udcff", BadRemoteError, "/s' is no URL"),
        ("tcp://10.0.0.2", BadRemoteError, "remote 'tcp://10.0.0.2' has no port"),
        ("tcp://10.0.0.2:80-81", BadPortError, "port '80-81' is not a number"),
        (f"ssh-tunnel://10.0.0.2/run/s{KEY}", BadRemoteError, "names no user"),
        (f"ssh-tunnel://@10.0.0.2/run/s{KEY}", BadRemoteError, "names no user"),
        (f"ssh-tunnel://me@10.0.0.2{KEY}", BadRemoteError, "has no path of a socket in the guest"),
        (f"ssh-tunnel://me@10.0.0.2/{KEY}", BadRemoteError, "has no path of a socket in the guest"),
        ("ssh-tunnel://me@10.0.0.2/run/s", BadRemoteError, "names no key"),
        ("ssh-tunnel://me@10.0.0.2/run/s?key=&passphrase=x", BadRemoteError, "names no key"),
        (f"ssh-tunnel://me@10.0.0.2:x/run/s{KEY}", BadPortError, "port 'x' is not a number"),
    ],
)
def test_urls_that_are_refused(remote: str, error: type[ForwarderError], text: str) -> None:
    with pytest.raises(error) as caught:
        forwards.read(Protocol.UNIX, "/tmp/s", remote)
    assert text in str(caught.value)
    assert "passphrase" not in str(caught.value)


SECRETS = [
    "ssh-tunnel://me@10.0.0.2/s?key=/k&passphrase=sesame",
    "ssh-tunnel://me@10.0.0.2/s?key=/k&passphrase=1:sesame",
    "ssh-tunnel://me@10.0.0.2/s?key=/k&passphrase=1:22-sesame",
    "ssh-tunnel://me@10.0.0.2/s?key=/k&passphrase=sesame:22",
    "ssh-tunnel://me@10.0.0.2/s?passphrase=sesame",
    "ssh-tunnel://me@10.0.0.2/s&key=/k&passphrase=sesame",
    "ssh-tunnel://me@10.0.0.2/s#key=/k&passphrase=sesame",
    "ssh-tunnel://me@10.0.0.2?key=/k&passphrase=sesame",
    "ssh-tunnel://me@10.0.0.2:x?key=/k&passphrase=sesame",
    "ssh-tunnel:me@10.0.0.2/s?key=/k&passphrase=sesame",
    "10.0.0.2:22?key=/k&passphrase=sesame",
    "10.0.0.2:22?passphrase=1:sesame",
    "10.0.0.2:1-2?passphrase=sesame",
    "10.0.0.2:2-1?passphrase=sesame",
    "10.0.0.2:1-60000?passphrase=sesame",
    "tcp://10.0.0.2:22?passphrase=sesame",
]


@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("text", SECRETS)
def test_no_error_has_the_passphrase(protocol: Protocol, text: str) -> None:
    """Whatever protocol is given with it, and on whichever side."""
    local = "127.0.0.1:1" if protocol.has_ports else "/tmp/s"
    for sides in ((local, text), (text, local), (text, text)):
        try:
            shown = "".join(str(remote) for _, remote in forwards.read(protocol, *sides))
        except ForwarderError as problem:
            shown = str(problem)
        assert "sesame" not in shown
        assert "/k" not in shown


@pytest.mark.parametrize("local", ["s", "tmp/s", "/", "/tmp/", "unix://tmp/s", "/a\0b", "/\ud800"])
def test_paths_that_are_refused(local: str) -> None:
    with pytest.raises(BadLocalError, match="is no absolute path of a unix socket"):
        forwards.read(Protocol.UNIX, local, "tcp://10.0.0.2:80")


TEXT = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs, too


@given(
    st.sampled_from(Protocol),
    TEXT,
    st.one_of(TEXT, TEXT.map("ssh-tunnel://{}".format), TEXT.map("tcp://{}".format)),
)
def test_whatever_is_written(protocol: Protocol, local: str, remote: str) -> None:
    with contextlib.suppress(ForwarderError):
        for _, found in forwards.read(protocol, local, remote):
            assert str(found)
