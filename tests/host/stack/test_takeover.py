"""Attacks on a guest whose link has ended: who may have its MAC address, and its connections.

The victim's link comes from VM 3, Mallory's from VM 4, unless a test says otherwise.
"""

import pytest

from gvproxy.limits import Limit, Limits
from gvproxy.stack.sourceguard import COMEBACK
from gvproxy.tcp import calls

from .attack import MALLORY_MAC, Scene, make
from .bench import ALL, GATEWAY, GUEST, MAC, Bench, Port, arp, echo
from .peer import ACK, FIN, RST, Peer

SECRET = b"the victim's own"


def away(mallory: str = "cid 4", *, source_checks: bool = True) -> Scene:
    """Have Mallory behind a link that comes from somewhere, and the victim leave."""
    scene = make(source_checks=source_checks)
    scene.victim.identity, scene.mallory.identity = "cid 3", mallory
    scene.bench.stack.detach(scene.victim, scene.bench.now)
    scene.victim.take()
    return scene


def come_back(bench: Bench, identity: str = "cid 3") -> Port:
    port = bench.attach()
    port.identity = identity
    return port


# The MAC address


def test_the_mac_address_of_who_has_just_left_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    scene = away()
    bench = scene.bench
    assert bench.give(echo(), port=scene.mallory) == []
    bench.now += COMEBACK - 0.1
    assert bench.give(echo(), port=scene.mallory) == []
    assert bench.counters.macs_spoofed == 2
    assert not scene.victim.take(), "nobody is there to be asked"
    assert caplog.messages == [
        "5a:94:ef:e4:0c:ee of guest 1 is refused, because guest 0, which had it, may come back"
    ]
    assert bench.give(echo(), port=come_back(bench)) != []


def test_it_is_free_for_a_vm_that_was_started_anew() -> None:
    scene = away()
    scene.bench.now += COMEBACK
    assert scene.bench.give(echo(), port=scene.mallory) != []
    assert scene.bench.stack.switch.table() == {MAC: 1, MALLORY_MAC: 1}
    assert scene.bench.stack.neighbours.get(GUEST) is scene.bench.stack.switch.stations[MAC]


@pytest.mark.parametrize("source_checks", [True, False])
def test_one_that_cannot_be_told_from_who_left_has_it_at_once(source_checks: bool) -> None:
    scene = away("cid 3" if source_checks else "cid 4", source_checks=source_checks)
    assert scene.bench.give(echo(), port=scene.mallory) != []


def test_nobody_waits_for_one_that_cannot_come_back() -> None:
    scene = make()
    bench, peer = scene.bench, unsent(scene, identity="")
    peer.port = scene.mallory
    (answer,) = peer.give(peer.make(ACK))
    assert answer.flags & RST, "but its connections are its own"
    assert bench.give(echo(), port=scene.mallory) != []


def test_a_guest_with_all_its_addresses_does_not_have_it_forgotten() -> None:
    """For who has left gives way where it is the table that is full."""
    bench = Bench(limits=Limits(macs=Limit(20, 4)))
    bench.port.identity, mallory = "cid 3", bench.attach()
    bench.meet()
    bench.stack.detach(bench.port, bench.now)
    for last in range(6):
        bench.give(arp(GATEWAY, mac=b"\2\0\0\0\0" + bytes((last,))), port=mallory)
    assert bench.counters.stations_refused == 2
    assert bench.give(echo(), port=mallory) == []
    assert bench.counters.macs_spoofed == 1


# Connections


def unsent(scene: Scene, identity: str = "cid 3") -> Peer:
    """Have the victim open a connection, leave, and not get what comes then."""
    bench = scene.bench
    scene.victim.identity, scene.mallory.identity = identity, "cid 4"
    scene.victim.take()
    peer = Peer(bench).connect()
    peer.give(peer.data(b"before"))
    bench.stack.detach(scene.victim, bench.now)
    calls.send(peer.connection, SECRET, bench.now)
    scene.mallory.take()
    return peer


def wait(bench: Bench, seconds: float = 10.0) -> None:
    """Let time pass, and what is sent again be sent."""
    for _ in range(int(seconds * 10)):
        bench.now += 0.1
        bench.stack.run_timers(bench.now)


def got(port: Port) -> bytes:
    return b"".join(port.take())


@pytest.mark.parametrize("flags", [ACK, ACK | FIN, RST, RST | ACK])
def test_who_takes_its_place_gets_nothing_of_its_connections(flags: int) -> None:
    scene = make()
    bench, peer = scene.bench, unsent(scene)
    bench.now += COMEBACK
    bench.give(arp(GATEWAY), port=scene.mallory)
    scene.mallory.take()
    wait(bench)
    assert not scene.mallory.take(), "not even what is sent again"
    peer.port = scene.mallory
    answers = peer.give(peer.make(flags))
    assert [answer.flags & ~ACK for answer in answers] == [] if flags & RST else [RST]
    wait(bench)
    assert not scene.mallory.take()
    assert peer.user.told[-1] == "RESET", "whom it was with hears that it has ended"
    assert not bench.stack.connections.find
    assert not bench.quotas.connections.used


def test_nor_who_uses_its_ip_address_with_a_mac_address_of_its_own() -> None:
    """Where nothing tells them apart but that."""
    scene = make()
    bench, peer = scene.bench, unsent(scene)
    scene.mallory.identity = "cid 3"
    peer.port, peer.where["mac"] = scene.mallory, MALLORY_MAC
    (answer,) = peer.give(peer.make(ACK))
    assert answer.flags & RST
    wait(bench)
    assert not scene.mallory.take()
    assert peer.user.told[-1] == "RESET"


@pytest.mark.parametrize("ended", [False, True])
def test_who_takes_its_place_may_open_the_same_connection(ended: bool) -> None:
    """A VM that was started anew begins with the same port."""
    scene = make()
    bench, first = scene.bench, unsent(scene)
    if ended:  # in TIME-WAIT, which its next one's numbers go on from
        calls.shutdown(first.connection, bench.now)
        place = come_back(bench)
        first.port = place
        first.give(first.make(ACK | FIN, ack=first.connection.snd_nxt))
        bench.stack.detach(place, bench.now)
    bench.now += COMEBACK
    again = Peer(bench)
    again.port = scene.mallory
    again.connect()
    again.give(again.data(b"after"))
    assert (first.user.data, again.user.data) == (b"before", b"after")
    assert first.user.told[-1] == ("DONE" if ended else "RESET")


def test_a_guest_that_comes_back_has_its_connections() -> None:
    """Also after another that had its place for a while, and did nothing with it."""
    scene = make()
    bench, peer = scene.bench, unsent(scene)
    bench.now += COMEBACK
    bench.give(arp(GATEWAY), port=scene.mallory)
    bench.stack.detach(scene.mallory, bench.now)
    bench.now += COMEBACK
    peer.port = come_back(bench)
    peer.give(peer.data(b" after"))
    wait(bench, 1.0)
    assert peer.user.data == b"before after"
    assert SECRET in got(peer.port)


def test_who_gets_the_address_of_a_guest_that_is_there_gets_nothing_else() -> None:
    """It was leased to the victim, and is Mallory's now."""
    scene = make()
    scene.victim.take()
    peer = Peer(scene.bench).connect()
    scene.guard.binding = lambda address, now: MALLORY_MAC
    scene.guard.granted(GUEST, MALLORY_MAC)
    peer.port, peer.where["mac"] = scene.mallory, MALLORY_MAC
    calls.send(peer.connection, SECRET, scene.bench.now)
    (answer,) = peer.give(peer.make(ACK))
    assert answer.flags & RST
    wait(scene.bench)
    assert not scene.mallory.take()
    assert peer.user.told[-1] == "RESET"


def test_it_can_be_allowed() -> None:
    """Then the last one to speak has a connection."""
    bench = Bench(ALL, source_checks=False)
    bench.port.identity = "cid 3"
    peer = Peer(bench).connect()
    peer.port = other = bench.attach()
    peer.give(peer.data(b"elsewhere"))
    calls.send(peer.connection, SECRET, bench.now)
    assert peer.user.data == b"elsewhere"
    assert SECRET in got(other)
