"""What is done to a cluster while programs write to it: one thread per kind of victim, at random.

At most one datanode is down at a time, and bits are flipped on one datanode only, so that every promise still
holds: each chunk has a good replica, which may be out of reach for a while.
"""

import contextlib
import errno
import os
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from cairnfs.base.limits import MIB
from tests.cluster.harness import Part
from tests.soak.arena import Arena

FLIPS_MAX: Final = 10  # at a time
FLIPS_IN_ALL_MAX: Final = 60  # more, and the node would not be trusted any more
REPAIR_S: Final = 30.0  # for everything to be whole before bits are flipped


class Tormentor(ABC):
    """A thread that does harm and mends it, until told to stop. Everything is mended when `stop` returns."""

    pause_max_s: float  # between two harms

    def __init__(self, arena: Arena, seed: int) -> None:
        self.arena = arena
        self.rng = Random(f"{type(self).__name__} {seed}")
        self.done: Counter[str] = Counter()
        self._bug: Exception | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Return when everything is mended. Raises what kept it from going on."""
        self._over.set()
        self._thread.join()
        if self._bug is not None:
            raise self._bug

    def _run(self) -> None:
        try:
            while not self._over.wait(self.rng.uniform(0.0, self.pause_max_s)):
                harm = self.rng.choice(self.harms())
                name = harm.__name__.removeprefix("_")
                self._say(name)
                harm()
                self.done[name] += 1
                self._say(f"{name} is over")
        except Exception as error:  # noqa: BLE001 - whatever it was, `stop` raises it
            self._bug = error

    def _say(self, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {type(self).__name__}: {what}", flush=True)

    @abstractmethod
    def harms(self) -> list[Callable[[], None]]:
        """What may be done next; each returns when it is mended."""

    def _hold(self, least_s: float, most_s: float) -> None:
        """Let it last for a while."""
        self._over.wait(self.rng.uniform(least_s, most_s))

    def _kill(self, victim: Part) -> None:
        victim.kill()
        self._hold(0.0, 8.0)
        victim.start()

    def _stop_and_start(self, victim: Part) -> None:
        victim.stop()
        self._hold(0.0, 5.0)
        victim.start()

    def _pause(self, victim: Part) -> None:
        victim.pause()
        self._hold(0.2, 2.0 * self.arena.lease_s)
        victim.resume()


class OfDatanodes(Tormentor):
    """Kills, stops and pauses datanodes, fills the small disk, and flips bits of the last datanode."""

    pause_max_s = 6.0

    def harms(self) -> list[Callable[[], None]]:
        return [self._kill_a_datanode, self._stop_a_datanode, self._pause_a_datanode, self._fill, self._flip]

    def _victim(self) -> Part:
        return self.rng.choice(self.arena.cluster.datanodes)

    def _kill_a_datanode(self) -> None:
        self._kill(self._victim())

    def _stop_a_datanode(self) -> None:
        self._stop_and_start(self._victim())

    def _pause_a_datanode(self) -> None:
        self._pause(self._victim())

    def _fill(self) -> None:
        ballast = self.arena.small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            block = b"\0" * MIB
            with contextlib.suppress(OSError):
                while file.write(block) == MIB:
                    pass
        self._hold(2.0, 15.0)
        ballast.unlink()

    def _flip(self) -> None:
        root = self.arena.data_directories()[-1]
        found = [*root.glob("chunks/*/*"), *root.glob("packs/*")]
        sizes = {path: size for path in found if (size := _size_bytes(path))}
        if not sizes or self.done["flipped bits"] >= FLIPS_IN_ALL_MAX or not self._has_other_replicas():
            return
        paths = self.rng.choices(list(sizes), list(sizes.values()), k=self.rng.randint(1, FLIPS_MAX))
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                flip(path, self.rng.randrange(sizes[path] * 8))
                self.done["flipped bits"] += 1

    def _has_other_replicas(self) -> bool:
        """Wait a while until everything stored by now is stored elsewhere, too; whether it is."""
        deadline_s = time.monotonic() + REPAIR_S
        while time.monotonic() < deadline_s and not self._over.wait(1.0):
            with contextlib.suppress(AssertionError):  # when no coordinator answers now
                report = self.arena.cluster.command("fsck")
                if not report["under_replicated"] and not report["missing"]:
                    return True
        return False


class OfCoordinators(Tormentor):
    """Kills, stops and pauses coordinators, one at a time, and kills their database."""

    pause_max_s = 15.0

    def harms(self) -> list[Callable[[], None]]:
        harms = [self._kill_a_coordinator, self._stop_a_coordinator, self._pause_a_coordinator]
        return harms if self.arena.database is None else [*harms, self._kill_the_database]

    def _victim(self) -> Part:
        self.arena.restart_ended()
        return self.rng.choice(self.arena.coordinators)

    def _kill_a_coordinator(self) -> None:
        self._kill(self._victim())

    def _stop_a_coordinator(self) -> None:
        self._stop_and_start(self._victim())

    def _pause_a_coordinator(self) -> None:
        self._pause(self._victim())

    def _kill_the_database(self) -> None:
        database = self.arena.database
        assert database is not None
        database.kill()
        self._hold(0.0, 3.0)
        database.start()


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over in place."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        if byte := os.pread(descriptor, 1, bit // 8):
            os.pwrite(descriptor, bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
    finally:
        os.close(descriptor)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return 0
