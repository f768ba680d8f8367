"""Datanodes crash, freeze or fill up while files are written through a real mount."""

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from cairnfs.base.limits import MIB
from tests.cluster.harness import Cluster, Part
from tests.cluster.shared import assert_sound, eventually, run

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

COPY_MIB = 128
MEMORY_MAX_BYTES = 700 * MIB


def make_source(directory: Path, size_mib: int) -> Path:
    path = directory / "source"
    with path.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Copy:
    """`cp` and `sync` of one file in the background."""

    def __init__(self, source: Path, target: Path) -> None:
        self.target = target
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(source, target))
        self._thread.start()

    def _run(self, source: Path, target: Path) -> None:
        try:
            run("dd", f"if={source}", f"of={target}", "bs=1M", "conv=fsync", "status=none", timeout_s=200)
        except BaseException as error:  # noqa: BLE001 - whatever it was, `finish` raises it
            self._failure = error

    def wait_for_mib(self, size_mib: int) -> None:
        eventually(lambda: self.target.exists() and self.target.stat().st_size >= size_mib * MIB, "a copy")

    def finish(self) -> None:
        self._thread.join()
        if self._failure is not None:
            raise self._failure


def states(cluster: Cluster) -> list[str]:
    return sorted(node["state"] for node in cluster.command("nodes")["nodes"])


def wait_until_dead(cluster: Cluster) -> None:
    eventually(lambda: "dead" in states(cluster), "its death to be noticed")


def resident_bytes(part: Part) -> int:
    assert part.process is not None
    fields = Path(f"/proc/{part.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_copy_survives_the_crash_of_a_datanode(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(datanodes=3, lease_s="10")
    one, two = cluster.mount(), cluster.mount()
    source = make_source(tmp_path, COPY_MIB)
    copy = Copy(source, one.path / "copy")
    copy.wait_for_mib(COPY_MIB // 4)
    victim = cluster.datanodes[0]
    victim.kill()
    copy.finish()
    assert digest(two.path / "copy") == digest(source)
    wait_until_dead(cluster)
    assert_sound(cluster)  # on the two that are left

    victim.start()
    eventually(lambda: states(cluster) == ["healthy"] * 3, "its return")
    cluster.datanodes[1].kill()
    wait_until_dead(cluster)
    assert_sound(cluster)
    assert digest(one.path / "copy") == digest(source)


def test_writes_go_on_beside_a_frozen_datanode(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(datanodes=3, lease_s="10")
    one = cluster.mount()
    source = make_source(tmp_path, COPY_MIB)
    copy = Copy(source, one.path / "copy")
    copy.wait_for_mib(COPY_MIB // 4)
    cluster.datanodes[2].pause()
    copy.finish()
    for part in (one, *cluster.datanodes, cluster.coordinator):
        assert resident_bytes(part) < MEMORY_MAX_BYTES, part.name
    assert digest(one.path / "copy") == digest(source)
    cluster.datanodes[2].resume()
    assert_sound(cluster)


def save(path: Path, content: bytes) -> int:
    """Write, fsync and close; returns the errno that one of them gave, or 0."""
    result = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for step in (
        lambda: os.write(descriptor, content),
        lambda: os.fsync(descriptor),
        lambda: os.close(descriptor),
    ):
        try:
            step()
        except OSError as error:
            result = result or error.errno or 0
    return result


def test_full_datanodes_refuse_writes_and_lose_nothing(cluster: Cluster) -> None:
    cluster.start(datanodes=0, lease_s="10", garbage_grace_s="1")
    for _ in range(2):
        cluster.add_datanode(capacity_bytes=str(24 * MIB))
    one, two = cluster.mount(), cluster.mount()
    kept = os.urandom(6 * MIB)
    (one.path / "kept").write_bytes(kept)
    block = os.urandom(4 * MIB)
    results = [save(one.path / f"more-{number}", bytes([number]) + block) for number in range(10)]
    assert set(results) == {0, errno.ENOSPC}
    assert 5 <= results.count(errno.ENOSPC) < 10
    for number, result in enumerate(results):
        if result == 0:
            assert (two.path / f"more-{number}").read_bytes() == bytes([number]) + block
        else:
            (two.path / f"more-{number}").unlink()
    assert (two.path / "kept").read_bytes() == kept

    for _ in range(2):
        cluster.add_datanode()
    content = os.urandom(16 * MIB)

    again = two.path / "again"
    eventually(lambda: save(again, content) == 0, "space on the new datanodes")
    assert (one.path / "again").read_bytes() == content
    assert (one.path / "kept").read_bytes() == kept
    assert_sound(cluster)


def test_many_files_on_full_datanodes_are_refused_without_waiting(cluster: Cluster) -> None:
    """What could not be saved of closed files stays in memory; when that is full, others hear why."""
    cluster.start(datanodes=0, lease_s="10")
    for _ in range(2):
        cluster.add_datanode(capacity_bytes=str(8 * MIB))
    one = cluster.mount()
    block = os.urandom(3 * MIB)
    results = [save(one.path / f"file{number}", b"%03d" % number + block) for number in range(80)]
    assert set(results) == {0, errno.ENOSPC}
    assert set(results[8:]) == {errno.ENOSPC}
    run("rm", "-rf", *one.path.iterdir())
    assert list(one.path.iterdir()) == []
