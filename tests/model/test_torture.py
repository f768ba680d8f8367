"""Short torture runs over the rig: fixed seeds, and everything that longer runs have found.

`python -m tests.torture` runs longer. A failure here prints the program; keep it in tests/torture/replays/.
"""

import json
from pathlib import Path

import pytest

from tests.torture.sim_world import simulate
from tests.torture.trial import (
    Trial,
    read_program,
    run_concurrent,
    run_program,
    run_sequential,
    write_program,
)
from tests.torture.workload import Shape, Workload

REPLAYS = sorted((Path(__file__).parents[1] / "torture" / "replays").glob("*.txt"))
CALLS = 1_200
QUIET = {"wait": 0.01, "forget": 0.01}
TROUBLE = {"wait": 0.01, "cut": 0.01, "restart": 0.005, "partition": 0.005}


def torture(seed: int, mounts: int, besides: dict[str, float], *, concurrent: bool, slow: bool) -> None:
    actors = mounts * 2 if concurrent else mounts

    async def work(trial: Trial) -> None:
        workload = Workload(seed, actors, mounts, Shape(besides=besides))
        await (run_concurrent if concurrent else run_sequential)(trial, workload, CALLS)

    trial, mismatch = simulate(work, mounts=mounts, seed=seed, slow=slow)
    if mismatch is not None:
        raise AssertionError(f"seed {seed}: {mismatch}\n{write_program(trial.program)}") from mismatch
    assert trial.calls >= CALLS


@pytest.mark.parametrize("mounts", [2, 4])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_call_at_a_time(seed: int, mounts: int) -> None:
    torture(seed, mounts, QUIET, concurrent=False, slow=False)


@pytest.mark.parametrize("mounts", [2, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_calls_at_once(seed: int, mounts: int) -> None:
    torture(seed, mounts, QUIET, concurrent=True, slow=True)


@pytest.mark.parametrize("concurrent", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_while_connections_and_coordinators_fail(seed: int, concurrent: bool) -> None:
    torture(seed, 2, TROUBLE, concurrent=concurrent, slow=True)


@pytest.mark.parametrize("replay", REPLAYS, ids=[path.stem for path in REPLAYS])
def test_what_was_found_before(replay: Path) -> None:
    text = replay.read_text()
    how = json.loads(text[2 : text.index("}") + 1])
    program = read_program(text)
    _, mismatch = simulate(
        lambda trial: run_program(trial, program),
        mounts=how["mounts"],
        seed=how["seed"],
        slow=how.get("slow", False),
    )
    assert mismatch is None, mismatch
