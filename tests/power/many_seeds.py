"""The command line of the power-cut tests: many seeds instead of the few of the suite."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path


def try_many(run_seed: Callable[[int, Path], int], description: str | None, verdict: str) -> None:
    """Run `run_seed` (its number of cuts) for the seeds asked for; ends at the first failure."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    cuts = 0
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory() as directory:
            try:
                cuts += run_seed(seed, Path(directory))
            except AssertionError as error:
                raise SystemExit(f"seed {seed}: {error}") from error
    print(f"{cuts} power cuts in {options.seeds} histories: {verdict}")
