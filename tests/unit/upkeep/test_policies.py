"""Replica counts of directories: honoured for what is written, carried out for what is stored."""

import pytest

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id as name_of
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace.extents import ExtentEditor
from cairnfs.coordinator.records import BlockSlice, Inode, Realm, RealmState, Wish
from cairnfs.coordinator.upkeep.figures import upkeep_status
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import nodes_pb2
from tests.unit.upkeep.simulation import LENGTH, Cluster

ROOT, ARCHIVE, SCRATCH = 1, 2, 3


class Files:
    """A cluster with a root realm and two others, whose files are made without a namespace."""

    def __init__(self, nodes: int = 4) -> None:
        self.cluster = Cluster(nodes=nodes, grace_s=5.0)
        self._next_ino = 100
        for realm in (ROOT, ARCHIVE, SCRATCH):
            self.set_policy(realm, 0)

    def set_policy(self, realm: int, replicas: int, state: RealmState = RealmState.ACTIVE) -> None:
        record = Realm(parent=0 if realm == ROOT else ROOT, replicas=replicas, state=state)
        self.cluster.change(lambda txn: txn.put(keys.realm(realm), record.encode()))

    def write(self, text: str, realm: int, nodes: tuple[int, ...] = (1, 2)) -> bytes:
        """A file of one chunk, stored on `nodes`, as CommitWrite makes it."""
        chunk = name_of(text.encode())
        for number in nodes:
            self.cluster.nodes[number].store(chunk)
        self._next_ino += 1
        ino = self._next_ino

        def commit(txn: Transaction) -> None:
            inode = Inode(0o100644, 0, 0, 1, 0, LENGTH, LENGTH, 0, 0, 0, 1, 0, 0, realm)
            txn.put(keys.inode(ino), inode.encode())
            editor = ExtentEditor(txn, ino)
            editor.lay(0, [BlockSlice(0, LENGTH, 0, chunk, LENGTH)])
            editor.finish(0, {chunk: nodes})

        self.cluster.change(commit)
        return chunk

    def wish(self, chunk: bytes) -> Wish:
        record = self.cluster.record(chunk)
        assert record is not None
        return record.wish

    def status(self) -> nodes_pb2.PolicyStatus:
        now = self.cluster.clock.monotonic()
        return self.cluster.store.read(lambda txn: upkeep_status(self.cluster.upkeep, txn, now)).policy

    def settle(self) -> nodes_pb2.PolicyStatus:
        """Run until a watcher would say that all is done, asking often."""
        for _ in range(600):
            status = self.status()
            if not status.running and not status.settling:
                return status
            self.cluster.run(0.2)
        raise AssertionError(f"never done: {status}")

    def counts(self, chunks: list[bytes]) -> set[int]:
        """How many replicas there are, on disks and in records."""
        self.cluster.run(90)
        assert all(set(r.nodes) == self.cluster.holders(c) for c in chunks if (r := self.cluster.record(c)))
        return {len(self.cluster.holders(chunk)) for chunk in chunks}


@pytest.fixture
def files() -> Files:
    return Files()


@pytest.mark.parametrize(
    ("wishes", "count"),
    [
        ([Wish(default=True)], 2),
        ([], 2),
        ([Wish(1)], 1),
        ([Wish(1), Wish(default=True)], 2),
        ([Wish(3), Wish(default=True), Wish(1)], 3),
    ],
)
def test_whoever_wants_most_decides(wishes: list[Wish], count: int) -> None:
    joined = Wish()
    for wish in wishes:
        joined = joined.joined(wish)
    assert joined.count(2) == count
    assert Wish.of_byte(joined.byte()) == joined


def test_what_is_written_into_a_directory_gets_its_replicas_at_once(files: Files) -> None:
    files.set_policy(ARCHIVE, 3)
    files.cluster.run(10)
    chunk = files.write("precious", ARCHIVE)
    plain = files.write("plain", ROOT)
    files.cluster.run(5)
    assert len(files.cluster.holders(chunk)) == 3, "repair does not wait for the next scan"
    assert files.counts([plain]) == {2}
    files.set_policy(SCRATCH, 1)
    cheap = files.write("cheap", SCRATCH, (1,))
    assert files.counts([cheap]) == {1}
    assert files.cluster.store.read(lambda txn: list(txn.scan(*keys.all_short_of_replicas()))) == []


def test_a_raised_and_a_lowered_count_are_carried_out(files: Files) -> None:
    chunks = [files.write(f"file {index}", ARCHIVE) for index in range(30)]
    other = [files.write(f"other {index}", ROOT) for index in range(5)]
    files.set_policy(ARCHIVE, 3)
    assert files.counts(chunks) == {3}
    files.set_policy(ARCHIVE, 1)
    assert files.counts(chunks) == {1}
    files.set_policy(ARCHIVE, 0)
    assert files.counts(chunks) == {2}
    assert files.counts(other) == {2}


@pytest.mark.parametrize(
    ("queue_max", "step_chunks"), [(limits.REPAIR_QUEUE_MAX, 1), (7, limits.SCAN_STEP_CHUNKS)]
)
def test_who_waits_is_told_neither_too_early_nor_never(
    files: Files, queue_max: int, step_chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that met a full repair queue half-way through a step once left the rest to the next one."""
    monkeypatch.setattr(limits, "REPAIR_QUEUE_MAX", queue_max)
    monkeypatch.setattr(limits, "SCAN_STEP_CHUNKS", step_chunks)
    chunks = [files.write(f"file {index}", ARCHIVE) for index in range(30)]
    files.cluster.run(60)
    for wanted in (3, 1, 4, 0):
        files.set_policy(ARCHIVE, wanted)
        assert files.status().running, "from the commit on"
        assert files.settle().surplus == 0
        assert {len(record.nodes) for c in chunks if (record := files.cluster.record(c))} == {wanted or 2}


def test_replicas_that_cannot_be_given_up_now_are_counted(files: Files) -> None:
    chunks = [files.write(f"file {index}", ARCHIVE) for index in range(5)]
    files.cluster.run(60)
    files.cluster.nodes[2].up = False
    files.cluster.run(limits.NODE_SUSPECT_S + 2)
    files.set_policy(ARCHIVE, 1)
    assert files.settle().surplus == 5
    files.cluster.nodes[2].up = True
    assert files.counts(chunks) == {1}
    assert files.status().surplus == 0


def test_a_chunk_that_several_directories_share_has_what_the_most_demanding_wants(files: Files) -> None:
    files.set_policy(ARCHIVE, 3)
    files.set_policy(SCRATCH, 1)
    shared = files.write("shared", SCRATCH)
    assert files.counts([shared]) == {1}
    files.write("shared", ARCHIVE)
    assert files.counts([shared]) == {3}
    files.write("shared", ROOT)
    files.set_policy(ARCHIVE, 1)
    assert files.counts([shared]) == {2}, "the file outside of all policies wants the usual number"


def test_a_directory_inherits(files: Files) -> None:
    files.set_policy(ROOT, 3)
    chunk = files.write("deep", ARCHIVE)
    assert files.counts([chunk]) == {3}


def test_nothing_is_walked_while_files_are_still_being_given_to_a_realm(files: Files) -> None:
    chunk = files.write("file", ARCHIVE)
    files.set_policy(ARCHIVE, 3, RealmState.TAGGING)
    assert files.counts([chunk]) == {2}
    files.set_policy(ARCHIVE, 3)
    assert files.counts([chunk]) == {3}


def test_a_walk_goes_on_where_it_was_and_takes_commits_in_between(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "POLICY_BLOCKS_PER_STEP", 3)
    monkeypatch.setattr(limits, "REPLICA_CHANGES_PER_COMMIT", 7)
    chunks = [files.write(f"file {index}", ARCHIVE) for index in range(40)]
    files.set_policy(ARCHIVE, 3)
    late: list[bytes] = []
    for index in range(12):
        files.cluster.run(1)
        late.append(files.write(f"late {index}", ARCHIVE))
        late.append(files.write(f"file {index}", SCRATCH))
        if index % 4 == 3:
            files.cluster.start()
    files.set_policy(SCRATCH, 4)
    assert files.counts(chunks[12:]) == {3}
    assert files.counts(late[1::2]) == {4}
    assert files.counts(late[::2]) == {3}
