"""Random interleavings of clients that change directories in memory: nothing stale, nothing lost."""

import pytest

from tests.sim.journal_world import JournalWorld


@pytest.mark.parametrize("seed", range(12))
def test_local_changes_are_seen_by_everybody_else(seed: int) -> None:
    JournalWorld(seed, clients=2 + seed % 3, losses=False).run(1_500)


@pytest.mark.parametrize("seed", range(12))
def test_the_same_with_lost_connections_and_restarts(seed: int) -> None:
    JournalWorld(1_000 + seed, clients=2 + seed % 3, losses=True).run(1_500)
