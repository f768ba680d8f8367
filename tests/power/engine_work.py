"""What the SQLite engine commits before a power cut, and what must be there after it.

Run `python -m tests.power.engine_work --seeds 1000` for more histories than the suite takes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from cairnfs.engine.interface import Operation, Transaction
from cairnfs.engine.sqlite import SqliteEngine
from tests.power.disk import Disk, read_in, write_out
from tests.power.many_seeds import try_many
from tests.power.recording import OsRecorder, RecordingVfs

COMMITS: Final = 25
CHECKPOINT_PAGES: Final = 8  # so few that cuts hit checkpoints and restarts of the log too
FILE: Final = "metadata.sqlite"
_UNRECORDED: Final = (f"{FILE}-shm", f"{FILE}.lock")  # rebuilt by whoever opens the database; empty
_CUTS: Final = 6

Content = dict[bytes, bytes]


def _change(changes: dict[bytes, bytes | None]) -> Callable[[Transaction], None]:
    def body(txn: Transaction) -> None:
        for key, value in changes.items():
            if value is None:
                txn.delete(key)
            else:
                txn.put(key, value)

    return body


class EngineWork:
    """An engine on `disk` that commits at random; `states[n]` is its content after n commits."""

    def __init__(self, disk: Disk, vfs: RecordingVfs, rng: Random, content: Content) -> None:
        self._rng = rng
        self._disk = disk
        self._vfs = vfs
        self.states = [content]
        self._acknowledged: list[int] = []  # events of the disk when commit n had returned

    def run(self, commits: int) -> None:
        """Commit, and close and open the engine now and then."""
        engine = self._open()
        for _ in range(commits):
            if self._rng.random() < 0.1:
                engine.close()
                engine = self._open()
            changes: dict[bytes, bytes | None] = {}
            for _ in range(self._rng.randint(1, 12)):
                key = b"%04d" % self._rng.randrange(200)
                removed = self._rng.random() < 0.3
                changes[key] = None if removed else self._rng.randbytes(self._rng.choice((10, 300, 3_000)))
            content = {**self.states[-1]}
            for key, value in changes.items():
                content.pop(key, None)
                if value is not None:
                    content[key] = value
            self.states.append(content)
            outcomes = engine.commit([Operation(_change(changes))])
            assert outcomes[0].error is None
            self._acknowledged.append(len(self._disk.events))
        engine.close()

    def _open(self) -> SqliteEngine:
        return SqliteEngine(self._disk.root / FILE, vfs=self._vfs.name, checkpoint_pages=CHECKPOINT_PAGES)

    def allowed_at(self, point: int) -> list[Content]:
        """What may be there when the power goes after `point` events: what was acknowledged, or one more."""
        done = sum(at <= point for at in self._acknowledged)
        return self.states[done : done + 2]


def check_engine(root: Path, allowed: list[Content]) -> Content:
    """Open what a cut left; returns its content, which is one of `allowed`."""
    engine = SqliteEngine(root / FILE)
    found = engine.read(lambda txn: dict(txn.scan(b"", b"\xff")))
    engine.close()
    assert found in allowed, f"{len(found)} keys, not the {[len(one) for one in allowed]} of a whole commit"
    return found


def run_seed(seed: int, directory: Path, lives: int = 3) -> int:
    """One history: `lives` runs of the engine, each ended by a cut that is tried at several points.

    Returns how many cuts were tried. AssertionError: a commit was lost, or half of one is there.
    """
    rng = Random(seed)
    vfs = RecordingVfs(f"recording-{seed}")
    root = directory / "0"
    root.mkdir()
    content: Content = {}
    cuts = 0
    try:
        for life in range(lives):
            vfs.disk = disk = Disk(root)
            work = EngineWork(disk, vfs, rng, content)
            with OsRecorder(disk):
                work.run(COMMITS)
            whole, there = disk.whole(), read_in(root)
            for name in _UNRECORDED:
                whole.pop(name, None)
                there.pop(name, None)
            assert whole == there, "something was changed that was not recorded"
            for _ in range(_CUTS):
                cuts += 1
                point = rng.randint(0, len(disk.events))
                left = directory / f"{life + 1}"
                shutil.rmtree(left, ignore_errors=True)
                write_out(disk.after_cut(point, rng), left)
                content = check_engine(left, work.allowed_at(point))
            root = left
    finally:
        vfs.unregister()
    return cuts


def main() -> None:
    """Try many seeds."""
    try_many(run_seed, __doc__, "no commit lost or torn")


if __name__ == "__main__":
    main()
