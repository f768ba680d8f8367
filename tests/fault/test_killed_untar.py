"""kill -9 and SIGSTOP of a mount that unpacks an archive and replaces files: what is left is consistent.

ROUNDS (environment) says how often; the suite does five. `ROUNDS=50 pytest tests/fault/test_killed_untar.py`.
"""

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, Mount
from tests.cluster.shared import assert_sound
from tests.fault.killed_work import UNSYNCED_MAX_S, Replacer, Tar, check_tree, content_of, make_archive

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

LEASE_S = 2.0
FILES = 1_500
FILES_WHEN_STOPPED = 400
ROUNDS = int(os.environ.get("ROUNDS", "5"))
CALL_MAX_S = 60.0


class Round:
    """One mount at work in a directory of its own, and another that looks."""

    def __init__(self, cluster: Cluster, watcher: Mount, archive: Path, number: int) -> None:
        self.victim = cluster.mount()
        self.seen = watcher.path / f"round{number}"
        self.root = self.victim.path / f"round{number}"
        self.root.mkdir()
        (self.root / "tree").mkdir()
        self.replacers = [
            Replacer(self.root / "synced", sync=True),
            Replacer(self.root / "unsynced", sync=False),
        ]
        self.synced: set[int] = set()
        self._syncing = threading.Thread(target=self._sync_some, daemon=True)
        self._over = threading.Event()
        for replacer in self.replacers:
            replacer.start()
        self.tar = Tar(archive, self.root / "tree")
        self._syncing.start()

    def _sync_some(self) -> None:
        """fsync files that tar has finished, as somebody who wants them to last."""
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                done = sorted((self.root / "tree").glob("d*/e*/file*"))
                for path in done[-40:-20:5]:
                    number = int(path.name.removeprefix("file"))
                    if path.read_bytes() != content_of(number):
                        continue
                    for name in (path, path.parent):
                        opened = os.open(name, os.O_RDONLY)
                        try:
                            os.fsync(opened)
                        finally:
                            os.close(opened)
                    self.synced.add(number)
                self._over.wait(0.05)

    def end(self) -> int:
        """All work has ended, with errors or not; tar's exit status."""
        self._over.set()
        status = self.tar.ended(60)
        for replacer in self.replacers:
            replacer.stop(60)
        self._syncing.join(60)
        assert not self._syncing.is_alive(), "a call on the mount hangs"
        return status

    def check(self, watcher: Mount, stopped_s: float) -> None:
        """The other mount sees a consistent tree at once, and can work in it."""
        began = time.monotonic()
        (self.seen / "tree" / "another").write_bytes(b"at once")
        assert time.monotonic() - began < CALL_MAX_S
        check_tree(self.seen / "tree", self.synced)
        for replacer in self.replacers:
            replacer.check(self.seen / replacer.path.name, stopped_s)
        assert (self.seen / "tree" / "another").read_bytes() == b"at once"


def test_kill_in_the_middle_of_untar(cluster: Cluster, tmp_path: Path) -> None:
    archive = make_archive(tmp_path / "archive.tar", FILES)
    rng = random.Random(os.environ.get("SEED", "1"))
    cluster.start(datanodes=2, lease_s=str(LEASE_S), garbage_grace_s="5")
    watcher = cluster.mount()
    for number in range(ROUNDS):
        work = Round(cluster, watcher, archive, number)
        time.sleep(rng.uniform(0.2, 1.5))
        if number % 2:
            list((work.seen / "tree").glob("*/*"))  # takes leases from it shortly before
        stopped_s = time.monotonic()
        work.victim.signal(signal.SIGKILL)
        work.check(watcher, stopped_s)
        work.victim.discard()
        work.end()
    assert_sound(cluster)


def test_a_mount_stopped_for_longer_than_its_lease_reports_what_it_lost(
    cluster: Cluster, tmp_path: Path
) -> None:
    archive = make_archive(tmp_path / "archive.tar", FILES_WHEN_STOPPED)
    cluster.start(datanodes=2, lease_s=str(LEASE_S), garbage_grace_s="5")
    watcher = cluster.mount()
    work = Round(cluster, watcher, archive, 0)
    time.sleep(0.5)
    held = (work.root / "held").open("wb", buffering=0)
    held.write(b"unsent" * 100)
    stopped_s = time.monotonic()
    work.victim.pause()
    work.check(watcher, stopped_s)
    before = {
        path: path.read_bytes() for path in work.seen.rglob("*") if path.is_file() and "sync" not in path.name
    }
    time.sleep(LEASE_S * 1.5)
    work.victim.resume()
    with contextlib.suppress(OSError), held:  # the loss may be told by fsync, or later by close
        os.fsync(held.fileno())
        assert (work.seen / "held").read_bytes() == b"unsent" * 100, "lost without an error"
    work.end()
    # Whatever it says from now on, it neither undoes nor mixes what others have seen.
    for path, content in before.items():
        assert path.read_bytes() == content or (path.read_bytes()).startswith(content), path
    check_tree(work.seen / "tree", work.synced)
    for replacer in work.replacers:
        replacer.check(work.seen / replacer.path.name, stopped_s - UNSYNCED_MAX_S)
    after = work.root / "after"
    after.write_bytes(b"works again")
    assert (work.seen / "after").read_bytes() == b"works again"
    assert_sound(cluster)
