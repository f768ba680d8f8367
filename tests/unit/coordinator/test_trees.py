"""Copying and removing trees, driven step by step: who is asked, and what a crash at any commit leaves."""

from collections.abc import Callable
from typing import Any

import pytest

from cairnfs.base.limits import FLUSH_ALL_S, SNAPSHOTS_REALM
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import copy_tree, remove_tree, snapshots, tree, tree_jobs, usage
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.engine.interface import EngineError, Operation, Outcome, Transaction
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import ROOT, Client, Cluster

Ask = Callable[[Cluster, list[pb.TreeProgress]], None]


@pytest.fixture
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two inodes in a transaction."""
    for module, name, value in (
        (copy_tree, "STEP_KEYS_MAX", 40),
        (copy_tree, "COPY_STEP_INODES", 2),
        (snapshots, "COPY_STEP_INODES", 2),
        (remove_tree, "REMOVE_STEP_ENTRIES", 2),
        (tree_jobs, "_LINKS_PER_STEP", 1),
    ):
        monkeypatch.setattr(module, name, value)


def make_tree(client: Client) -> int:
    """/top with a file in it, one below that with two names, and an empty directory."""
    top: int = client.ok(mkdir=pb.MkDir(parent=ROOT, name=b"top", mode=0o755)).entry.attr.ino
    sub: int = client.ok(mkdir=pb.MkDir(parent=top, name=b"sub", mode=0o755)).entry.attr.ino
    client.ok(mkdir=pb.MkDir(parent=sub, name=b"empty", mode=0o755))
    for parent, name, chunk in ((top, b"f", b"1"), (sub, b"g", b"2"), (sub, b"h", b"1")):
        ino = client.create(name, parent)
        stored = pb.StoredChunk(chunk_id=chunk * 32, length=10, nodes=[1, 2])
        one = common.Slice(offset=0, length=10, chunk_id=stored.chunk_id)
        client.ok(commit_write=pb.CommitWrite(ino=ino, slices=[one], chunks=[stored], size=10))
    client.ok(link=pb.Link(ino=ino, parent=top, name=b"h2"))
    return top


def snapshot(cluster: Cluster, told: list[pb.TreeProgress]) -> None:
    request = pb.MakeSnapshotRequest(path="/top", name=b"s")
    cluster.do(cluster.conductor.make_snapshot(request, told.append))


def clone(cluster: Cluster, told: list[pb.TreeProgress]) -> None:
    cluster.do(cluster.conductor.clone(pb.CloneTreeRequest(source="/top", target="/copy"), told.append))


def delete(cluster: Cluster, told: list[pb.TreeProgress]) -> None:
    request = pb.DeleteSnapshotRequest(path="/top", name=b"s")
    cluster.do(cluster.conductor.delete_snapshot(request, told.append))


def checked(cluster: Cluster) -> Checker:
    checker = Checker(2, lambda _node: True)
    while not cluster.engine.read(lambda txn: checker.step(txn, 1_000)):
        pass
    return checker


def faults(cluster: Cluster) -> list[str]:
    return list(checked(cluster).report.problems)


def references(cluster: Cluster) -> int:
    found = cluster.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 1_000))
    return sum(record.references for _, record in found)


def is_there(cluster: Cluster, path: str) -> bool:
    try:
        cluster.engine.read(lambda txn: tree.walk(txn, path))
    except Exception:  # noqa: BLE001 - whatever is in the way
        return False
    return True


@pytest.mark.announces_warnings("copy_of_tree_given_up")
@pytest.mark.usefixtures("_small_steps")
@pytest.mark.parametrize("ask", [snapshot, clone])
def test_a_crash_at_any_commit_leaves_a_whole_copy_or_none(ask: Ask) -> None:
    commits, was_whole = 0, False
    while True:
        cluster = Cluster()
        client = cluster.client("a")
        make_tree(client)
        client.message(goodbye=True)
        before, used = references(cluster), cluster.engine.read(usage.read)
        cluster.held = True
        told: list[pb.TreeProgress] = []
        ask(cluster, told)
        for _ in range(commits):
            if cluster.commits:
                cluster.commit_all()
            assert faults(cluster) == []
        over = not cluster.commits
        cluster.held = False
        cluster.restart()
        cluster.settle()
        path = "/copy" if ask is clone else "/top/.snap/s"
        whole = is_there(cluster, path)
        assert whole or not was_whole
        was_whole = whole
        assert cluster.engine.read(tree_jobs.scan) == []
        assert references(cluster) == before * (1 + whole)
        if whole:
            assert is_there(cluster, path + "/sub/empty")
            assert is_there(cluster, path + "/h2")
        else:
            assert cluster.engine.read(usage.read) == used
        assert faults(cluster) == []
        if over:
            assert told[-1].done
            break
        commits += 1
    assert commits > 6


@pytest.mark.usefixtures("_small_steps")
def test_a_crash_at_any_commit_of_a_removal_leaves_it_to_the_next_coordinator() -> None:
    commits = 0
    while True:
        cluster = Cluster()
        client = cluster.client("a")
        make_tree(client)
        client.message(goodbye=True)
        before, used = references(cluster), cluster.engine.read(usage.read)
        told: list[pb.TreeProgress] = []
        snapshot(cluster, told)
        assert told[-1].done
        cluster.held = True
        delete(cluster, told)
        for _ in range(commits):
            if cluster.commits:
                cluster.commit_all()
            assert faults(cluster) == []
        over = not cluster.commits
        cluster.held = False
        cluster.restart()
        cluster.settle()
        assert cluster.engine.read(tree_jobs.scan) == []
        if commits:
            assert not is_there(cluster, "/top/.snap")
            assert references(cluster) == before
            assert cluster.engine.read(usage.read) == used
        assert faults(cluster) == []
        if over:
            break
        commits += 1
    assert commits > 4


def test_everybody_saves_before_the_moment_and_nobody_loses_a_lease() -> None:
    cluster = Cluster()
    one, two = cluster.client("one"), cluster.client("two")
    cluster.client("reader", read_only=True)
    make_tree(one)
    held = cluster.conductor.context.leases.count(one.session_id)
    told: list[pb.TreeProgress] = []
    clone(cluster, told)
    asked = [[event.flush.id for event in client.events if event.HasField("flush")] for client in (one, two)]
    assert asked[0] == asked[1]
    [number] = asked[0]
    one.message(flushed=[pb.Flushed(id=number)])
    two.message(flushed=[pb.Flushed(id=number + 1)])  # of somebody else
    assert not told
    two.disconnect()
    two.events.clear()
    two.connect()
    assert [event.flush.id for event in two.events if event.HasField("flush")] == [number]
    two.message(flushed=[pb.Flushed(id=number)])
    for client in (one, two):
        while client.recalls:  # of the directory that gets a name
            assert {item.ino for item in client.answer().items} == {ROOT}
    assert told[-1].done
    assert told[-1].inodes == 6
    assert cluster.conductor.context.leases.count(one.session_id) == held


@pytest.mark.announces_warnings("session_fenced")
def test_who_cannot_save_is_named_and_nothing_is_made() -> None:
    cluster = Cluster()
    one = cluster.client("one")
    make_tree(one)
    for flushed, code in (
        (pb.Flushed(id=1, error=common.ERROR_CODE_NO_SPACE, detail="full"), common.ERROR_CODE_NO_SPACE),
        (None, common.ERROR_CODE_TIMED_OUT),
    ):
        told: list[pb.TreeProgress] = []
        snapshot(cluster, told)
        number = one.events[-1].flush.id
        if flushed is not None:
            flushed.id = number
            one.message(flushed=[flushed])
        else:
            cluster.heartbeats(FLUSH_ALL_S + 1, one)
        assert told[-1].error == code
        assert "one" in told[-1].detail
        assert not is_there(cluster, "/top/.snap")
    told = []
    snapshot(cluster, told)
    cluster.advance(30)  # its session ends
    assert told[-1].done


def repaired(cluster: Cluster) -> list[str]:
    """What fsck --repair mends, until it finds nothing more."""
    mended: list[str] = []
    for _ in range(8):
        checker = checked(cluster)
        if not checker.mends:
            return mended
        for mend in checker.mends:
            outcomes: list[Outcome] = []
            cluster.do(cluster.conductor.mend(mend, outcomes.append))
            assert outcomes[0].error is None
            mended.append(mend.finding)
    raise AssertionError(mended)


def test_a_snapshot_that_lost_its_name_is_found_again_and_can_be_deleted() -> None:
    cluster = Cluster()
    client = cluster.client("a")
    make_tree(client)
    client.message(goodbye=True)
    before = references(cluster)
    told: list[pb.TreeProgress] = []
    snapshot(cluster, told)
    home = cluster.engine.read(lambda txn: tree.walk(txn, "/top/.snap/s"))

    def damage(txn: Transaction) -> None:
        txn.delete(keys.dentry(home[-2], b"s"))
        txn.delete(keys.realm(SNAPSHOTS_REALM))

    cluster.engine.commit([Operation(damage)])
    assert len(repaired(cluster)) >= 3
    name = b"#%d" % home[-1]
    assert is_there(cluster, f"/lost+found/.snap/{name.decode()}/sub/empty")
    request = pb.DeleteSnapshotRequest(path="/lost+found", name=name)
    cluster.do(cluster.conductor.delete_snapshot(request, told.append))
    assert told[-1].done
    assert references(cluster) == before
    assert faults(cluster) == []


@pytest.mark.announces_warnings("copy_of_tree_given_up")
@pytest.mark.usefixtures("_small_steps")
def test_a_dump_of_a_half_made_copy_loads_without_it() -> None:
    cluster = Cluster()
    client = cluster.client("a")
    make_tree(client)
    client.message(goodbye=True)
    before = references(cluster)
    cluster.held = True
    snapshot(cluster, [])
    for _ in range(4):
        cluster.commit_all()
    other = MemoryEngine()
    with cluster.engine.snapshot() as view:
        loaded = dict(view.scan(b"", b"\xff"))
    assert any(job.inodes for _, job in cluster.engine.read(tree_jobs.scan))
    cluster.conductor.trees.close()

    def load(txn: Transaction) -> None:
        for key, value in loaded.items():
            txn.put(key, value)

    other.commit([Operation(load)])
    restored = Cluster(other)
    restored.settle()
    assert restored.engine.read(tree_jobs.scan) == []
    assert references(restored) == before
    assert faults(restored) == []


class Refusing:
    """An engine that refuses some commits as a whole, as one does whose server is away."""

    def __init__(self, cluster: Cluster) -> None:
        self._commit = cluster.engine.commit
        self.refused = 0
        self.turn = 0
        cluster.engine.commit = self.commit  # type: ignore[method-assign]

    def commit(self, operations: Any) -> list[Outcome]:
        self.turn += 1
        if self.turn % 2:
            self.refused += 1
            return [Outcome(error=EngineError("away")) for _ in operations]
        return self._commit(operations)


@pytest.mark.announces_warnings("orphan_not_reaped", "tree_not_removed")
@pytest.mark.usefixtures("_small_steps")
def test_what_the_engine_refuses_is_tried_again() -> None:
    cluster = Cluster()
    client = cluster.client("a")
    make_tree(client)
    client.message(goodbye=True)
    before = references(cluster)
    told: list[pb.TreeProgress] = []
    snapshot(cluster, told)
    engine = Refusing(cluster)
    engine.turn = 1
    delete(cluster, told)
    for _ in range(60):
        cluster.advance(0.25)
    assert engine.refused > 3
    assert told[-1].done
    assert references(cluster) == before
    assert faults(cluster) == []


@pytest.mark.usefixtures("_small_steps")
def test_a_clone_that_exceeds_a_quota_goes_again() -> None:
    cluster = Cluster()
    client = cluster.client("a")
    top = make_tree(client)
    client.message(goodbye=True)
    policies: list[pb.SetPolicyReply] = []
    cluster.do(
        cluster.conductor.set_policy(pb.SetPolicyRequest(path="/top", inodes_limit=9), policies.append)
    )
    cluster.settle()
    before, used = references(cluster), cluster.engine.read(lambda txn: usage.read(txn, top))
    told: list[pb.TreeProgress] = []
    request = pb.CloneTreeRequest(source="/top/sub", target="/top/again")
    cluster.do(cluster.conductor.clone(request, told.append))
    assert told[-1].error == common.ERROR_CODE_QUOTA
    assert references(cluster) == before
    assert cluster.engine.read(lambda txn: usage.read(txn, top)) == used
    snapshot(cluster, told)
    assert told[-1].done, "a snapshot counts in no quota of a directory"
    assert cluster.engine.read(lambda txn: usage.read(txn, SNAPSHOTS_REALM)).inodes == 7
    assert faults(cluster) == []
