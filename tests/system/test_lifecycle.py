"""The two programs as their users start, lose and end them."""

import socket
import struct
from pathlib import Path

import dpkt
import pytest
from dpkt import dhcp

from tests.lab.network import World, make_guest
from tests.lab.programs import DEVICE, GATEWAY, GVPROXY, HOST, VSOCK_TAP, Agent, Gvproxy
from tests.lab.wait import NotYetError, until

pytestmark = [pytest.mark.root, pytest.mark.system]

MAC = bytes.fromhex("5a94efe40cee")
GATEWAY_MAC = bytes.fromhex("5a94efe40cdd")


def test_a_guest_outlives_the_daemon(world: World) -> None:
    first = Gvproxy(world.folder, world.host)
    with make_guest(world, first) as (guest, agent):
        before = agent.settings()
        with world.host.listen() as listener:
            port = listener.getsockname()[1]
            with guest.connect(HOST, port) as idle:
                held, _ = listener.accept()
                first.process.kill()
                held.close()
                assert agent.settings() == before
                agent.process.wait_for("again")
                assert agent.settings() == before

                second = Gvproxy(world.folder, world.host)  # over the socket file of the first

                def reconnected() -> None:
                    if not second.get("/cam"):
                        raise NotYetError("the guest is not there")

                until(reconnected, "the guest is back")
                assert agent.settings() == before
                with guest.connect(HOST, port) as sock:
                    listener.accept()[0].close()
                    assert sock.recv(1) == b""
                # The new daemon does not know the old connection, and says so.
                idle.sendall(b"still there?")
                with pytest.raises(ConnectionResetError):
                    idle.recv(1)
        assert agent.settings() == before
    second.process.stop()


def test_connections_outlive_the_link(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, agent), world.host.listen() as listener:
        with guest.connect(HOST, listener.getsockname()[1]) as sock:
            server, _ = listener.accept()
            with server:
                server.settimeout(30)
                agent.process.kill()
                again = Agent(guest, gvproxy.url)
                again.wait()
                sock.sendall(b"as if nothing had happened")
                assert server.recv(64) == b"as if nothing had happened"
        again.process.stop()
    gvproxy.process.stop()


def test_the_agent_leaves_nothing(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, agent):
        agent.process.stop()
        assert "tap0" not in guest.run("ip", "link", "show")
        assert "default" not in guest.run("ip", "route", "show")
        assert guest.run("cat", "/etc/resolv.conf") == ""
    gvproxy.process.stop()


def test_the_daemon_ends_with_guests_attached(world: World) -> None:
    pid_file = world.folder / "pid"
    gvproxy = Gvproxy(world.folder, world.host, "-pid-file", str(pid_file))
    assert pid_file.read_text().strip().isdigit()
    with make_guest(world, gvproxy) as (guest, _), world.host.listen() as listener:
        sock = guest.connect(HOST, listener.getsockname()[1])
        server, _ = listener.accept()
        caller = guest.connect(GATEWAY, 80)
        with sock, server, caller:
            head = (
                b"POST /services/forwarder/expose HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            )
            caller.sendall(head + b"{")
            assert guest.run("curl", "--silent", f"http://{GATEWAY}/services/forwarder/all")
            gvproxy.process.stop(timeout=3.0)
            for end in (sock, caller):
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
    assert "Traceback" not in gvproxy.process.log.read_text()
    assert not gvproxy.path.exists()
    assert not pid_file.exists()


@pytest.mark.parametrize(
    ("program", "flags", "text"),
    [
        (GVPROXY, ["-listen", "nonsense"], "nonsense"),
        (GVPROXY, ["-listen", "unix:///nowhere/at/all.sock"], "/nowhere/at/all.sock"),
        (GVPROXY, ["-mtu", "12"], "mtu"),
        (GVPROXY, ["-no-such-flag"], "no-such-flag"),
        (GVPROXY, ["-listen", "tcp://127.0.0.1:0", "-pid-file", "/nowhere/pid"], "/nowhere/pid"),
        (GVPROXY, ["-listen-qemu", "unix:///tmp/q"], "not supported yet"),
        (VSOCK_TAP, ["-url", "nonsense"], "nonsense"),
        (VSOCK_TAP, ["-url", "unix:///x", "-mac", "5a"], "5a"),
        (VSOCK_TAP, ["-no-such-flag"], "no-such-flag"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_1(
    world: World, program: Path, flags: list[str], text: str
) -> None:
    done = world.host.try_run(program, *flags)
    assert done.returncode == 1
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_a_busy_published_port_is_one_line_and_status_1(world: World) -> None:
    with world.host.listen("127.0.0.1", 2222):
        done = world.host.try_run(GVPROXY, "-listen", f"unix://{world.folder}/busy.sock")
    assert done.returncode == 1
    assert "2222" in done.stderr
    assert len([line for line in done.stderr.splitlines() if "INFO" not in line]) == 1
    assert not (world.folder / "busy.sock").exists()


class OldClient:
    """A gvforwarder of sorts: hyperkit frames on a unix socket, built and read with dpkt."""

    def __init__(self, path: Path, first: bytes) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(10)
        self._sock.connect(str(path))
        self._received = b""
        head = b"POST /connect HTTP/1.1\r\nHost: gvproxy\r\n\r\n"
        self._sock.sendall(head + struct.pack("<H", len(first)) + first)

    def send(self, frame: bytes) -> None:
        self._sock.sendall(struct.pack("<H", len(frame)) + frame)

    def receive(self) -> dpkt.ethernet.Ethernet:
        """Return the next frame that is not ARP."""
        while True:
            while len(self._received) < 2 or len(self._received) < 2 + self._length:
                self._received += self._sock.recv(65536)
            end = 2 + self._length
            frame, self._received = self._received[2:end], self._received[end:]
            ethernet = dpkt.ethernet.Ethernet(frame)
            if ethernet.type == dpkt.ethernet.ETH_TYPE_IP:
                return ethernet

    @property
    def _length(self) -> int:
        length: int = struct.unpack_from("<H", self._received)[0]
        return length

    def close(self) -> None:
        self._sock.close()


def dhcp_frame(kind: int, *options: tuple[int, bytes]) -> bytes:
    """Return a broadcast of a client that has no address yet."""
    message = dhcp.DHCP(chaddr=MAC, xid=7, opts=((dhcp.DHCP_OPT_MSGTYPE, bytes((kind,))), *options))
    datagram = dpkt.udp.UDP(sport=68, dport=67, data=bytes(message))
    datagram.ulen = len(datagram)
    packet = dpkt.ip.IP(src=bytes(4), dst=b"\xff" * 4, p=dpkt.ip.IP_PROTO_UDP, data=datagram)
    packet.len = len(packet)
    return bytes(dpkt.ethernet.Ethernet(src=MAC, dst=b"\xff" * 6, data=bytes(packet)))


def segment_frame(flags: int, seq: int, ack: int, port: int, data: bytes = b"") -> bytes:
    """Return a segment from the client to the host's loopback."""
    segment = dpkt.tcp.TCP(
        sport=40000, dport=port, seq=seq, ack=ack, flags=flags, win=65535, data=data
    )
    packet = dpkt.ip.IP(
        src=socket.inet_aton(DEVICE),
        dst=socket.inet_aton(HOST),
        p=dpkt.ip.IP_PROTO_TCP,
        data=segment,
    )
    packet.len = len(packet)
    return bytes(dpkt.ethernet.Ethernet(src=MAC, dst=GATEWAY_MAC, data=bytes(packet)))


def test_an_old_client_gets_a_lease_and_exchanges_data(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    client = OldClient(gvproxy.path, dhcp_frame(dhcp.DHCPDISCOVER))
    try:
        offer = dhcp.DHCP(client.receive().data.data.data)
        assert socket.inet_ntoa(struct.pack("!I", offer.yiaddr)) == DEVICE
        wanted = (dhcp.DHCP_OPT_REQ_IP, socket.inet_aton(DEVICE))
        server = (dhcp.DHCP_OPT_SERVER_ID, socket.inet_aton(GATEWAY))
        client.send(dhcp_frame(dhcp.DHCPREQUEST, wanted, server))
        ack = dhcp.DHCP(client.receive().data.data.data)
        assert dict(ack.opts)[dhcp.DHCP_OPT_MSGTYPE] == bytes((dhcp.DHCPACK,))

        syn, ack_flag, push = dpkt.tcp.TH_SYN, dpkt.tcp.TH_ACK, dpkt.tcp.TH_PUSH
        with world.host.listen() as listener:
            port = listener.getsockname()[1]
            client.send(segment_frame(syn, 1000, 0, port))
            answer = client.receive().data.data
            assert answer.flags == syn | ack_flag
            assert answer.ack == 1001
            with listener.accept()[0] as peer:
                peer.settimeout(10)
                data = segment_frame(ack_flag | push, 1001, answer.seq + 1, port, b"hello")
                client.send(data)
                assert peer.recv(16) == b"hello"
                peer.sendall(b"goodbye")
                while not (answer := client.receive().data.data).data:
                    pass
                assert answer.data == b"goodbye"
                assert answer.ack == 1006
    finally:
        client.close()
    gvproxy.process.stop()


def test_malformed_frames_are_counted_and_harm_nobody(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with make_guest(world, gvproxy) as (guest, _):
        client = OldClient(gvproxy.path, b"")
        whole = segment_frame(dpkt.tcp.TH_SYN, 1, 0, 9).replace(MAC, b"\x02\0\0\0\0\x01")
        for length in range(len(whole)):
            client.send(whole[:length])

        def counted() -> None:
            if gvproxy.get("/stats")["MalformedRcvdPackets"] < 34:
                raise NotYetError("not all of them are counted")

        until(counted, "the frames are counted")
        assert "1 received" in guest.run("ping", "-c", "1", GATEWAY)
        client.close()
    gvproxy.process.stop()


def test_a_stream_out_of_step_is_closed(world: World) -> None:
    gvproxy = Gvproxy(world.folder, world.host)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(gvproxy.path))
        sock.sendall(b"GARBAGE\0\0\0\r\n\r\n")
        assert sock.recv(64).startswith(b"HTTP/1.1 400 ")
        assert sock.recv(64) == b""
    gvproxy.process.stop()
