"""A guest's end of one TCP connection in raw segments, and a user of the gateway's end."""

import dpkt

from gvproxy.stack.path import TcpPath
from gvproxy.tcp import calls
from gvproxy.tcp.connection import Connection
from gvproxy.tcp.states import End
from taplink import vnet

from .bench import OUTSIDE, Bench, Port, tcp

ACK, SYN, FIN, RST, PSH = 16, 2, 1, 4, 8
IRS = 1000
TS = 0x0101080A


class User:
    """Accepts what it is offered and keeps what it is given."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.told: list[str] = []
        self.data = b""
        self.accept = True

    def __call__(self, connection: Connection, path: TcpPath, now: float) -> None:
        self.connection = connection
        self.told.append("offered")
        connection.user = self
        if self.accept:
            calls.accept(connection, now)

    def established(self, now: float) -> None:
        self.told.append("established")

    def received(self, views: list[memoryview | bytes], now: float) -> int:
        self.data += b"".join(views)
        return sum(map(len, views))

    def received_eof(self, now: float) -> None:
        self.told.append("eof")

    def writable(self, now: float) -> None:
        self.told.append("writable")

    def ended(self, end: End, now: float) -> None:
        self.told.append(end.name)


def options(tsval: int, tsecr: int) -> bytes:
    return TS.to_bytes(4, "big") + tsval.to_bytes(4, "big") + tsecr.to_bytes(4, "big")


class Peer:
    """Makes segments with the right numbers, and keeps track of what the gateway sent."""

    def __init__(
        self, bench: Bench, *, sport: int = 5000, dport: int = 80, **where: object
    ) -> None:
        self.bench = bench
        self.where = {"destination": OUTSIDE, "sport": sport, "dport": dport, **where}
        self.port: Port | None = None
        self.meta = vnet.PLAIN
        self.seq, self.ack = IRS, 0
        self.clock, self.echo = 100, 0
        self.user = User()

    def make(
        self, flags: int, body: bytes = b"", *, stamps: bool = True, **fields: object
    ) -> bytes:
        opts = options(self.clock, self.echo) if stamps else b""
        self.clock += 1
        numbers = {"seq": self.seq, "ack": self.ack, "options": opts} | fields
        return tcp(body, flags=flags, **numbers, **self.where)  # type: ignore[arg-type]

    def give(self, *frames: bytes) -> list[dpkt.tcp.TCP]:
        sent = self.bench.give(*frames, port=self.port, meta=self.meta)
        return [self.note(frame.data.data) for frame in sent]

    def note(self, segment: dpkt.tcp.TCP) -> dpkt.tcp.TCP:
        if segment.opts[:4] == TS.to_bytes(4, "big"):
            self.echo = int.from_bytes(segment.opts[4:8], "big")
        return segment

    def syn(self) -> bytes:
        stamps = options(self.clock, 0)
        self.clock += 1
        return tcp(  # type: ignore[arg-type]
            flags=SYN, seq=IRS, options=b"\2\4\5\xb4\4\2" + stamps[2:] + b"\1\3\3\7", **self.where
        )

    def connect(self, **fields: object) -> "Peer":
        """Open the connection; `forward` is the user, unless another handler is there."""
        self.bench.stack.connections.forward = self.user
        (answer,) = self.give(self.syn())
        assert answer.flags == SYN | ACK
        assert answer.ack == IRS + 1
        self.echo = int.from_bytes(answer.opts[answer.opts.index(b"\x08\x0a") + 2 :][:4], "big")
        self.seq, self.ack = IRS + 1, (answer.seq + 1) & 0xFFFFFFFF
        assert self.give(self.make(ACK, **fields)) == []
        assert self.user.told == ["offered", "established"]
        return self

    @property
    def connection(self) -> Connection:
        assert self.user.connection is not None
        return self.user.connection

    def data(self, body: bytes, **fields: object) -> bytes:
        frame = self.make(ACK | PSH, body, **fields)
        self.seq += len(body)
        return frame
