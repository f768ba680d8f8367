"""Curves of CairnFS over the number of clients and datanodes, and over the size of files and directories.

    python -m bench.scale [--only clients] [--rounds 3] [--large]

Writes the medians of all rounds into bench/results/NAME.md, and a plot for each curve beside it. Clients are
mounts of their own with one program each, all on this machine: its cores bound what they do together.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import plots, sandbox
from bench.meter import Done, run_apart, settle
from bench.peers.cairnfs import CairnFS
from bench.peers.install import InstallError, install
from bench.workloads import MIB, PAGE_BYTES

RESULTS = Path(__file__).resolve().parent / "results"
TIMEOUT_S = 600.0
CLIENTS = (1, 2, 4, 8)
DATANODES = (2, 3, 4, 6)
FILE_KIB = (1, 16, 256, 4 << 10, 64 << 10, 1 << 20)
DIRECTORY_ENTRIES = (100, 1_000, 10_000)
LARGE_DIRECTORY_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of one curve, once: `rate` is in `unit`."""

    unit: str
    line: str
    at: float
    rate: float


@contextmanager
def cluster(scratch: Path, *, datanodes: int = 3, clients: int = 1) -> Iterator[list[CairnFS]]:
    """A cluster and its mounts; the first one has the servers."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory:
        mounts: list[CairnFS] = []
        try:
            for number in range(clients):
                mounts.append(CairnFS(Path(directory) / f"client-{number}", scratch))
                if number == 0:
                    mounts[0].datanodes = datanodes
                    mounts[0].start_servers()
                mounts[-1].mount()
            yield mounts
        finally:
            for mount in reversed(mounts):
                mount.stop()


def together(clients: Sequence[CairnFS], work: Callable[[Path], float]) -> float:
    """Run `work` in a new directory of each client at once; returns what all did per second."""

    def one(client: CairnFS) -> float:
        directory = Path(tempfile.mkdtemp(dir=client.place))
        answer = run_apart(lambda: Done(work(directory), 0.0), TIMEOUT_S)
        if answer.done is None:
            raise OSError(f"{client.place}: {answer.error}")
        return answer.done.amount

    for client in clients:
        settle(client)
    start = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as threads:
        amount = sum(threads.map(one, clients))
    return amount / (time.perf_counter() - start)


def create(directory: Path, count: int) -> float:
    """Create files of one page, and have all of them reported; returns how many."""
    rest = os.urandom(PAGE_BYTES - 8)
    for number in range(count):
        (directory / f"file-{number:07d}").write_bytes(number.to_bytes(8, "big") + rest)
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return count


def write(directory: Path, total_bytes: int, file_bytes: int) -> float:
    """Write files of one size and fsync each; returns megabytes."""
    block = bytearray(os.urandom(min(MIB, file_bytes)))
    files = max(1, total_bytes // file_bytes)
    for number in range(files):
        with (directory / f"file-{number:07d}").open("wb", buffering=0) as file:
            for at in range(0, file_bytes, len(block)):
                block[:8] = (number * file_bytes + at).to_bytes(8, "big")
                file.write(block)
            os.fsync(file.fileno())
    return files * file_bytes / 1e6


def read(directory: Path) -> float:
    """Read every file of a directory; returns megabytes."""
    seen, block = 0, bytearray(MIB)
    for path in directory.iterdir():
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(block):
                seen += count
    return seen / 1e6


def listing(directory: Path) -> float:
    """List a directory and stat every entry; returns how many."""
    with os.scandir(directory) as entries:
        return sum(entry.stat(follow_symlinks=False).st_size == PAGE_BYTES for entry in entries)


def made_by(mount: CairnFS) -> Path:
    """The only directory of a mount that has entries, after a remount: its client is cold."""
    mount.unmount()
    mount.mount()
    (directory,) = [found for found in mount.place.iterdir() if any(found.iterdir())]
    return directory


def by_clients(scratch: Path, _large: bool) -> Iterator[Sample]:
    """More and more mounts create files, and write, at once."""
    with cluster(scratch, clients=max(CLIENTS)) as mounts:
        for count in CLIENTS:
            some = mounts[:count]
            yield Sample("files/s", "create", count, together(some, partial(create, count=500)))
            yield Sample(
                "MB/s",
                "write",
                count,
                together(some, partial(write, total_bytes=64 * MIB, file_bytes=64 * MIB)),
            )


def by_datanodes(scratch: Path, _large: bool) -> Iterator[Sample]:
    """One mount writes to more and more datanodes, and reads that from them."""
    for count in DATANODES:
        with cluster(scratch, datanodes=count) as (mount,):
            written = together([mount], partial(write, total_bytes=256 * MIB, file_bytes=256 * MIB))
            yield Sample("MB/s", "write", count, written)
            directory = made_by(mount)
            yield Sample("MB/s", "read, cold", count, _alone(mount, partial(read, directory)))


def by_file_size(scratch: Path, large: bool) -> Iterator[Sample]:
    """Files of one size after the other, at most 500 of each; the largest ones when `large`."""
    for size_kib in FILE_KIB if large else FILE_KIB[:-1]:
        size = size_kib << 10
        total = max(size, min(64 * MIB, 500 * size))
        with cluster(scratch) as (mount,):
            written = together([mount], partial(write, total_bytes=total, file_bytes=size))
            yield Sample("MB/s", "write", size_kib, written)
            directory = made_by(mount)
            yield Sample("MB/s", "read, cold", size_kib, _alone(mount, partial(read, directory)))


def by_directory_size(scratch: Path, large: bool) -> Iterator[Sample]:
    """Directories of more and more entries are filled and listed."""
    for count in (*DIRECTORY_ENTRIES, LARGE_DIRECTORY_ENTRIES) if large else DIRECTORY_ENTRIES:
        with cluster(scratch) as (mount,):
            created = together([mount], partial(create, count=count))
            yield Sample("files/s", "create", count, created)
            directory = made_by(mount)
            listed = _alone(mount, partial(listing, directory))
            yield Sample("entries/s", "list + stat, cold", count, listed)


def _alone(mount: CairnFS, work: Callable[[], float]) -> float:
    return together([mount], lambda _place: work())


CURVES: Mapping[str, tuple[str, Callable[[Path, bool], Iterator[Sample]]]] = {
    "clients": ("clients", by_clients),
    "datanodes": ("datanodes", by_datanodes),
    "file-size": ("KiB of one file", by_file_size),
    "directory-size": ("entries of one directory", by_directory_size),
}


def run(options: argparse.Namespace, scratch: Path) -> int:
    """Measure, write and print."""
    text = ""
    for name in options.only or CURVES:
        axis, curve = CURVES[name]
        found: dict[str, dict[str, dict[float, list[float]]]] = {}
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
            for sample in curve(scratch, options.large):
                line = found.setdefault(sample.unit, {}).setdefault(sample.line, {})
                line.setdefault(sample.at, []).append(sample.rate)
        for unit, lines in found.items():
            medians = {
                line: [(at, statistics.median(rates)) for at, rates in points.items()]
                for line, points in lines.items()
            }
            text += table(axis, unit, medians)
            RESULTS.mkdir(parents=True, exist_ok=True)
            file = f"{options.name}-{name}-{unit.replace('/', '-per-')}.svg"
            (RESULTS / file).write_text(plots.curves("CairnFS", axis, medians, unit))
    (RESULTS / f"{options.name}.md").write_text(text)
    print(text)
    return 0


def table(axis: str, unit: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """The points of one plot."""
    rows = [
        f"| {axis} | " + " | ".join(f"{line}, {unit}" for line in lines) + " |",
        "|--:|" + "--:|" * len(lines),
    ]
    for points in zip(*lines.values(), strict=True):
        rows.append(f"| {points[0][0]:,.0f} | " + " | ".join(f"{rate:,.1f}" for _, rate in points) + " |")
    return "\n".join(rows) + "\n\n"


def main() -> int:
    """Install what is missing, and run in the sandbox."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=CURVES, help="this curve (repeatable)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each point is measured (3)")
    parser.add_argument(
        "--large", action="store_true", help="files of 1 GiB and a directory of 100,000 entries"
    )
    parser.add_argument("--scratch", type=Path, default=Path("/var/tmp"), help="where data goes (/var/tmp)")
    parser.add_argument("--name", default=time.strftime("scale-%Y-%m-%d"), help="name of the result files")
    options = parser.parse_args()
    try:
        install([], options.scratch)
    except InstallError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    scratch = Path(tempfile.mkdtemp(prefix="cairnfs-scale-", dir=options.scratch))
    return sandbox.enter(scratch, lambda: run(options, scratch))


if __name__ == "__main__":
    sys.exit(main())
