"""One socket on the host that stands for a guest's own: what UDP and ping have in common.

Whom the guest has sent to is remembered with the address the guest calls it by; only they get in,
and their ICMP errors are passed on as the guest's kernel would have had them.
"""

import logging
import socket
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop

from gvproxy.flows import errqueue
from gvproxy.flows.unreachable import code_for
from gvproxy.limits import Owner, Quota
from gvproxy.stack.ip import Ip
from gvproxy.stack.port import Station
from gvproxy.wire import icmp

log = logging.getLogger(__name__)

MAX_PEERS = 1024
"""Addresses a mapping lets in; the one added first is forgotten for another, as it is where the
guest has as many as it may at all of its mappings."""
READS_PER_WAKEUP = 64


class Mapping(ABC):
    """An entry of `MappingTable`; owns its socket."""

    __slots__ = (
        "_ip",
        "_loop",
        "_peers",
        "_quota",
        "_sock",
        "_station",
        "idle_timeout",
        "owner",
        "used",
    )

    def __init__(
        self,
        loop: AbstractEventLoop,
        ip: Ip,
        station: Station,
        sock: socket.socket,
        idle_timeout: float,
        quota: Quota,
    ) -> None:
        """`sock` is non-blocking; seconds without use end the mapping; `quota` is of addresses.

        Raises OSError, and the socket is closed then.
        """
        self._quota = quota
        self._loop = loop
        self._ip = ip
        self._station = station
        self._sock = sock
        self._peers: dict[str, bytes] = {}  # host address → the address the guest calls it
        self.used = 0.0  # the table's, as is the next
        self.owner: Owner = None
        self.idle_timeout = idle_timeout
        try:
            errqueue.enable(sock)
            loop.add_reader(sock.fileno(), self._readable)
        except OSError:
            sock.close()
            raise

    def close(self) -> None:
        """Give the socket back; called once, by the table."""
        self._quota.give(self.owner, len(self._peers))
        self._peers.clear()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _admit(self, host: str, destination: bytes) -> None:
        """Let `host` in, which the guest calls `destination`."""
        peers = self._peers
        if peers.get(host) != destination:
            if host not in peers:
                self._make_room()
            peers[host] = destination

    def _make_room(self) -> None:
        peers, quota = self._peers, self._quota
        if peers and (len(peers) >= MAX_PEERS or not quota.has_room(self.owner)):
            del peers[next(iter(peers))]
        else:  # or it is the first, without which the mapping is nothing
            quota.hold(self.owner)

    def _send(self, payload: bytes | memoryview, address: tuple[str, int]) -> int | None:
        """Send to an address that is let in; returns the ICMP code that the guest is to be told."""
        for _ in range(2):
            try:
                self._sock.sendto(payload, address)
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                # An earlier datagram's error is reported here as well: then this one was not sent.
                if self._report_errors():
                    continue
                log.debug("nothing can be sent to %s: %s", address[0], error.strerror)
                return code_for(error.errno or 0)
            return None
        return None

    def _readable(self) -> None:
        self._receive()
        # libuv stops polling a descriptor that had an error, and does not say so.
        self._loop.remove_reader(self._sock.fileno())
        try:
            self._loop.add_reader(self._sock.fileno(), self._readable)
        except OSError:
            self.idle_timeout = 0.0  # it is deaf, and ends with the next sweep

    def _receive(self) -> None:
        try:
            self._read()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._report_errors()

    def _report_errors(self) -> bool:
        """Pass on what ICMP told the host; say whether there was anything.

        "Fragmentation needed" is not passed on: it is the host's kernel that will send smaller
        pieces, and without the MTU, which only the host knows, a guest goes down to 552 bytes.
        """
        errors = errqueue.drain(self._sock)
        for error in errors:
            host, port = error.address
            log.debug("%s:%d is unreachable: ICMP type %d, code %d", host, port, *error[:2])
            destination = self._peers.get(host)
            if (
                destination is not None
                and error.kind == icmp.UNREACHABLE
                and error.code != icmp.FRAGMENTATION_NEEDED
            ):
                quote = self._quote(destination, port)
                self._ip.send_error(self._station, destination, error.code, quote)
        return bool(errors)

    @abstractmethod
    def _read(self) -> None:
        """Read from the socket, in bounds, until it raises BlockingIOError or another OSError."""

    @abstractmethod
    def _quote(self, destination: bytes, port: int) -> bytes:
        """Return the beginning of a packet of the guest's to `destination`."""
