"""The gateway's stack: what happens to a batch of frames.

`_batch` is the hot path: one struct unpacks Ethernet, IPv4 and TCP of the expected segment, the
raw bytes of addresses and ports find its connection, and `prediction` takes it, or `tcp.input`
where its contents are a surprise.  Whatever looks different goes through `_frame`, layer by layer.
At the batch's end each connection that was touched hands its data over and acknowledges once, but
for one whose guest has lost something: that hears sooner.

Who is behind an address is registered with the layers: `connections.listeners`, `udp.handlers` for
the addresses that are the gateway's own, and their `forward`, with `ip.forward_echo`, for all
others.
"""

from collections.abc import Callable
from struct import Struct

from gvproxy.limits import Quotas
from gvproxy.stack.connections import Connections
from gvproxy.stack.ip import FRAGMENTED, Ip
from gvproxy.stack.neighbours import Neighbours
from gvproxy.stack.path import TcpPath
from gvproxy.stack.port import Port, StackConfig, StackCounters
from gvproxy.stack.sourceguard import SourceGuard, is_another
from gvproxy.stack.switch import Switch
from gvproxy.stack.udp import Udp
from gvproxy.tcp.input import Segment, segment_arrives
from gvproxy.tcp.output import hurry
from gvproxy.tcp.prediction import predict
from gvproxy.wire import ethernet, ipv4, tcp
from taplink import vnet

# Ethernet; IPv4's version, total length, fragment and protocol; both addresses and both ports;
# TCP's numbers, offset and flags, window; the option word, TSval and TSecr of RFC 7323 appendix A
_EXPECTED = Struct("!14sBxH2xHxB2x12sIIHH4xIII")
_TIMESTAMPED = (tcp.SIZE + tcp.TIMESTAMPS.size) >> 2 << 12
_SHAPE = 0xF000 | tcp.SYN
HURRY_SEGMENTS = 4
"""Text whose acknowledgment does not wait for the batch's end where it is urgent."""
MAX_COSTLY = 64
"""Frames of a batch that may carry nothing (`Port.carried`), for among those are the ones that cost
most: a connection to the outside takes some 0.4 ms."""
_TRUSTED = vnet.TRUSTED  # an attribute less on the hot path


class Stack:
    """One virtual network: a switch, and the gateway attached to it."""

    def __init__(
        self,
        config: StackConfig,
        *,
        secret: bytes,
        wake: Callable[[float], None],
        quotas: Quotas | None = None,
    ) -> None:
        """`secret` keys the initial sequence numbers; `wake(at)` asks for `run_timers` at `at`."""
        quotas = quotas or Quotas()
        self.config = config
        self.counters = StackCounters()
        self.switch = Switch(config.mtu, self.counters, quotas.macs)
        self.guard: SourceGuard | None = None
        if config.source_checks:
            self.guard = SourceGuard(config, self.switch, self.counters)
            self.switch.may_move = self.guard.may_move
            self.switch.is_another = is_another
        self.neighbours = Neighbours(config, self.switch, self.counters, quotas.neighbours)
        self.ip = Ip(config, self.counters, self.neighbours, quotas.fragmented_packets)
        self.udp = Udp(config, self.counters, self.ip, quotas.udp_sessions)
        self.connections = Connections(
            config, self.counters, self.ip, self.neighbours, quotas, secret, wake
        )
        self.connections.is_another = self.switch.is_another

    def attach(self, port: Port) -> None:
        """Let a port take part; it has a number afterwards."""
        self.switch.attach(port)

    def detach(self, port: Port, now: float) -> None:
        """Let a port go.  Its stations and connections stay: their guest may come back."""
        port.left = now
        self.switch.detach(port)
        if self.guard is not None:
            self.guard.detach(port)
        self.udp.sessions.leave(port)
        self.ip.leave(port)
        self.port_ready(port, now)

    def user(self, address: bytes) -> bytes | None:
        """Return the MAC address of the guest that has `address` and is there."""
        return (self.guard or self.neighbours).user(address)

    def port_ready(self, port: Port, now: float) -> None:
        """Let connections send that waited for the port's queue to empty."""
        self.connections.port_ready(port)
        self.connections.flush(now)

    def run_timers(self, now: float) -> None:
        """Do what is due; `connections.deadline` says when to come back."""
        self.connections.run_timers(now)
        self.connections.flush(now)

    def receive(self, port: Port, frames: list[memoryview], now: float) -> int:
        """Take a batch of frames from a port; the views are not kept.

        Returns how many were taken: fewer where too many of them are costly, but `MAX_COSTLY` at
        least.
        """
        try:
            taken = self._batch(port, frames, now)
            if self.connections.hurry(now):
                port.flush()
        finally:
            self.udp.sessions.flush(now)
            self.connections.flush(now)
        return taken

    def _batch(self, port: Port, frames: list[memoryview], now: float) -> int:
        offset = port.offset
        least = offset + _EXPECTED.size
        find, unpack = self.connections.find, _EXPECTED.unpack_from
        take = self.udp.sessions.take
        expected = others = costly = carried = 0
        before = port.carried
        for frame in frames:
            if len(frame) >= least:
                (
                    eth,
                    version,
                    total,
                    fragment,
                    protocol,
                    key,
                    seq,
                    ack,
                    bits,
                    window,
                    word,
                    tsval,
                    tsecr,
                ) = unpack(frame, offset)
                connection = find.get(key)
                if connection is not None and connection.timestamps:
                    path: TcpPath = connection.path  # type: ignore[assignment]
                    station = path.station
                    end = offset + ethernet.SIZE + total
                    # The IP header's checksum is not looked at: the transport's covers what counts.
                    if (
                        eth == path.eth_in
                        and station.port is port  # type: ignore[union-attr]
                        and protocol == ipv4.PROTOCOL_TCP
                        and version == ipv4.VERSION
                        and not fragment & FRAGMENTED
                        and bits & _SHAPE == _TIMESTAMPED
                        and word == tcp.TIMESTAMPS_WORD
                        and least <= end <= len(frame)
                        and (
                            (offset and frame[0] & _TRUSTED)
                            or path.verify(frame, end - total + ipv4.SIZE, end)
                        )
                    ):
                        expected += 1
                        carried += end - least
                        station.seen = now  # type: ignore[union-attr]
                        flags, payload = bits & tcp.FLAGS, frame[least:end]
                        if not predict(connection, seq, ack, flags, window, tsval, payload, now):
                            options = tcp.Options(timestamps=(tsval, tsecr))
                            segment = Segment(seq, ack, flags, window, options, payload)
                            segment_arrives(connection, segment, now)
                        if connection.rcv_nxt < connection.hurry_until and hurry(
                            connection, now, HURRY_SEGMENTS
                        ):
                            port.flush()
                        continue
                elif protocol == ipv4.PROTOCOL_UDP and (
                    version == ipv4.VERSION
                    and not fragment & FRAGMENTED
                    and take(port, frame, eth, key, offset + ethernet.SIZE + total, now)
                ):
                    expected += 1
                    carried += total
                    continue
            self._frame(port, frame, offset, now)
            others += 1
            if port.carried == before:
                costly += 1
                if costly == MAX_COSTLY:
                    break
            before = port.carried
        self.counters.ip_in += expected
        port.carried += carried
        return expected + others

    def _frame(self, port: Port, frame: memoryview, offset: int, now: float) -> None:
        if len(frame) < offset + ethernet.SIZE:
            self.counters.malformed += 1
            return
        destination, source, kind = ethernet.HEADER.unpack_from(frame, offset)
        guard = self.guard
        if ethernet.is_multicast(source) or source == self.config.mac:
            if guard is not None and source == self.config.mac:
                text = "%s is the gateway's MAC address: frames of guest %d with it are refused"
                guard.refuse_mac(now, text, ethernet.format_mac(source), port.number)
            else:
                self.counters.malformed += 1
            return
        station = self.switch.learn(source, port, now)
        if station is None:
            return
        to_us = destination == self.config.mac
        if guard is not None and not guard.permits(
            station, frame, offset + ethernet.SIZE, kind, to_us, now
        ):
            return
        if not to_us:
            self.switch.forward(port, frame, now)
        if to_us or ethernet.is_multicast(destination):
            packet = frame[offset + ethernet.SIZE :]
            if kind == ethernet.TYPE_IPV4:
                self.ip.receive(station, packet, bytes(frame[:offset]), to_us, now)
            elif kind == ethernet.TYPE_ARP:
                self.neighbours.receive(station, packet, now)
            elif kind != ethernet.TYPE_IPV6:  # which every guest tries, and none has yet
                self.counters.unknown_protocol += 1
