"""Batches that meet recalls, reads, lost connections and crashes."""

from collections.abc import Sequence

import pytest

from cairnfs.engine.interface import EngineError, Operation, Outcome
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import ROOT, Cluster
from tests.unit.coordinator.journals import (
    directory,
    errors,
    kind,
    make,
    reserve,
    send,
    settle,
    write,
)

NONE, READ, WRITE = pb.LEASE_KIND_NONE, pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE
CONFLICT = common.ERROR_CODE_CONFLICT


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# ---------------------------------------------------------------------- races


def test_a_batch_runs_although_its_lease_is_being_recalled(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    seq = b.send(readdir=pb.ReadDir(ino=parent))
    assert a.recalls
    settle(a, make(parent, b"f", ino))
    assert seq not in b.replies
    a.answer()
    # What the batch made is leased, too: its maker may have changed it further.
    assert seq not in b.replies
    a.answer()
    assert [found.name for found in b.replies[seq].readdir.entries] == [b"f"]


def test_after_the_recall_is_answered_the_batch_is_refused(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    b.send(readdir=pb.ReadDir(ino=parent))
    a.answer()
    assert errors(a.ok(batch=pb.Batch(entries=[make(parent, b"f", ino)])).batch) == {0: CONFLICT}


def test_a_recall_during_a_batch_waits_for_its_holder_not_for_the_batch(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.held = True
    batch = send(a, make(parent, b"f", ino))
    made = b.send(mkdir=pb.MkDir(parent=parent, name=b"f", mode=0o755))
    assert len(cluster.commits) == 1
    cluster.commit_all()
    assert a.replies[batch].batch.executed == 1
    a.answer()
    cluster.settle()
    assert b.replies[made].error == common.ERROR_CODE_EXISTS


def test_what_a_batch_has_committed_and_not_reported_is_its_makers(cluster: Cluster) -> None:
    """b finds the new file between commit and report; its maker may have changed it in memory by then."""
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.held = True
    seq = send(a, make(parent, b"f", ino))
    (commit,) = cluster.commits
    cluster.commits.clear()
    outcomes = [(commit.token, outcome) for outcome in cluster.engine.commit([commit.operation])]
    found = b.send(get_attr=pb.GetAttr(ino=ino))
    assert found not in b.replies, "answered from the snapshot, although a may know better"
    (item,) = a.recalls[0].items
    assert (item.ino, item.keep) == (ino, READ)
    cluster.do(cluster.conductor.committed(outcomes))
    assert a.replies[seq].batch.executed == 1
    a.answer()
    assert b.replies[found].attr.attr.ino == ino


def test_a_look_up_from_before_the_lease_is_answered_without_one(cluster: Cluster) -> None:
    """It waits for another file; what was leased meanwhile it need not see, and must not cache."""
    a, b, c = cluster.client("a"), cluster.client("b"), cluster.client("c")
    parent = a.ok(mkdir=pb.MkDir(parent=ROOT, name=b"d", mode=0o755)).entry.attr.ino
    shown = c.send(mknod=pb.MkNod(parent=parent, name=b"busy", mode=0o100644, open=True))
    a.answer()
    busy = c.replies[shown].entry.attr.ino
    seq = b.send(lookup=pb.Lookup(parent=parent, name=b"busy"))
    upgrade = a.send(upgrade=pb.Upgrade(directory=parent))
    c.recalls.rotate(1)
    c.answer()  # the directory
    assert a.replies[upgrade].upgrade.granted
    while c.recalls:
        c.answer(still_open=(busy,))
    reply = b.replies[seq]
    assert reply.entry.attr.ino == busy
    assert not reply.entry.parent_leased


def test_a_fenced_session_loses_its_batch_or_has_it_seen(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.held = True
    send(a, make(parent, b"f", ino))
    seq = b.send(readdir=pb.ReadDir(ino=parent))
    a.message(goodbye=True)
    cluster.settle()
    assert [found.name for found in b.replies[seq].readdir.entries] == [b"f"]
    assert cluster.conductor.context.leases.holders(ino) == (b.session_id,)


# ---------------------------------------------------------------------- exactly once


def test_a_batch_sent_again_is_answered_from_its_record(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, *_) = directory(a), reserve(a)
    entries = (make(parent, b"f", ino), write(ino), make(parent, b"f", ino + 1))
    seq = send(a, *entries)
    first = a.replies.pop(seq)
    assert errors(first.batch) == {2: common.ERROR_CODE_EXISTS}
    a.disconnect()
    a.connect(write_leases=[ROOT, parent, ino])
    send(a, *entries, seq=seq)
    assert a.replies[seq] == first


def test_a_crash_between_commit_and_reply_is_not_noticed(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.held = True
    seq = send(a, make(parent, b"f", ino))
    (commit,) = cluster.commits
    cluster.engine.commit([commit.operation])
    cluster.held = False
    cluster.restart()
    a.connect(write_leases=[parent, ino])
    assert a.welcome is not None
    assert not a.welcome.lost_write_leases
    send(a, make(parent, b"f", ino), seq=seq)
    assert a.replies[seq].batch.executed == 1, "everything is reclaimed: it need not wait for b"
    assert kind(cluster, a, ino) == WRITE
    b.connect()
    found = b.send(lookup=pb.Lookup(parent=parent, name=b"f"))
    a.answer()
    assert b.replies[found].entry.attr.ino == ino


def test_a_crash_before_the_commit_is_not_noticed_either(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.held = True
    seq = send(a, make(parent, b"f", ino))
    cluster.held = False
    cluster.restart()
    a.connect(write_leases=[parent, ino])
    send(a, make(parent, b"f", ino), seq=seq)
    assert a.replies[seq].batch.executed == 1
    assert not errors(a.replies[seq].batch)
    b.connect()
    assert kind(cluster, a, ino) == WRITE


def test_during_recovery_a_batch_waits_for_leases_that_were_not_reclaimed(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.restart()
    a.connect()
    seq = send(a, make(parent, b"f", ino))
    assert seq not in a.replies
    b.connect()
    assert errors(a.replies[seq].batch) == {0: CONFLICT}


def test_a_session_keeps_leases_on_inodes_that_it_has_not_sent_yet(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, *_) = directory(a), reserve(a)
    a.disconnect()
    a.connect(write_leases=[ROOT, parent, ino], open_inodes=[ino], open_for_write=[ino])
    assert a.welcome is not None
    assert list(a.welcome.lost_write_leases) == [ROOT]
    settle(a, make(parent, b"f", ino))
    assert kind(cluster, a, ino) == WRITE


def test_a_lease_that_somebody_else_has_is_lost_with_the_connection(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = b.create(b"f")
    a.disconnect()
    a.connect(write_leases=[ino])
    assert a.welcome is not None
    assert list(a.welcome.lost_write_leases) == [ino]


class _Full(MemoryEngine):
    """An engine whose disk is full for a while."""

    full = False

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        if self.full:
            return [Outcome(error=EngineError("disk full"))] * len(operations)
        return super().commit(operations)


def test_a_batch_that_the_engine_refuses_can_be_sent_again_as_another() -> None:
    engine = _Full()
    cluster = Cluster(engine)
    a = cluster.client("a")
    parent, (ino, *_) = directory(a), reserve(a)
    engine.full = True
    assert a.call(batch=pb.Batch(entries=[make(parent, b"f", ino)])).error == common.ERROR_CODE_UNAVAILABLE
    engine.full = False
    settle(a, make(parent, b"f", ino))


def test_saving_in_batches_gives_a_recall_more_time(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    for _ in range(2):
        cluster.heartbeats(8, b)
        settle(a, write(ino))
    assert seq not in b.replies
    assert a.end is None
    a.answer()
    assert seq in b.replies
