"""How long a takeover takes under load: four mounts work while the leading coordinator of three is killed.

    python -m bench.failover [--rounds 5] [--lease 10] [--calm 20] [--directory /var/tmp]

As root, with PostgreSQL installed. Every client writes small files with fsync, and looks at them. Prints
for each round the time from the kill to the end of the last call that had to wait for the next leader, in
lease times; and the 99th percentile of all calls that fell neither into that time nor into the start of a
new standby, as a multiple of the one before the first kill.
"""

import argparse
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.soak.arena import Arena, Coordinator

CLIENTS = 4
COORDINATORS = 3
GRACE_S = 900.0
CONTENT = b"0123456789abcdef" * 256
THINK_S = 0.02
SETTLE_S = 3.0  # for a coordinator to start and stand by
PATIENCE_S = 120.0


@dataclass(slots=True)
class Worker:
    """One program on one mount, and when each of its calls began and ended."""

    directory: Path
    calls: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    errors: list[OSError] = field(default_factory=list[OSError])
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Work until `over`."""
        number = 0
        while not self.over.wait(THINK_S):
            path = self.directory / f"{number % 100}"
            number += 1
            for call in (self._write, self._look):
                began_s = time.monotonic()
                try:
                    call(path)
                except OSError as error:
                    self.errors.append(error)
                self.calls.append((began_s, time.monotonic()))

    def _write(self, path: Path) -> None:
        with path.open("wb") as file:
            file.write(CONTENT)
            file.flush()
            os.fsync(file.fileno())

    def _look(self, path: Path) -> None:
        assert path.read_bytes() == CONTENT

    def waited_until(self, killed_s: float) -> float:
        """The end of the longest call that was under way at `killed_s`, or began later; 0: none ended yet."""
        later = [(end - max(begin, killed_s), end) for begin, end in self.calls if end > killed_s]
        return max(later)[1] if later and self.calls[-1][0] > killed_s + 1.0 else 0.0


def leader(coordinators: Sequence[Coordinator]) -> Coordinator | None:
    """The one that listens."""
    for one in coordinators:
        host, _, port = one.address.rpartition(":")
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, int(port))) == 0:
                return one
    return None


def take_over(arena: Arena, workers: Sequence[Worker], rng: Random) -> tuple[float, float]:
    """Kill the leader; when, and when the last client could go on (monotonic seconds)."""
    time.sleep(rng.uniform(0.0, arena.lease_s / 2))  # at any point between two renewals
    victim = leader(arena.coordinators)
    assert victim is not None
    assert victim.process is not None
    killed_s = time.monotonic()
    os.kill(victim.process.pid, signal.SIGKILL)
    deadline_s = killed_s + PATIENCE_S
    while not all(worker.waited_until(killed_s) for worker in workers):
        assert time.monotonic() < deadline_s, "nobody took over"
        time.sleep(0.1)
    return killed_s, max(worker.waited_until(killed_s) for worker in workers)


def start_again(coordinators: Sequence[Coordinator]) -> tuple[float, float]:
    """Start those that were killed; from when to when that took CPU time that all share here."""
    began_s = time.monotonic()
    for one in coordinators:
        if one.ended:
            one.kill()
            one.start()
    time.sleep(SETTLE_S)
    return began_s, time.monotonic()


def percentile_99(calls: Sequence[tuple[float, float]]) -> float:
    """Of how long they took, seconds."""
    return statistics.quantiles((end - begin for begin, end in calls), n=100)[98]


def outside(workers: Sequence[Worker], windows: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The calls that fall into none of the windows."""
    return [
        (begin, end)
        for worker in workers
        for begin, end in worker.calls
        if all(end < since or begin > until for since, until in windows)
    ]


def measure(arena: Arena, rounds: int, calm_s: float) -> None:
    """Print all figures."""
    mounts = [*arena.start(), *(arena.cluster.mount() for _ in range(CLIENTS - 2))]
    workers = []
    for number, mount in enumerate(mounts):
        directory = mount.path / f"client-{number}"
        directory.mkdir()
        workers.append(Worker(directory))
    threads = [threading.Thread(target=worker.run, daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    time.sleep(calm_s * rounds)
    calm = percentile_99(outside(workers, []))
    before = sum(len(worker.calls) for worker in workers)
    windows, starts, rng = [], [], Random(1)
    for number in range(rounds):
        since, until = take_over(arena, workers, rng)
        windows.append((since, until))
        taken = (until - since) / arena.lease_s
        print(f"round {number + 1}: {until - since:.1f} s, {taken:.2f} lease times", flush=True)
        starts.append(start_again(arena.coordinators))
        time.sleep(calm_s)
    for worker in workers:
        worker.over.set()
    for thread in threads:
        thread.join()
    rest = outside(workers, [(0.0, windows[0][0]), *windows, *starts])
    taken_s = [until - since for since, until in windows]
    print(f"takeover, lease times: median {statistics.median(taken_s) / arena.lease_s:.2f}, most ", end="")
    print(f"{max(taken_s) / arena.lease_s:.2f}")
    print(f"99th percentile of {before} calls before the first kill: {calm * 1e3:.0f} ms")
    ratio = percentile_99(rest) / calm
    print(f"99th percentile of {len(rest)} calls between takeovers: {ratio:.2f} times that")
    print(f"calls that failed: {sum(len(worker.errors) for worker in workers)}")


def main() -> int:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lease", type=float, default=10.0, help="seconds (10)")
    parser.add_argument("--calm", type=float, default=20.0, help="seconds of work after each kill (20)")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="for data (/var/tmp)")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="cairnfs-failover-", dir=options.directory))
    arena = Arena(directory, "postgres", COORDINATORS, options.lease, GRACE_S)
    try:
        measure(arena, options.rounds, options.calm)
    finally:
        arena.stop()
        shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
