"""What is looked at while a soak runs, and afterwards: wrong bytes, memory, space, and the logs."""

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Final

from cairnfs.base.limits import MIB
from tests.cluster.harness import Mount, Part
from tests.soak.arena import Arena
from tests.soak.writers import Writer

MOUNT_MAX_BYTES: Final = 600 * MIB
SERVER_MAX_BYTES: Final = 400 * MIB
SAMPLE_S: Final = 1.0
READ_PAUSE_S: Final = 0.05
# What may be said at the level of warnings or errors while servers die, disks fill up and bits flip.
ANNOUNCED: Final = frozenset(
    {
        # of coordinators
        "replica is corrupt",
        "replica is missing",
        "no good replica is left",  # the other one is on a datanode that is down
        "disk of a datanode",
        "datanode changed state",
        "commit_failed",  # the database was killed
        "metadata engine failed",
        "upkeep waits for the metadata engine",
        # of datanodes
        "bad chunk",
        "replica dropped",
        "chunk not stored",  # the disk is full
        "could not compact packs",
        "not saved",
        # of mounts
        "bad replica",
        "lost the coordinator",
        "no contact with a coordinator; caches are not used",
        "operation failed",
        "writing behind failed; it is tried again",
        "changes cannot be saved now; they are tried again",
    }
)
REFUSALS: Final = (  # it was deposed, or its database was away when it began
    "cairnfs coordinator: the metadata engine failed",
    "cairnfs coordinator: the term of leadership ended",
    "cairnfs coordinator: postgresql:",
)


class Reader(threading.Thread):
    """Reads what the writers have acknowledged through another mount, and compares it."""

    def __init__(self, writers: list[Writer], root: Path, seed: int) -> None:
        super().__init__(name="reader", daemon=True)
        self.peeks = 0
        self.slowest_s = 0.0
        self.errors: list[OSError] = []
        self.wrong: list[str] = []
        self._writers = writers
        self._root = root
        self._rng = Random(f"reader {seed}")
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(READ_PAUSE_S):
            writer = self._rng.choice(self._writers)
            began_s = time.monotonic()
            try:
                writer.peek(self._root / writer.name, self._rng)
                self.peeks += 1
            except OSError as error:
                self.errors.append(error)
            except Exception as error:  # noqa: BLE001 - whatever it was, it is a finding
                self.wrong.append(f"{writer.name}: {error!r}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)

    def stop(self, patience_s: float) -> None:
        """Return when its last call has. AssertionError: it hangs, or something was wrong."""
        self._over.set()
        self.join(patience_s)
        assert not self.is_alive(), "a call on the mount that reads hangs"
        assert not self.wrong, self.wrong[:5]


class Gauge(threading.Thread):
    """Keeps the largest resident memory of every part, and of the space that datanodes take."""

    def __init__(self, arena: Arena) -> None:
        super().__init__(name="gauge", daemon=True)
        self.resident_bytes: Counter[str] = Counter()
        self.stored_bytes = 0
        self._arena = arena
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            for part in self._arena.parts:
                found = resident_bytes(part)
                self.resident_bytes[part.name] = max(found, self.resident_bytes[part.name])
            self.stored_bytes = max(self.stored_bytes, self._arena.stored_bytes())

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def check(self) -> None:
        """Nobody took more memory than allowed."""
        for part in self._arena.parts:
            bound = MOUNT_MAX_BYTES if isinstance(part, Mount) else SERVER_MAX_BYTES
            taken = self.resident_bytes[part.name]
            assert taken < bound, f"{part.name}: {taken / MIB:.0f} MiB resident"


def resident_bytes(part: Part) -> int:
    """The resident memory of a part; 0 when it does not run."""
    process = part.process
    if process is None:
        return 0
    try:
        fields = Path(f"/proc/{process.pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def unannounced(log: Path) -> list[str]:
    """Lines of a log that are no structured event, and warnings and errors that nobody expects."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            if not line.startswith(REFUSALS):
                found.append(line)
            continue
        if event["level"] in ("debug", "info"):
            continue
        if event["event"] not in ANNOUNCED:
            found.append(line)
    return found


def said(log: Path) -> Counter[str]:
    """How often which warning or error was logged."""
    counts: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("{") and '"level": "info"' not in line:
            counts[json.loads(line)["event"]] += 1
    return counts
