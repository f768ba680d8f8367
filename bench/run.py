"""Measure a CairnFS mount beside a local directory (`make bench`; --help shows the options).

Without --mount a cluster is made in a scratch directory (one coordinator, three datanodes, two replicas)
and removed at the end. Each round runs every workload on both targets, one right after the other and in
alternating order, so that a noisy machine disturbs both alike.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import report
from bench.meter import Meter
from bench.workloads import MIB, WORKLOADS, Scale, make_archive

TITLE = "A CairnFS mount beside a local directory"
RESULTS = Path(__file__).resolve().parent / "results"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each workload runs (3)")
    parser.add_argument("--only", action="append", choices=WORKLOADS, help="this workload (repeatable)")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of everything, to try it")
    parser.add_argument("--mount", type=Path, help="measure this mount, not a cluster made here")
    parser.add_argument("--data", type=Path, help="data directory of its cluster, for CPU times")
    parser.add_argument("--scratch", type=Path, help="where to make the yardstick and the cluster (/var/tmp)")
    parser.add_argument("--name", default=time.strftime("%Y-%m-%d-%H%M%S"), help="name of the result files")
    return parser.parse_args()


@contextmanager
def cluster(scratch: Path) -> Iterator[tuple[Path, Path]]:
    """A cluster of its own: yields its mount and its data directory."""
    data, mount = scratch / "data", scratch / "mount"
    cairnfs = [sys.executable, "-m", "cairnfs.cli"]
    subprocess.run([*cairnfs, "up", "--data", data, "--mount", mount], check=True, stdout=sys.stderr)
    try:
        yield mount, data
    finally:
        subprocess.run([*cairnfs, "down", "--data", data, "--force"], check=True, stdout=sys.stderr)


def measure(
    options: argparse.Namespace, places: dict[str, Path], meters: dict[str, Meter], scale: Scale
) -> None:
    """All rounds of all workloads on both targets."""
    for number in range(options.rounds):
        for name in options.only or WORKLOADS:
            for target in ("local", "mount") if number % 2 == 0 else ("mount", "local"):
                print(f"round {number + 1} of {options.rounds}: {name} on {target}", file=sys.stderr)
                directory = Path(tempfile.mkdtemp(prefix="bench-", dir=places[target]))
                try:
                    WORKLOADS[name](directory, meters[target], scale)
                finally:
                    shutil.rmtree(directory)


def main() -> int:
    """Run, write bench/results/NAME.md and .json, print the table."""
    options = arguments()
    part = 16 if options.quick else 1
    scratch = Path(tempfile.mkdtemp(prefix="cairnfs-bench-", dir=options.scratch or "/var/tmp"))
    try:
        archive = scratch / "tree.tar"
        entries = make_archive(archive)
        scale = Scale(1024 * MIB // part, 2000 // part, 256 * MIB // part, 4000 // part, 400 // part, archive)
        facts = {
            "date": time.strftime("%Y-%m-%d %H:%M:%S"),
            "machine": f"{os.cpu_count()} cores, Linux {platform.release()}",
            "python": platform.python_version(),
            "rounds": options.rounds,
            "large file": f"{scale.file_bytes // MIB} MiB",
            "small files": f"{scale.files} of 4 KiB",
            "source tree": f"{entries} entries, {archive.stat().st_size // MIB} MiB",
        }
        local = scratch / "local"
        local.mkdir()
        meters = {"local": Meter(), "mount": Meter()}
        if options.mount is not None:
            meters["mount"].run = options.data / "run" if options.data else None
            measure(options, {"local": local, "mount": options.mount}, meters, scale)
        else:
            with cluster(scratch) as (mount, data):
                meters["mount"].run = data / "run"
                measure(options, {"local": local, "mount": mount}, meters, scale)
        results = {target: meter.measurements for target, meter in meters.items()}
        table = report.write(
            RESULTS, options.name, results, facts, "A CairnFS mount beside a local directory"
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(table.read_text())
    print(f"written to {table}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
