"""Servers at the gateway's addresses."""

import asyncio
import errno

import pytest

from gvproxy.virtual import VirtualNetwork
from tests.host.flows.guest import GATEWAY, OUTSIDE, Guest
from tests.manual_loop import ManualLoop

from .recorder import Recorder, watched

ADDRESS, PORT = "192.168.127.1", 80


def serve(guest: Guest, network: VirtualNetwork, **limits: int) -> list[Recorder]:
    """Listen; what is returned gets a protocol for each connection."""
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    guest.loop.complete(network.create_server(factory, ADDRESS, PORT, **limits))
    return made


def test_a_guest_is_served(guest: Guest, network: VirtualNetwork) -> None:
    made = serve(guest, network)
    with watched(guest.host):
        far = guest.connect(GATEWAY, PORT)
        guest.loop.run()
        far.send(b"question")
        guest.loop.run()
        (near,) = made
        near.transport.write(b"answer")
        guest.loop.run()
    assert (near.data, far.data) == (b"question", b"answer")
    host, port = near.transport.get_extra_info("peername")
    assert (host, port) == ("192.168.127.2", near.transport.connection.path.guest_port)  # type: ignore[union-attr]
    assert near.transport.get_extra_info("sockname") == (ADDRESS, PORT)


def test_tasks_run_between_two_calls(guest: Guest, network: VirtualNetwork) -> None:
    class Starting(Recorder):
        def _note(self, what: str) -> None:
            super()._note(what)
            guest.loop.call_soon(self.told.append, "task")

    near = Starting()
    guest.loop.complete(network.create_server(lambda: near, ADDRESS, PORT))
    far = guest.connect(GATEWAY, PORT)
    guest.loop.run()
    far.send(b"data")
    far.reset()
    guest.loop.run()
    assert near.told == ["made", "task", "data", "task", "lost", "task"]


def test_a_guest_that_is_gone_at_once_has_no_protocol(
    guest: Guest, network: VirtualNetwork
) -> None:
    made = serve(guest, network)
    far = guest.connect(GATEWAY, PORT)
    while far.told == []:
        guest.loop.turn()
    far.reset()  # in one batch with the end of the handshake
    guest.loop.run()
    assert guest.host.connections.tcp_counters.established == 1
    assert made == []
    assert not network._members.transports


def test_a_connection_that_is_never_made_has_no_protocol(
    guest: Guest, network: VirtualNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = serve(guest, network)
    monkeypatch.setattr(guest.host_port, "send", lambda *_: None)
    far = guest.connect(GATEWAY, PORT)
    for _ in range(600):
        guest.tick(1)
    assert (made, far.told) == ([], ["TIMED_OUT"])
    assert not guest.host.connections.find
    assert not network._members.transports


def test_a_port_that_is_taken(guest: Guest, network: VirtualNetwork) -> None:
    serve(guest, network)
    with pytest.raises(OSError, match=f"{ADDRESS}:{PORT}") as caught:
        serve(guest, network)
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("address", ["192.168.127.2", "10.0.0.1", "::1", "0.0.0.0"])
def test_an_address_of_others(network: VirtualNetwork, loop: ManualLoop, address: str) -> None:
    with pytest.raises(OSError, match="Cannot assign requested address") as caught:
        loop.complete(network.create_server(Recorder, address, PORT))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(("address", "port"), [(ADDRESS, 0), (ADDRESS, -1), ("", PORT)])
def test_no_address_at_all(
    network: VirtualNetwork, loop: ManualLoop, address: str, port: int
) -> None:
    with pytest.raises(ValueError, match="not"):
        loop.complete(network.create_server(Recorder, address, port))


def test_its_end_is_not_its_connections(guest: Guest, network: VirtualNetwork) -> None:
    made: list[Recorder] = []

    async def live() -> None:
        async with await network.create_server(
            lambda: made.append(Recorder()) or made[-1],  # type: ignore[func-returns-value]
            ADDRESS,
            PORT,
        ) as server:
            before.append(guest.connect(GATEWAY, PORT))
            while not made:
                await asyncio.sleep(0)
        server.close()  # once more

    before: list = []  # type: ignore[type-arg]
    guest.loop.complete(live())
    refused = guest.connect(GATEWAY, PORT)
    guest.loop.run()
    assert refused.told == ["RESET"]
    made[0].transport.write(b"still here")
    guest.loop.run()
    assert before[0].data == b"still here"
    serve(guest, network)  # the port is free again


def test_past_the_limit_a_guest_waits(guest: Guest, network: VirtualNetwork) -> None:
    made = serve(guest, network, max_clients=2)
    first = [guest.connect(GATEWAY, PORT) for _ in range(2)]
    guest.loop.run()
    waiting = guest.connect(GATEWAY, PORT)
    guest.loop.run()
    assert (len(made), waiting.told) == (2, [])
    assert guest.host.counters.connections_refused == 1
    first[0].reset()
    guest.tick(1.5)
    assert (len(made), waiting.told) == (3, ["established"])


def test_connections_from_before_a_guest_came_back_make_room(
    guest: Guest, network: VirtualNetwork
) -> None:
    made = serve(guest, network, max_clients=3)
    for _ in range(4):
        first = [guest.connect(GATEWAY, PORT) for _ in range(3)]
        guest.loop.run()
        assert [one.told for one in first] == [["established"]] * 3
        guest.plug_in_again()
        guest.loop.run()
    assert sum(len(one.lost) for one in made) == 9


def test_the_network_ends_its_servers(guest: Guest, network: VirtualNetwork) -> None:
    serve(guest, network)
    far = guest.connect(GATEWAY, PORT)
    guest.loop.run()
    network.close()
    refused = guest.connect(GATEWAY, PORT)
    guest.loop.run()
    assert (far.told, refused.told) == (["established", "RESET"], ["RESET"])


def test_other_addresses_are_not_served(guest: Guest, network: VirtualNetwork) -> None:
    made = serve(guest, network)
    guest.host.connections.forward = None
    far = guest.connect(OUTSIDE, PORT)
    guest.loop.run()
    assert (made, far.told) == ([], ["RESET"])
