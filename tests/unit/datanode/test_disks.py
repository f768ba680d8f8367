"""Several disks in one datanode: each takes its share, and one that fails takes only its own chunks."""

import errno
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

import pytest

from cairnfs.base import limits
from cairnfs.base.clock import ManualClock
from cairnfs.base.errors import CairnError
from cairnfs.datanode.disks.array import DiskArray
from cairnfs.datanode.disks.health import FAILED, GOOD, READ_ONLY
from cairnfs.datanode.store.interface import ChunkWriter, SmallChunk
from cairnfs.datanode.store.local import LocalChunkStore
from cairnfs.datanode.store.requests import RequestLog
from cairnfs.rpc.v1 import common_pb2 as pb, nodes_pb2
from tests.contract.test_chunk_store import LARGE, content, get, put

NAMES = "abc"
pytestmark = pytest.mark.announces_warnings("disk failed", "disk takes no more chunks", "disk cannot be used")


class Breakable(LocalChunkStore):
    """A store whose disk can be broken."""

    def __init__(self, rig: "Rig", root: Path, requests: RequestLog) -> None:
        super().__init__(root, rig.capacity_bytes, 0, requests)
        self._rig = rig
        self._name = root.name

    def _check(self) -> None:
        if self._name in self._rig.broken:
            raise CairnError(pb.ERROR_CODE_IO, "Input/output error")

    def store_batch(self, chunks: Sequence[SmallChunk]) -> list[Exception | None]:
        self._check()
        return super().store_batch(chunks)

    def open(self, chunk_id: bytes, length: int, *, keep_in_memory: bool = True) -> ChunkWriter:  # type: ignore[override]
        self._check()
        return super().open(chunk_id, length, keep_in_memory=keep_in_memory)

    def read(self, chunk_id: bytes, offset: int, length: int) -> tuple[memoryview, int]:
        self._check()
        return super().read(chunk_id, offset, length)


class Rig:
    """Three disks below one directory, and what their probes say."""

    def __init__(self, root: Path, capacity_bytes: int = 1 << 30) -> None:
        self.root = root
        self.capacity_bytes = capacity_bytes
        self.clock = ManualClock()
        self.broken: set[str] = set()
        self.probes: dict[str, OSError] = {}
        self.changes = 0
        self.problems = dict.fromkeys(NAMES, "")
        self.array = self.open()

    def open(self) -> DiskArray:
        for name in NAMES:
            (self.root / name).mkdir(exist_ok=True)
        return DiskArray(
            [(self.root / name, name, self.problems[name]) for name in NAMES],
            lambda root, log: Breakable(self, root, log),
            self.clock,
            Random(1),
            self._changed,
            lambda root, _device: self.probes.get(root.name),
        )

    def reopen(self) -> None:
        self.array.close()
        self.array = self.open()

    def _changed(self) -> None:
        self.changes += 1

    def states(self) -> dict[str, int]:
        return {report.disk: report.state for report in self.array.disks()}

    def disk_of(self, chunk_id: bytes) -> str:
        holding = [
            report.disk
            for report, store in zip(self.array.disks(), self.stores(), strict=True)
            if report.state != FAILED and store.length(chunk_id) is not None
        ]
        assert len(holding) == 1
        return holding[0]

    def stores(self) -> list[Breakable]:
        return [member.store for member in self.array._members]  # type: ignore[misc]

    def fill(self, count: int = 24) -> dict[bytes, bytes]:
        """Store small and large chunks."""
        sizes = [1_000, LARGE]
        contents = [content(sizes[seed % 2], seed) for seed in range(count)]
        return {put(self.array, data): data for data in contents}

    def fail(self, name: str, number: int) -> None:
        self.probes[name] = OSError(number, "as told by the test")
        self.clock.advance(limits.DISK_PROBE_S)
        self.array.probe_disks()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.array.close()


def test_chunks_spread_over_all_disks_and_are_found_again(rig: Rig) -> None:
    stored = rig.fill()
    assert {rig.disk_of(chunk_id) for chunk_id in stored} == set(NAMES)
    rig.reopen()
    assert all(get(rig.array, chunk_id) == data for chunk_id, data in stored.items())
    assert [entry.chunk_id for entry in rig.array.list_chunks(b"", 1_000)] == sorted(stored)
    page = rig.array.list_chunks(b"", 5)
    rest = rig.array.list_chunks(page[-1].chunk_id, 1_000)
    assert [entry.chunk_id for entry in page + rest] == sorted(stored)
    assert rig.array.usage().chunks == len(stored)


def test_a_broken_disk_takes_only_its_own_chunks(rig: Rig) -> None:
    stored = rig.fill()
    lost = {chunk_id for chunk_id in stored if rig.disk_of(chunk_id) == "b"}
    rig.broken.add("b")
    rig.probes["b"] = OSError(errno.EIO, "Input/output error")
    with pytest.raises(CairnError) as caught:
        get(rig.array, min(lost))
    assert caught.value.code == pb.ERROR_CODE_IO
    assert rig.states() == {"a": GOOD, "b": FAILED, "c": GOOD}
    assert rig.changes == 1
    listed = {entry.chunk_id for entry in rig.array.list_chunks(b"", 1_000)}
    assert listed == set(stored) - lost
    assert all(get(rig.array, chunk_id) == stored[chunk_id] for chunk_id in listed)
    assert not rig.array.request(min(lost)), "a lost chunk must be stored anew"
    again = {put(rig.array, stored[chunk_id]) for chunk_id in lost}
    assert {rig.disk_of(chunk_id) for chunk_id in again} <= {"a", "c"}


def test_a_write_that_a_disk_refuses_goes_to_another(rig: Rig) -> None:
    rig.broken |= {"a", "b"}
    rig.probes = {name: OSError(errno.EIO, "broken") for name in "ab"}
    stored = rig.fill(4)
    assert {rig.disk_of(chunk_id) for chunk_id in stored} == {"c"}


def test_one_bad_sector_is_no_broken_disk_but_many_are(rig: Rig) -> None:
    stored = rig.fill()
    mine = [chunk_id for chunk_id in stored if rig.disk_of(chunk_id) == "a"]
    rig.broken.add("a")
    for _ in range(limits.DISK_ERRORS_MAX - 1):
        with pytest.raises(CairnError):
            get(rig.array, mine[0])
    assert rig.states()["a"] == GOOD
    with pytest.raises(CairnError):
        get(rig.array, mine[0])
    assert rig.states()["a"] == READ_ONLY
    rig.clock.advance(limits.DISK_PROBE_S)
    rig.array.probe_disks()
    assert rig.states()["a"] == READ_ONLY, "a probe that works does not make a worn disk good"


def test_a_disk_remounted_read_only_is_read_and_left(rig: Rig) -> None:
    stored = rig.fill()
    rig.fail("c", errno.EROFS)
    assert rig.states()["c"] == READ_ONLY
    leaving = {entry.chunk_id for entry in rig.array.list_chunks(b"", 1_000) if entry.leaving}
    assert leaving == {chunk_id for chunk_id in stored if rig.disk_of(chunk_id) == "c"}
    assert all(get(rig.array, chunk_id) == data for chunk_id, data in stored.items())
    one = min(leaving)
    assert not rig.array.request(one), "it has to be stored on a disk that stays"
    put(rig.array, stored[one])
    assert rig.disk_of(one) in "ab"
    assert not rig.array.usage().read_only
    del rig.probes["c"]
    rig.clock.advance(limits.DISK_PROBE_S)
    rig.array.probe_disks()
    assert rig.states()["c"] == GOOD


def test_a_full_disk_is_passed_over(tmp_path: Path) -> None:
    rig = Rig(tmp_path, capacity_bytes=3 * LARGE)
    stored = {put(rig.array, content(LARGE, seed)) for seed in range(6)}
    assert len(stored) == rig.array.usage().chunks
    assert {rig.disk_of(chunk_id) for chunk_id in stored} == set(NAMES)
    with pytest.raises(CairnError) as caught:
        put(rig.array, content(LARGE, 6))
    assert caught.value.code == pb.ERROR_CODE_NO_SPACE
    assert {report.info().state for report in rig.array.disks()} == {nodes_pb2.DISK_STATE_FULL}
    rig.array.close()


def test_a_disk_missing_at_the_start_is_explained(rig: Rig) -> None:
    stored = rig.fill()
    lost = {chunk_id for chunk_id in stored if rig.disk_of(chunk_id) == "a"}
    rig.problems["a"] = "is it mounted?"
    rig.reopen()
    assert rig.states() == {"a": FAILED, "b": GOOD, "c": GOOD}
    assert rig.array.disks()[0].info().detail == "is it mounted?"
    assert {entry.chunk_id for entry in rig.array.list_chunks(b"", 1_000)} == set(stored) - lost
    kept = {put(rig.array, stored[chunk_id]) for chunk_id in lost}
    rig.problems["a"] = ""
    rig.reopen()  # it is back, and has chunks that others have as well
    listed = [entry.chunk_id for entry in rig.array.list_chunks(b"", 1_000)]
    assert listed == sorted(stored)
    assert {rig.disk_of(chunk_id) for chunk_id in kept} <= set(NAMES), "one copy of each is left"


def test_a_chunk_moved_between_disks_stays_protected_from_older_deletions(rig: Rig) -> None:
    data = content(1_000)
    chunk_id = put(rig.array, data)
    before = rig.array.seq
    rig.fail(rig.disk_of(chunk_id), errno.EROFS)
    assert not rig.array.request(chunk_id)
    put(rig.array, data)
    assert rig.array.delete([chunk_id], before, rig.array.boot) == [chunk_id]
    assert rig.array.delete([chunk_id], rig.array.seq, rig.array.boot) == []
    assert rig.array.length(chunk_id) is None


def test_damage_is_replaced_on_the_same_disk(rig: Rig) -> None:
    data = content(LARGE)
    chunk_id = put(rig.array, data)
    home = rig.disk_of(chunk_id)
    path = rig.root / home / "chunks" / chunk_id.hex()[:2] / chunk_id.hex()
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(CairnError):
        rig.array.verify(chunk_id)
    assert not rig.array.request(chunk_id)
    put(rig.array, data)
    assert rig.disk_of(chunk_id) == home
    assert rig.array.verify(chunk_id) == LARGE


def test_packs_of_different_disks_have_different_numbers(rig: Rig) -> None:
    chunks = [put(rig.array, content(1_000, seed)) for seed in range(40)]
    packs: dict[str, set[int]] = {}
    for chunk_id in chunks:
        location = rig.array.locate(chunk_id, range(10**6))
        assert location.descriptor is None, "its pack is held"
        packs.setdefault(rig.disk_of(chunk_id), set()).add(location.pack)
    assert len(packs) == len(NAMES)
    assert len(set.union(*packs.values())) == sum(map(len, packs.values()))


def test_a_probe_writes_reads_and_sees_another_device(tmp_path: Path) -> None:
    from cairnfs.datanode.disks.probe import device_of, probe

    assert probe(tmp_path, device_of(tmp_path)) is None
    problem = probe(tmp_path, device_of(tmp_path) + 1)
    assert problem is not None
    assert problem.errno == errno.ENODEV
    missing = probe(tmp_path / "gone", 0)
    assert missing is not None
    assert missing.errno == errno.ENOENT
