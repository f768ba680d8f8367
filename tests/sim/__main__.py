"""Simulate a whole cluster, seed after seed, on all cores: `python -m tests.sim --seeds 10000`."""

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests.sim.cluster.jobs import run_job
from tests.sim.cluster.plants import PLANTS
from tests.sim.cluster.world import PROFILES

EVENTS_SHOWN = 60


def main() -> int:
    """Returns 1 when something was found, and with --plant when nothing was."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="how many (default 100)")
    parser.add_argument("--from", type=int, default=0, metavar="S", dest="first", help="the first seed")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="all", help="which kinds of faults")
    parser.add_argument("--plant", choices=sorted(PLANTS), default="", help="plant this bug; stop when found")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count(), metavar="N")
    parser.add_argument("--story", action="store_true", help="show what happened in runs that failed")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    jobs = [(seed, options.profile, options.plant) for seed in seeds]
    began_s, failures, tried = time.monotonic(), Counter[str](), 0
    virtual_s, calls = 0.0, 0
    with multiprocessing.get_context("fork").Pool(options.workers, maxtasksperchild=500) as pool:
        for result in pool.imap_unordered(run_job, jobs):
            tried += 1
            virtual_s += result.virtual_s
            calls += result.done + result.failed
            if result.problem:
                failures[result.problem.partition(":")[0]] += 1
                print(f"seed {result.seed}: {result.problem[:600]}", flush=True)
                if options.story:
                    print("\n".join(result.events[-EVENTS_SHOWN:]), flush=True)
                if options.plant:
                    pool.terminate()
                    break
    minutes = (time.monotonic() - began_s) / 60
    print(
        f"{tried} schedules, {calls} calls, {virtual_s / 3600:.1f} h simulated in {minutes:.1f} min "
        f"({tried / minutes:.0f} per minute), {sum(failures.values())} with a fault {dict(failures) or ''}"
    )
    return int(bool(failures) != bool(options.plant))


if __name__ == "__main__":
    sys.exit(main())
