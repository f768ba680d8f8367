"""A soak: programs write, everything else breaks and is mended, and in the end every promise is checked.

    python -m tests.soak [--minutes 20] [--engine sqlite|postgres] [--coordinators 3] [--seed N]

As root, from the top of the repository with the project installed. Needs about 2 GB below --directory.
Status 0 when everything that was acknowledged is there, no wrong byte was read, fsck finds nothing, memory
and space are bounded, no call hung, and no log says what it should not.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cairnfs.base.limits import FUSE_DEADLINE_S, MIB
from tests.cluster.harness import Mount
from tests.cluster.shared import assert_sound
from tests.soak.arena import ENGINES, Arena
from tests.soak.tormentor import OfCoordinators, OfDatanodes, Tormentor
from tests.soak.watch import Gauge, Reader, said, unannounced
from tests.soak.writers import LargeFiles, Writer, all_writers

LEASE_S = 5.0
GRACE_S = 70.0  # more than any call takes
PAUSE_S = 0.02  # between steps of a writer
LARGE_PAUSE_S = 1.0
HEAL_S = 180.0
STORED_MAX_BYTES = 4_096 * MIB
LEFT_MAX_BYTES = 2 * MIB  # of every datanode, when all files are gone


class Soak:
    """One run."""

    def __init__(self, arena: Arena, seed: int) -> None:
        self.arena = arena
        self.seed = seed
        self.findings: list[str] = []
        self.figures: dict[str, object] = {}

    def run(self, minutes: float) -> None:
        """All of it; what is wrong goes into `findings`."""
        one, two = self.arena.start()
        baseline_bytes = self.arena.stored_bytes()
        root = one.path / "soak"
        root.mkdir()
        writers = all_writers(root, self.seed)
        reader = Reader(writers, two.path / "soak", self.seed)
        gauge = Gauge(self.arena)
        tormentors: list[Tormentor] = [
            OfDatanodes(self.arena, self.seed),
            OfCoordinators(self.arena, self.seed),
        ]
        for writer in writers:
            writer.pause_s = LARGE_PAUSE_S if isinstance(writer, LargeFiles) else PAUSE_S
            writer.start()
        reader.start()
        gauge.start()
        for tormentor in tormentors:
            tormentor.start()
        deadline_s = time.monotonic() + minutes * 60
        while time.monotonic() < deadline_s and not reader.wrong:
            time.sleep(1.0)
        for tormentor in tormentors:
            self._try(tormentor.stop)
        self._try(self.arena.wait_until_healthy)
        for writer in writers:
            self._try(writer.stop)
        self._try(lambda: reader.stop(2 * FUSE_DEADLINE_S))
        self._try(lambda: self._check(writers, two))
        self._try(lambda: self._remove_all(root, baseline_bytes))
        gauge.stop()
        self._try(gauge.check)
        self._count(writers, reader, gauge, tormentors)
        self._try(self._end)
        self._read_logs()

    def _try(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:  # noqa: BLE001 - the rest is worth looking at as well
            self.findings.append(traceback.format_exc())
            print(self.findings[-1], flush=True)

    def _check(self, writers: list[Writer], reading: Mount) -> None:
        """What was promised is there, as the mount that read and a fresh one see it; and all is sound."""
        fresh = self.arena.cluster.mount()
        for mount in (reading, fresh):
            for writer in writers:
                self._try(partial(writer.check, mount.path / "soak" / writer.name))
        self.arena.cluster.wait_for(self._repaired, "the repair of damaged chunks", HEAL_S)
        assert_sound(self.arena.cluster, HEAL_S)

    def _repaired(self) -> bool:
        report = self.arena.cluster.command("fsck", "--verify-data")
        assert not report["missing"], report
        return not report["corrupt"] and not report["under_replicated"]

    def _remove_all(self, root: Path, baseline_bytes: int) -> None:
        """The space that datanodes take returns to what it was."""
        self.figures["stored at the end, MiB"] = self.arena.stored_bytes() // MIB
        subprocess.run(["rm", "-rf", root], check=True, timeout=HEAL_S)
        allowed_bytes = baseline_bytes + LEFT_MAX_BYTES * len(self.arena.cluster.datanodes)
        began_s = time.monotonic()
        try:
            self.arena.cluster.wait_for(
                lambda: self.arena.stored_bytes() <= allowed_bytes,
                "the space of removed files",
                HEAL_S + GRACE_S,
            )
        finally:
            self.figures["left when all files were gone, KiB"] = (
                self.arena.stored_bytes() - baseline_bytes
            ) // 1024
            self.figures["after, s"] = round(time.monotonic() - began_s)
        assert_sound(self.arena.cluster)

    def _count(
        self, writers: list[Writer], reader: Reader, gauge: Gauge, tormentors: list[Tormentor]
    ) -> None:
        for tormentor in tormentors:
            self.figures[type(tormentor).__name__] = dict(tormentor.done)
        for writer in writers:
            errors = Counter(error.strerror for error in writer.errors)
            told = (
                f"{writer.acknowledged} acknowledged, {dict(errors)} failed, slowest {writer.slowest_s:.1f} s"
            )
            self.figures[writer.name] = told
            if writer.slowest_s > FUSE_DEADLINE_S:
                self.findings.append(f"{writer.name}: a step took {writer.slowest_s:.0f} s")
        errors = Counter(error.strerror for error in reader.errors)
        self.figures["reads compared"] = (
            f"{reader.peeks}, {dict(errors)} failed, slowest {reader.slowest_s:.1f} s"
        )
        taken = {name: size // MIB for name, size in gauge.resident_bytes.items()}
        self.figures["resident at most, MiB"] = taken
        self.figures["stored at most, MiB"] = gauge.stored_bytes // MIB
        if gauge.stored_bytes > STORED_MAX_BYTES:
            self.findings.append(f"datanodes held {gauge.stored_bytes // MIB} MiB")

    def _end(self) -> None:
        took_s = self.arena.shut_down()
        self.figures["slowest to end"] = max(f"{s:04.1f} s {name}" for name, s in took_s.items())

    def _read_logs(self) -> None:
        counts: Counter[str] = Counter()
        for part in self.arena.parts:
            counts += said(part.log)
            if lines := unannounced(part.log):
                self.findings.append(f"{part.log.name}: {len(lines)} lines, first:\n" + "\n".join(lines[:3]))
        self.figures["said in the logs"] = dict(counts)


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(
        "python -m tests.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="of torment; checking comes on top (20)")
    parser.add_argument("--engine", choices=ENGINES, default="sqlite")
    parser.add_argument("--coordinators", type=int, help="1 with sqlite, 3 with postgres")
    parser.add_argument("--seed", type=int, help="random without it")
    parser.add_argument(
        "--directory", type=Path, default=Path("/var/tmp"), help="for data and logs (/var/tmp)"
    )
    options = parser.parse_args()
    coordinators = options.coordinators or (1 if options.engine == "sqlite" else 3)
    if options.engine == "sqlite" and coordinators > 1:
        parser.error("an embedded engine has one coordinator")
    seed = options.seed if options.seed is not None else random.randrange(1_000_000)
    directory = Path(tempfile.mkdtemp(prefix="cairnfs-soak-", dir=options.directory))
    print(f"seed {seed}, in {directory}", flush=True)
    soak = Soak(Arena(directory, options.engine, coordinators, LEASE_S, GRACE_S), seed)
    try:
        soak.run(options.minutes)
    finally:
        soak.arena.stop()
    for name, figure in soak.figures.items():
        print(f"{name}: {figure}")
    for finding in soak.findings:
        print(f"FOUND: {finding}")
    if soak.findings:
        print(f"seed {seed}: {len(soak.findings)} findings; the logs are in {directory}")
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
