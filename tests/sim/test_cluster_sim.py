"""A few whole clusters, simulated; `make sim SEEDS=10000` runs many more (docs/internals/simulation.md)."""

import pytest

from tests.sim.cluster.plants import planted
from tests.sim.cluster.world import run_seed

SEEDS = (1, 2, 3, 5)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_stale_or_resurrected(seed: int) -> None:
    result = run_seed(seed)
    assert not result.problem, "\n".join([*result.events[-60:], result.problem])
    assert result.done


def test_the_same_seed_makes_the_same_run() -> None:
    first, second = run_seed(8), run_seed(8)
    assert first.events == second.events
    assert first.trace == second.trace
    assert run_seed(5).trace != first.trace


@pytest.mark.parametrize(("plant", "seeds"), [("no-flush", (1, 2)), ("skip-sync", (3,))])
def test_planted_bugs_are_found(plant: str, seeds: tuple[int, ...]) -> None:
    with planted(plant):
        assert any(run_seed(seed).problem for seed in seeds)
