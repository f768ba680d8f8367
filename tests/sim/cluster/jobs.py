"""One seed as a job for a worker process."""

from tests.sim.cluster.plants import planted
from tests.sim.cluster.world import Result, run_seed


def run_job(job: tuple[int, str, str]) -> Result:
    """Run a seed of a profile with a planted bug ("" for none); its story is kept only if it failed."""
    seed, profile, plant = job
    with planted(plant):
        result = run_seed(seed, profile)
    if not result.problem:
        result.events = []
    return result
