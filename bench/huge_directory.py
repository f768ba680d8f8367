"""Time and memory that a directory of very many entries takes: listed, and with the attributes of each.

    python -m bench.huge_directory DIRECTORY [--entries 1000000] [--stat 1000000]

The entries are put into the coordinator's store directly. Prints for each step the time, and the largest
resident memory of mount and coordinator until then. DIRECTORY must be empty, on a disk.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

from bench.coordinator_rates import fill
from cairnfs.base.limits import ROOT_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace.mkfs import format_file_system
from cairnfs.coordinator.records import Dentry
from cairnfs.engine.interface import Operation
from cairnfs.engine.open import open_engine

DIRECTORY_KIND = 4
MIB = 1 << 20
PATIENCE_S = 60.0


def prepare(store: Path, entries: int) -> None:
    """A file system with one directory, `huge`."""
    engine = open_engine("sqlite", store)
    try:
        engine.commit([Operation(lambda txn: format_file_system(txn, "bench", 0))])
        (parent,) = fill(engine, entries, entries)
        entry = Dentry(parent, DIRECTORY_KIND).encode()
        engine.commit([Operation(lambda txn: txn.put(keys.dentry(ROOT_INO, b"huge"), entry))])
    finally:
        engine.close()


@contextmanager
def process(*arguments: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A process of CairnFS and what it says when it is ready; asked to end, and waited for."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "cairnfs.cli", *arguments, "--ready-fd", str(write)]
    running = subprocess.Popen(command, pass_fds=[write])
    os.close(write)
    try:
        with os.fdopen(read) as ready:
            yield running, ready.readline()
    finally:
        running.terminate()
        running.wait(PATIENCE_S)


def peak_mib(pid: int) -> float:
    """The largest resident memory of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024 / MIB


def count_names(place: Path) -> int:
    """List the directory."""
    with os.scandir(place) as entries:
        return sum(1 for _ in entries)


def stat_each(place: Path, count: int) -> int:
    """List it and stat `count` of its entries on the way."""
    with os.scandir(place) as entries:
        return sum(entry.stat(follow_symlinks=False).st_nlink for entry in islice(entries, count))


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--stat", type=int, default=1_000_000)
    options = parser.parse_args()
    store, place = options.directory / "store", options.directory / "mount"
    place.mkdir()
    prepare(store, options.entries)
    with ExitStack() as stack:
        arguments = ("coordinator", "--data", store, "--listen", "127.0.0.1:0", "--log-level", "warning")
        coordinator, ready = stack.enter_context(process(*arguments))
        address = json.loads(ready)["address"]
        mount, _ = stack.enter_context(process("mount", f"{address}:/", place, "--foreground"))
        steps: list[tuple[str, int, Callable[[], int]]] = [
            ("list", options.entries, lambda: count_names(place / "huge")),
            ("list again", options.entries, lambda: count_names(place / "huge")),
            ("stat", min(options.stat, options.entries), lambda: stat_each(place / "huge", options.stat)),
        ]
        for label, expected, step in steps:
            started = time.perf_counter()
            found = step()
            taken_s = time.perf_counter() - started
            memory = f"mount {peak_mib(mount.pid):4.0f} MiB, coordinator {peak_mib(coordinator.pid):4.0f} MiB"
            print(f"{label:12} {found:9,} entries {taken_s:7.1f} s   {memory}", flush=True)
            if found != expected:
                raise SystemExit(f"{expected} expected")


if __name__ == "__main__":
    main()
