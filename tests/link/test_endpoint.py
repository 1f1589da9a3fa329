"""Endpoint URLs: what is read, what is refused, and the sockets behind them."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from taplink import endpoint as module
from taplink.endpoint import (
    MAX_UNIX_PATH,
    Endpoint,
    EndpointError,
    Scheme,
    connect,
    listen,
    parse,
    parse_listener,
    parse_peer,
)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("vsock://2:1024/connect", Endpoint(Scheme.VSOCK, cid=2, port=1024)),
        ("vsock://2:1024", Endpoint(Scheme.VSOCK, cid=2, port=1024)),
        ("vsock://2:1024/", Endpoint(Scheme.VSOCK, cid=2, port=1024)),
        ("vsock://3:99/other", Endpoint(Scheme.VSOCK, cid=3, port=99, request_path="/other")),
        ("vsock://:1024", Endpoint(Scheme.VSOCK, cid=None, port=1024)),
        ("vsock://4294967295:1", Endpoint(Scheme.VSOCK, cid=None, port=1)),
        ("vsock://2:4294967295", Endpoint(Scheme.VSOCK, cid=2, port=4294967295)),
        ("VSOCK://2:1024", Endpoint(Scheme.VSOCK, cid=2, port=1024)),
        ("unix:///run/g.sock", Endpoint(Scheme.UNIX, path="/run/g.sock")),
        ("unix:///run/a%20b", Endpoint(Scheme.UNIX, path="/run/a b")),
        ("unix:///run/ä", Endpoint(Scheme.UNIX, path="/run/ä")),
        ("unix:///" + "a" * 106, Endpoint(Scheme.UNIX, path="/" + "a" * 106)),
        ("tcp://127.0.0.1:80", Endpoint(Scheme.TCP, host="127.0.0.1", port=80)),
        ("tcp://[::1]:80", Endpoint(Scheme.TCP, host="::1", port=80)),
        ("tcp://host:80/x", Endpoint(Scheme.TCP, host="host", port=80, request_path="/x")),
        ("tcp://:80", Endpoint(Scheme.TCP, host="", port=80)),
        ("tcp://host.:80", Endpoint(Scheme.TCP, host="host.", port=80)),
        (f"tcp://{'a' * 63}.b:80", Endpoint(Scheme.TCP, host=f"{'a' * 63}.b", port=80)),
        ("unixpacket:///run/b", Endpoint(Scheme.UNIXPACKET, path="/run/b")),
        ("unixgram:///run/v", Endpoint(Scheme.UNIXGRAM, path="/run/v")),
        (
            "stdio:///bin/gvproxy?debug=1&a%20b=&a=c%26d",
            Endpoint(Scheme.STDIO, path="/bin/gvproxy", arguments=("-debug=1", "-a b=", "-a=c&d")),
        ),
    ],
)
def test_parse(url: str, endpoint: Endpoint) -> None:
    assert parse(url) == endpoint
    assert str(parse(url)) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "vsock",
        "vsock:",
        "vsock:2:1024",
        "://2:1024",
        "http://2:1024",
        "vsock://",
        "vsock://2",
        "vsock://2:",
        "vsock://2:x",
        "vsock://2:-1",
        "vsock://2:+1",
        "vsock://2:1_0",
        "vsock://2:٣",
        "vsock://2:4294967296",
        "vsock://4294967296:1",
        "vsock://host:1024",
        "vsock://null:1024",
        "vsock://null:1024/",
        "vsock://null:x/dir",
        "vsock://null:1024/" + "a" * (MAX_UNIX_PATH - 18),
        "vsock://2:1024/ä",
        "vsock://2:1024/connect?x=1",
        "vsock://2:1024/connect#x",
        "vsock://user@2:1024",
        "unix://",
        "unix:///",
        "unix:/run/g.sock",
        "unix://run/g.sock",
        "unix:///run/%00",
        "unix:///" + "a" * MAX_UNIX_PATH,
        "unix:///" + "ä" * 54,
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://127.0.0.1:65536",
        "tcp://::1:80",
        "tcp://[::1",
        "tcp://hôst:80",
        "tcp://a..b:80",
        "tcp://.:80",
        "tcp://.b:80",
        f"tcp://{'a' * 64}:80",
        f"tcp://{'a' * 64}.b:80",
        "tcp://host:80/a b",
        "tcp://host:80/a\r\nHost: evil",
        "tcp://host:80\n",
        "unix:///run/\x7f",
    ],
)
def test_parse_refuses(url: str) -> None:
    with pytest.raises(EndpointError) as refusal:
        parse(url)
    message = str(refusal.value)
    assert "\n" not in message
    assert "\r" not in message
    assert url in message or repr(url) in message


def _unix(path: Path) -> Endpoint:
    return parse(f"unix://{path}")


def test_unix_both_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        with listen(_unix(tmp_path / "s")) as listener:
            assert not listener.getblocking()
            with await connect(_unix(tmp_path / "s"), 5) as near:
                far, _ = listener.accept()
                with far:
                    assert not near.getblocking()
                    near.send(b"frame")
                    assert far.recv(10) == b"frame"

    asyncio.run(scenario())


def test_a_unix_listener_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    bind = socket.socket.bind

    def bind_and_look(sock: socket.socket, address: str) -> None:
        bind(sock, address)
        modes.append(stat.S_IMODE(os.stat(address).st_mode))

    monkeypatch.setattr(socket.socket, "bind", bind_and_look)
    mask = os.umask(0)
    try:
        listen(_unix(tmp_path / "s")).close()
        assert os.umask(0) == 0
    finally:
        os.umask(mask)
    assert modes == [0o600]


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    listen(_unix(tmp_path / "s")).close()
    assert (tmp_path / "s").is_socket()
    listen(_unix(tmp_path / "s")).close()


def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    with (
        listen(_unix(tmp_path / "s")),
        pytest.raises(EndpointError, match="somebody listens"),
    ):
        listen(_unix(tmp_path / "s"))
    with listen(_unix(tmp_path / "t"), backlog=0), socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(str(tmp_path / "t"))  # fills the backlog: the probe gets EAGAIN
        with pytest.raises(EndpointError, match="somebody listens"):
            listen(_unix(tmp_path / "t"))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = path.lstat()
    with pytest.raises(EndpointError, match="not a socket"):
        listen(_unix(path))
    assert path.lstat() == before


def test_a_datagram_socket_is_left_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(tmp_path / "s"))
        with pytest.raises(EndpointError):
            listen(_unix(tmp_path / "s"))


def test_listen_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "s"
    with pytest.raises(EndpointError, match=f"unix://{path}: No such file or directory"):
        listen(_unix(path))


def test_connect_is_refused(tmp_path: Path) -> None:
    listen(_unix(tmp_path / "s")).close()
    with pytest.raises(ConnectionRefusedError):
        asyncio.run(connect(_unix(tmp_path / "s"), 5))
    with pytest.raises(FileNotFoundError):
        asyncio.run(connect(_unix(tmp_path / "t"), 5))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tcp_both_ends(host: str) -> None:
    async def scenario() -> None:
        with listen(parse(f"tcp://{host}:0")) as listener:
            port = listener.getsockname()[1]
            default = socket.socket(listener.family, socket.SOCK_STREAM)
            with default, await connect(parse(f"tcp://{host}:{port}"), 5) as near:
                assert not near.getblocking()
                assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            with (
                pytest.raises(EndpointError, match="Address already in use"),
                listen(parse(f"tcp://{host}:{port}")),
            ):
                pass

    asyncio.run(scenario())


def test_tcp_on_every_address() -> None:
    with listen(parse("tcp://:0")) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 5):
            pass


def test_tcp_connect_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            asyncio.run(connect(parse(url), 5))


def test_connect_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async def never(*_: object, **__: object) -> list[object]:
            await asyncio.Event().wait()
            return []

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
        with pytest.raises(TimeoutError):
            await connect(parse("tcp://slow.test:1"), 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("url", ["unixpacket:///a", "unixgram:///a"])
def test_what_is_no_byte_stream(url: str) -> None:
    said = f"{url}: .*:// is no byte stream; .*{{}}, unix:///.* or tcp://"
    with pytest.raises(EndpointError, match=said.format("vsock://2:1024")):
        parse_peer(url)
    with pytest.raises(EndpointError, match=said.format("vsock://:1024")):
        parse_listener(url)
    with pytest.raises(EndpointError, match=said.format("vsock://2:1024")):
        asyncio.run(connect(parse(url), 5))


def test_nobody_connects_to_a_program() -> None:
    with pytest.raises(EndpointError, match="stdio:///a: nobody connects to a program"):
        listen(parse("stdio:///a"))


def test_other_kinds_of_listeners() -> None:
    kinds = Scheme.UNIXPACKET, Scheme.UNIX
    assert parse_listener("unixpacket:///a", *kinds).scheme is Scheme.UNIXPACKET
    with pytest.raises(EndpointError, match=r"^tcp://a:1: must be a unixpacket:// or unix:// URL$"):
        parse_listener("tcp://a:1", *kinds)


def test_packets_keep_their_bounds(tmp_path: Path) -> None:
    with (
        listen(parse(f"unixpacket://{tmp_path}/s")) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as near,
    ):
        near.connect(f"{tmp_path}/s")
        with listener.accept()[0] as far:
            near.send(b"one")
            near.send(b"two")
            assert (far.recv(10), far.recv(10)) == (b"one", b"two")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o600


def test_datagrams_have_the_buffers_of_vfkit(tmp_path: Path) -> None:
    with (
        listen(parse(f"unixgram://{tmp_path}/s")) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as near,
    ):
        near.bind(f"{tmp_path}/n")
        near.connect(f"{tmp_path}/s")
        near.send(b"frame")
        assert listener.recvfrom(10) == (b"frame", f"{tmp_path}/n")
        for option, size in zip(
            (socket.SO_SNDBUF, socket.SO_RCVBUF), module.DATAGRAM_BUFFERS, strict=True
        ):
            limit = "wmem" if option == socket.SO_SNDBUF else "rmem"
            allowed = int(Path(f"/proc/sys/net/core/{limit}_max").read_text())
            assert listener.getsockopt(socket.SOL_SOCKET, option) >= 2 * min(size, allowed)


@pytest.mark.parametrize("scheme", ["unix", "unixpacket", "unixgram"])
def test_a_stale_socket_of_each_kind_is_replaced(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}://{tmp_path}/s"
    listen(parse(url)).close()
    with listen(parse(url)), pytest.raises(EndpointError, match="somebody listens there"):
        listen(parse(url))


@pytest.mark.parametrize("other", ["unix", "unixpacket", "unixgram"])
@pytest.mark.parametrize("scheme", ["unix", "unixpacket", "unixgram"])
def test_a_living_socket_of_another_kind_is_left_alone(
    tmp_path: Path, scheme: str, other: str
) -> None:
    with (
        listen(parse(f"{other}://{tmp_path}/s")),
        pytest.raises(EndpointError, match="somebody listens there"),
    ):
        listen(parse(f"{scheme}://{tmp_path}/s"))


@pytest.mark.parametrize("slash", ["", "/"])
def test_hyperkit_has_a_unix_socket_in_a_folder(tmp_path: Path, slash: str) -> None:
    url = f"vsock://null:1024{tmp_path}{slash}"
    endpoint = parse_listener(url)
    assert (endpoint.scheme, endpoint.path) == (Scheme.UNIX, f"{tmp_path}/00000002.00000400")
    assert str(endpoint) == url
    with listen(endpoint), socket.socket(socket.AF_UNIX) as guest:
        guest.connect(f"{tmp_path}/00000002.00000400")


@pytest.mark.parametrize("url", ["foo", "vsock://foo"])
def test_the_example_is_of_what_is_asked_for(url: str) -> None:
    with pytest.raises(EndpointError, match=r"such as vsock://2:1024$"):
        parse_peer(url)
    with pytest.raises(EndpointError, match=r"such as vsock://:1024$"):
        parse_listener(url)


def test_an_unknown_scheme_is_told_what_works() -> None:
    said = r"^ftp://a: unknown scheme 'ftp' \(known are %s\)$"
    with pytest.raises(EndpointError, match=said % "vsock://, unix://, tcp://, stdio://"):
        parse_peer("ftp://a")
    with pytest.raises(EndpointError, match=said % "vsock://, unix://, tcp://"):
        parse_listener("ftp://a")
    with pytest.raises(EndpointError, match=said % "unixgram://"):
        parse_listener("ftp://a", Scheme.UNIXGRAM)


@pytest.mark.parametrize(
    ("url", "example"),
    [
        ("unix:/tmp/x.sock", "unix:///tmp/x.sock"),
        ("unixgram:/tmp/x.sock", "unixgram:///tmp/x.sock"),
        ("/tmp/x.sock", "unix:///tmp/x.sock"),
        ("unix:x.sock", "vsock://:1024"),
        ("tcp:/a", "vsock://:1024"),
    ],
)
def test_slashes_that_were_forgotten(url: str, example: str) -> None:
    with pytest.raises(EndpointError, match=f"^'{url}' is no URL, such as {example}$"):
        parse_listener(url)


@pytest.mark.parametrize(
    ("url", "example"),
    [
        ("tcp://:80", "such as tcp://127.0.0.1:1024"),
        ("vsock://:1024", "vsock://2:1024"),
        ("tcp://host:0", "1024 is a port"),
        ("vsock://2:4294967295", "1024 is a port"),
    ],
)
def test_a_connection_needs_a_peer(url: str, example: str) -> None:
    with pytest.raises(EndpointError, match=f"{url}: .*{example}"):
        parse_peer(url)
    with pytest.raises(EndpointError, match=f"{url}: .*{example}"):
        asyncio.run(connect(parse(url), 5))
    assert parse_listener(url) == parse(url)


@pytest.mark.parametrize("url", ["tcp://host:80", "vsock://2:1024", "unix:///a"])
def test_a_peer(url: str) -> None:
    assert parse_peer(url) == parse_listener(url) == parse(url)


def test_a_vsock_socket_has_large_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers: `socket` makes 64 bits of them for this family, and takes no bytes."""
    options = []

    class Socket:
        def __init__(self, family: int, kind: int) -> None:
            assert (family, kind) == (socket.AF_VSOCK, socket.SOCK_STREAM)

        def setsockopt(self, level: int, option: int, value: object) -> None:
            assert level == socket.AF_VSOCK
            options.append((option, value))

    monkeypatch.setattr(socket, "socket", Socket)
    module._vsock_socket(parse("vsock://2:1024"))
    assert options == [
        (socket.SO_VM_SOCKETS_BUFFER_MAX_SIZE, module.VSOCK_BUFFER),
        (socket.SO_VM_SOCKETS_BUFFER_SIZE, module.VSOCK_BUFFER),
    ]
