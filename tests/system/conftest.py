"""One network for the tests that leave it as it was; others make their own."""

from collections.abc import Iterator

import pytest

from tests.lab.network import Network, World, make_network, make_world


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """A host, a guest on it with its lease, and a world outside."""
    with make_network() as network:
        yield network


@pytest.fixture(scope="session")
def shared_world(network: Network) -> World:
    """That of `network`, for programs besides its own."""
    return network.world


@pytest.fixture
def world() -> Iterator[World]:
    """A host and a world outside, for a test that starts the programs itself."""
    with make_world() as world:
        yield world
