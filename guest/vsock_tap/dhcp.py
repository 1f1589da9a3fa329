"""The DHCP client, sans-IO (RFC 2131 §4.4, figure 5).

In go `link_up`, `link_down`, `receive` with each frame that may be an answer, and `timer_fired`;
out come `frames_to_send`, `next_timer` and `next_event`.  Only the caller knows sockets, clocks
and interfaces; `now` is in seconds of a clock that goes on while the machine is suspended.

While the link is down nothing runs, and a lease that runs out meanwhile is kept: the machine's
address must outlive its host side's restart.  With the link back the lease is asked for again as
after a reboot (§3.2), and only a NAK or another lease changes anything.  The same goes for a lease
that has run out while the machine was suspended: nobody could have renewed it.

Not here: probing the address by ARP (§2.2), as nobody else can bring an address into the virtual
network; INFORM.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from vsock_tap.dhcp_message import ANY, MessageType, Option, Reply, parse_reply, request
from vsock_tap.lease import Lease, LeaseError, read_lease

FIRST_DELAY = 1.0
"""Seconds until a message is repeated, doubling each time."""
# Deviation: RFC 2131 §4.1 begins with 4 seconds and ends with 64.  The server is one hop away on
# a link that loses nothing: what goes unanswered met a server that was not up yet.
LAST_DELAY = 16.0
_MAX_DOUBLINGS = 16
"""More than it takes to `LAST_DELAY`, and fewer than a number holds: nobody may answer for days."""
MAX_ATTEMPTS = 4
"""REQUESTs without an answer before the client begins anew with a DISCOVER (§3.1 item 5)."""
MIN_RENEWAL_DELAY = 60.0
"""Seconds between two REQUESTs of a renewal, at least (§4.4.5)."""
REFUSED_DELAY = 10.0
"""Seconds until another lease is asked for in place of one that cannot be used (§3.1 item 5)."""


class State(Enum):
    """Figure 5's states; SELECTING is also where the client waits before a DISCOVER."""

    INIT = "INIT"
    SELECTING = "SELECTING"
    REQUESTING = "REQUESTING"
    REBOOTING = "REBOOTING"
    BOUND = "BOUND"
    RENEWING = "RENEWING"
    REBINDING = "REBINDING"


_WAITING = frozenset(State) - {State.INIT, State.BOUND}
_TAKES_ACK = frozenset({State.REQUESTING, State.REBOOTING, State.RENEWING, State.REBINDING})


@dataclass(frozen=True, slots=True)
class Bound:
    """The lease is granted, anew or again; it may differ from the one held before."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Lost:
    """The address must not be used any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A server's answer grants nothing that can be used; the client goes on as without it."""

    reason: str


Event = Bound | Lost | Ignored


class Client:
    """One interface's client.

    `mac` is packed; `rng` draws transaction ids and jitter.  `name` is what the machine is called,
    for the host to find it by; it may be empty.
    """

    def __init__(self, mac: bytes, rng: random.Random, name: str = "") -> None:
        self.state = State.INIT
        self.lease: Lease | None = None
        self._mac = mac
        self._rng = rng
        self._name = name
        self._xid = 0
        self._began = 0.0  # the transaction
        self._attempts = 0  # of the message that waits for an answer
        self._offer: Reply | None = None
        self._server_mac: bytes | None = None
        self._rebind_at = self._expire_at = math.inf
        self._timer: float | None = None
        self._frames: list[bytes] = []
        self._events: deque[Event] = deque()

    @property
    def waiting(self) -> bool:
        """Whether an answer may come, so that frames are worth showing to `receive`."""
        return self.state in _WAITING

    def frames_to_send(self) -> list[bytes]:
        """Return the Ethernet frames that are due, once."""
        frames, self._frames = self._frames, []
        return frames

    def next_timer(self) -> float | None:
        """Return when `timer_fired` wants to be called, None for never."""
        return self._timer

    def next_event(self) -> Event | None:
        """Return the oldest event not returned yet."""
        return self._events.popleft() if self._events else None

    # What happens to the client

    def link_up(self, *, now: float) -> None:
        """Begin: with the lease that is held (§4.4.2), or from the start (§4.4.1)."""
        if self.lease is None:
            self._discover(now)
        else:
            self._begin(State.REBOOTING, now)

    def link_down(self) -> None:
        """Stop, and keep the lease."""
        self.state = State.INIT
        self._timer = None
        self._frames.clear()

    def release(self) -> None:
        """Give the lease back (§4.4.6); the frame is in `frames_to_send`."""
        if self.lease is not None:
            self._xid = self._rng.getrandbits(32)
            self._emit(
                MessageType.RELEASE,
                ciaddr=self.lease.address,
                server=self.lease.server,
                unicast_to=self.lease.server,
            )
        self.lease = None
        self.state = State.INIT
        self._timer = None

    def refuse(self, lease: Lease, *, now: float) -> None:
        """Give up a lease that the machine cannot use, and ask for one after a while."""
        # Not by a DECLINE: that is for an address another machine has (§3.1 item 5), and the
        # server would set aside one address after the other.
        if lease != self.lease:
            return
        self.lease = None
        if self.state is not State.INIT:
            self._pause(REFUSED_DELAY, now)

    def receive(self, frame: bytes | memoryview, *, now: float) -> bool:
        """Take a frame; returns False when it is not for the client.

        A malformed or unexpected answer to the client is ignored, as if it were lost.
        """
        if not self.waiting:
            return False
        reply = parse_reply(frame)
        if reply is None or reply.xid != self._xid:
            return False
        if reply.type is MessageType.OFFER:
            self._on_offer(reply, now)
        elif reply.type is MessageType.ACK:
            self._on_ack(reply, now)
        elif reply.type is MessageType.NAK:
            self._on_nak(reply, now)
        return True

    def timer_fired(self, *, now: float) -> None:
        """Repeat what was not answered, or begin what is due."""
        self._timer = None
        match self.state:
            case State.SELECTING:
                self._repeat(now)
            case State.REQUESTING | State.REBOOTING:
                if self._attempts < MAX_ATTEMPTS:
                    self._repeat(now)
                else:
                    self._discover(now)
            case State.BOUND | State.RENEWING if now >= self._expire_at:  # it was suspended
                self._begin(State.REBOOTING, now)
            case State.BOUND if now < self._rebind_at:
                self._begin(State.RENEWING, now)
            case State.BOUND | State.RENEWING if now >= self._rebind_at:
                self._begin(State.REBINDING, now)
            case State.REBINDING if now >= self._expire_at:
                self._lose("the lease has run out")
                self._discover(now)
            case State.RENEWING | State.REBINDING:
                self._repeat(now)

    # Transitions

    def _discover(self, now: float) -> None:
        self._offer = None
        self._begin(State.SELECTING, now)

    def _pause(self, delay: float, now: float) -> None:
        """Wait before the next DISCOVER; what arrives until then answers nothing."""
        self.state = State.SELECTING
        self._offer = None
        self._xid = self._rng.getrandbits(32)
        self._began = now
        self._attempts = 0
        self._timer = now + delay

    def _begin(self, state: State, now: float) -> None:
        """Enter a state that sends a message of a transaction of its own, and send it."""
        self.state = state
        self._xid = self._rng.getrandbits(32)
        self._began = now
        self._attempts = 0
        self._repeat(now)

    def _repeat(self, now: float) -> None:
        """Send the state's message, the first time or again."""
        self._attempts += 1
        _SENDERS[self.state](self, int(now - self._began))
        match self.state:
            case State.RENEWING:
                delay = self._renewal_delay(self._rebind_at, now)
            case State.REBINDING:
                delay = self._renewal_delay(self._expire_at, now)
            case _:
                delay = self._retry_delay()
        self._timer = now + delay

    def _retry_delay(self) -> float:
        doublings = min(self._attempts - 1, _MAX_DOUBLINGS)
        delay = min(FIRST_DELAY * 2.0**doublings, LAST_DELAY)
        return delay * self._rng.uniform(0.75, 1.25)

    def _renewal_delay(self, until: float, now: float) -> float:
        """Half of the time that is left, but not past it (§4.4.5)."""
        left = until - now
        return max(0.0, min(left, max(left / 2, MIN_RENEWAL_DELAY)))

    def _on_offer(self, reply: Reply, now: float) -> None:
        if self.state is not State.SELECTING or self._lease(reply) is None:
            return
        self._offer = reply
        # The answer keeps the DISCOVER's xid (§4.4.1, table 5).
        self.state = State.REQUESTING
        self._attempts = 0
        self._repeat(now)

    def _on_ack(self, reply: Reply, now: float) -> None:
        if self.state not in _TAKES_ACK or (lease := self._lease(reply)) is None:
            return
        self.state = State.BOUND
        self.lease = lease
        self._server_mac = reply.server_mac
        self._offer = None
        # The lease runs from when it was asked for (§4.4.1), T1 and T2 by §4.4.5.
        span = lease.duration
        renewal = reply.number(Option.RENEWAL_TIME, 4) or span * 0.5
        rebinding = reply.number(Option.REBINDING_TIME, 4) or span * 0.875
        if not 0 < renewal < rebinding < span:
            renewal, rebinding = span * 0.5, span * 0.875
        self._expire_at = self._began + span
        self._rebind_at = self._began + rebinding
        self._timer = None if math.isinf(span) else self._began + renewal
        self._events.append(Bound(lease))

    def _on_nak(self, reply: Reply, now: float) -> None:
        if self.state not in _TAKES_ACK:
            return
        if self.lease is not None:
            self._lose("the server refuses to lease it again")
            self._discover(now)
            return
        # A server that offers what it then refuses must not be asked in a tight loop.
        self._pause(self._retry_delay(), now)

    def _lose(self, reason: str) -> None:
        self.lease = None
        self._events.append(Lost(reason))

    def _lease(self, reply: Reply) -> Lease | None:
        """Return what a reply grants; None, with an event that tells why, for what is no use."""
        try:
            return read_lease(reply)
        except LeaseError as error:
            self._events.append(Ignored(f"{reply.type.name} of {reply.yiaddr}: {error}"))
            return None

    # Messages: which fields and options, and to whom, is RFC 2131 §4.3.6, table 4

    def _send_discover(self, secs: int) -> None:
        held = None if self.lease is None else self.lease.address
        self._emit(MessageType.DISCOVER, secs=secs, requested=held)

    def _send_selecting(self, secs: int) -> None:
        assert self._offer is not None
        self._emit(
            MessageType.REQUEST,
            secs=secs,
            requested=self._offer.yiaddr,
            server=self._offer.address(Option.SERVER_IDENTIFIER),
        )

    def _send_init_reboot(self, secs: int) -> None:
        assert self.lease is not None
        self._emit(MessageType.REQUEST, secs=secs, requested=self.lease.address)

    def _send_renewing(self, secs: int) -> None:
        assert self.lease is not None
        self._emit(
            MessageType.REQUEST,
            secs=secs,
            ciaddr=self.lease.address,
            unicast_to=self.lease.server,
        )

    def _send_rebinding(self, secs: int) -> None:
        assert self.lease is not None
        self._emit(MessageType.REQUEST, secs=secs, ciaddr=self.lease.address)

    def _emit(
        self,
        message: MessageType,
        *,
        secs: int = 0,
        ciaddr: IPv4Address = ANY,
        requested: IPv4Address | None = None,
        server: IPv4Address | None = None,
        unicast_to: IPv4Address | None = None,
    ) -> None:
        self._frames.append(
            request(
                message,
                xid=self._xid,
                mac=self._mac,
                name=self._name,
                secs=secs,
                ciaddr=ciaddr,
                requested=requested,
                server=server,
                server_mac=self._server_mac,
                unicast_to=unicast_to,
            )
        )


_SENDERS: dict[State, Callable[[Client, int], None]] = {
    State.SELECTING: Client._send_discover,
    State.REQUESTING: Client._send_selecting,
    State.REBOOTING: Client._send_init_reboot,
    State.RENEWING: Client._send_renewing,
    State.REBINDING: Client._send_rebinding,
}
