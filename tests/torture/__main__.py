"""Random operations on several mounts at once, every result compared with a model: python -m tests.torture.

Examples, from the top of the repository with the project installed:

    python -m tests.torture --calls 1000000                       simulated, two mounts, one call at a time
    python -m tests.torture --calls 1000000 --concurrent --mounts 4 --slow
    python -m tests.torture --besides restart=0.005,cut=0.01,partition=0.01,wait=0.01,forget=0.01
    python -m tests.torture --cluster --concurrent --calls 100000  real mounts of a real cluster
    python -m tests.torture --local /tmp                           the model against the local file system
    python -m tests.torture --replay FILE                          what a failure recorded

A failure prints the seed, what was expected, and the smallest program found that still fails.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.cluster.harness import Cluster
from tests.torture.real_world import restarts, run_real, work_directories
from tests.torture.shrink import shrink
from tests.torture.sim_world import simulate
from tests.torture.trial import (
    Mismatch,
    Program,
    Trial,
    read_program,
    run_concurrent,
    run_program,
    run_sequential,
    write_program,
)
from tests.torture.workload import Shape, Workload

Work = Callable[[Trial], Awaitable[None]]
Runner = Callable[[Work, int], tuple[Trial, Mismatch | None]]  # with a seed for what is not in the program
RUN_CALLS = 10_000  # then the next seed, on a fresh file system


def main() -> int:
    """Run until the calls are used up, or to the first failure."""
    options = _parser().parse_args()
    if not (options.cluster or options.local):
        return _torture(
            options,
            lambda work, seed: simulate(work, mounts=options.mounts, seed=seed, slow=options.slow),
        )
    with tempfile.TemporaryDirectory(prefix="cairnfs-torture-", dir=options.local) as directory:
        if options.local:
            return _torture(options, _local(Path(directory), options.mounts))
        cluster = Cluster(Path(directory) / "cluster")
        try:
            cluster.start(datanodes=3)
            for _ in range(options.mounts):
                cluster.mount()
            return _torture(options, _on_cluster(cluster))
        finally:
            cluster.stop()


def _local(directory: Path, mounts: int) -> Runner:
    made = 0

    def run(work: Work, _seed: int) -> tuple[Trial, Mismatch | None]:
        nonlocal made
        made += 1
        root = directory / str(made)
        root.mkdir()
        root.chmod(0o755)
        return run_real([root] * mounts, work, inos_return=True)

    return run


def _on_cluster(cluster: Cluster) -> Runner:
    made = 0

    def run(work: Work, _seed: int) -> tuple[Trial, Mismatch | None]:
        nonlocal made
        made += 1
        return run_real(work_directories(cluster, f"run{made}"), work, happenings=restarts(cluster))

    return run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.torture", description="Torture CairnFS with a model.")
    parser.add_argument("--seed", type=int, help="of the first run; random without it")
    parser.add_argument("--calls", type=int, default=100_000, help="how many in all")
    parser.add_argument("--mounts", type=int, default=2)
    parser.add_argument("--concurrent", action="store_true", help="two actors per mount, several at once")
    parser.add_argument("--slow", action="store_true", help="simulated messages take random times")
    parser.add_argument("--directories", default=",/p,/q,/p/r", help="where the work is done")
    parser.add_argument("--names", default="a,b,c,d", help="of files")
    parser.add_argument("--besides", default="wait=0.01,forget=0.01", help="happenings and probabilities")
    parser.add_argument("--cluster", action="store_true", help="real mounts instead of simulated ones")
    parser.add_argument("--local", type=Path, help="a local directory instead: tests the model")
    parser.add_argument("--replay", type=Path, help="a recorded program instead of random calls")
    parser.add_argument("--patience-s", type=float, default=60.0, help="for making a failure small")
    return parser


def _torture(options: argparse.Namespace, runner: Runner) -> int:
    if options.replay:
        return _report(options, options.seed or 0, runner, *_replay(options, runner))
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    done = 0
    while done < options.calls:
        started_s = time.monotonic()
        calls = min(RUN_CALLS, options.calls - done)
        trial, mismatch = runner(_work(options, seed, calls), seed)
        done += trial.calls
        print(
            f"seed {seed}: {trial.calls} calls, {done} in all, {time.monotonic() - started_s:.1f} s",
            flush=True,
        )
        if mismatch is not None:
            return _report(options, seed, runner, trial, mismatch)
        seed += 1
    return 0


def _work(options: argparse.Namespace, seed: int, calls: int) -> Work:
    besides = {
        name: float(value) for name, _, value in (x.partition("=") for x in options.besides.split(","))
    }
    shape = Shape(tuple(options.directories.split(",")), tuple(options.names.split(",")), besides=besides)
    actors = options.mounts * 2 if options.concurrent else options.mounts

    async def work(trial: Trial) -> None:
        workload = Workload(seed, actors, options.mounts, shape)
        await (run_concurrent if options.concurrent else run_sequential)(trial, workload, calls)

    return work


def _replay(options: argparse.Namespace, runner: Runner) -> tuple[Trial, Mismatch | None]:
    program = read_program(options.replay.read_text())
    return runner(lambda trial: run_program(trial, program), options.seed or 0)


def _report(
    options: argparse.Namespace, seed: int, runner: Runner, trial: Trial, mismatch: Mismatch | None
) -> int:
    if mismatch is None:
        return 0
    print(f"seed {seed}, {options.mounts} mounts: {mismatch}\nmaking it small ...", flush=True)

    def fails(program: Program) -> bool:
        return runner(lambda again: run_program(again, program), seed)[1] is not None

    program = trial.program
    if fails(program):
        program = shrink(program, fails, options.patience_s)
        _, mismatch = runner(lambda again: run_program(again, program), seed)
    print(f"# seed {seed}, {options.mounts} mounts\n{write_program(program)}{mismatch}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
