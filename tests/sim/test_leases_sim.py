"""Random interleavings of several caching clients: no stale read, no deadlock, every request answered."""

import pytest

from tests.sim.lease_model import World


@pytest.mark.parametrize("seed", range(12))
def test_no_read_is_stale_and_nothing_waits_for_ever(seed: int) -> None:
    World(seed, clients=2 + seed % 3, losses=False).run(1_500)


@pytest.mark.parametrize("seed", range(12))
def test_the_same_with_lost_connections_and_restarts(seed: int) -> None:
    World(1_000 + seed, clients=2 + seed % 3, losses=True).run(1_500)
