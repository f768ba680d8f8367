"""What clients ask: plans, room, and bad replicas."""

from typing import Any

import pytest

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ROOT_INO
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.operations import membership_operations
from cairnfs.coordinator.namespace import usage
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.records import Realm
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.upkeep.simulation import LENGTH, Cluster


def ask(cluster: Cluster, name: str, request: Any) -> Any:
    """Run one operation as the conductor would."""
    specs = {
        spec.name: spec for spec in membership_operations(cluster.manager, cluster.placer, cluster.upkeep)
    }
    spec: Any = specs[name]
    assert not spec.mutates
    env = Env(pb.Caller(), cluster.clock.wall_ns())
    return cluster.store.read(lambda txn: spec.run(txn, request, env))


def plan(cluster: Cluster, chunk: bytes, *exclude: int, length: int = LENGTH) -> pb.ChunkPlan:
    """Plan one chunk."""
    request = pb.PlanWrite(chunks=[pb.ChunkSpec(chunk_id=chunk, length=length)], exclude_nodes=exclude)
    reply: pb.PlanWriteReply = ask(cluster, "plan_write", request)
    (one,) = reply.plans
    return one


def test_an_unknown_chunk_is_placed() -> None:
    cluster = Cluster(nodes=3)
    answer = plan(cluster, b"x" * 32, 2)
    assert not answer.stored
    assert sorted(answer.nodes) == [1, 3]


def test_a_referenced_chunk_is_stored_already() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    assert plan(cluster, chunk) == pb.ChunkPlan(chunk_id=chunk, stored=True)


def test_garbage_is_stored_anew() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    cluster.unlink(chunk)
    assert plan(cluster, chunk).nodes


def test_a_chunk_being_deleted_is_to_be_tried_again() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    cluster.unlink(chunk)
    cluster.change(lambda txn: chunk_table.mark_deleting(txn, chunk))
    with pytest.raises(CairnError) as refused:
        plan(cluster, chunk)
    assert refused.value.retryable


@pytest.mark.announces_warnings("datanode changed state")
def test_a_chunk_that_only_dead_nodes_hold_is_stored_anew() -> None:
    cluster = Cluster(nodes=3)
    chunk = cluster.write("chunk", [1])
    cluster.nodes[1].up = False
    cluster.run(40)
    assert sorted(plan(cluster, chunk).nodes) == [2, 3]


@pytest.mark.announces_warnings("replica is corrupt", "no good replica is left")
def test_a_chunk_of_which_only_bad_copies_are_left_is_stored_elsewhere() -> None:
    cluster = Cluster(nodes=3)
    chunk = cluster.write("chunk", [1])
    cluster.upkeep.doubts.found_bad(chunk, 1)
    cluster.step()
    assert sorted(plan(cluster, chunk).nodes) == [2, 3]


@pytest.mark.parametrize(("chunk", "length"), [(b"short", 1), (b"x" * 32, 0), (b"x" * 32, 1 << 30)])
def test_malformed_plans_are_refused(chunk: bytes, length: int) -> None:
    with pytest.raises(CairnError) as refused:
        plan(Cluster(), chunk, length=length)
    assert refused.value.code == common_pb2.ERROR_CODE_INVALID


def test_a_plan_of_too_many_chunks_is_refused() -> None:
    spec = pb.ChunkSpec(chunk_id=b"x" * 32, length=1)
    with pytest.raises(CairnError):
        ask(Cluster(), "plan_write", pb.PlanWrite(chunks=[spec] * (limits.PLAN_CHUNKS_MAX + 1)))


def test_statfs_tells_room_after_replication_and_inodes() -> None:
    cluster = Cluster(nodes=4)
    cluster.change(lambda txn: usage.save_realm(txn, ROOT_INO, Realm(0, used_inodes=7)))
    reply: pb.StatFsReply = ask(cluster, "statfs", pb.StatFs())
    assert reply.total_bytes == 20_000_000
    assert reply.free_bytes == 20_000_000
    assert reply.inodes_used == 7
    assert reply.inodes_free == limits.INODES_MAX - 7


def test_a_reported_replica_is_verified_by_its_node() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    assert ask(cluster, "report_replica", pb.ReportReplica(chunk_id=chunk, node=1, corrupt=True)) is None
    ask(cluster, "report_replica", pb.ReportReplica(chunk_id=chunk, node=99))
    (task,) = cluster.beat(cluster.nodes[1]).tasks
    assert task.verify.limit == 1
    assert cluster.nodes[1].verify(task.verify).last == chunk


@pytest.mark.announces_warnings("replica is missing")
def test_a_missing_replica_is_dropped_when_its_node_confirms_it() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    cluster.run(2)
    del cluster.nodes[1].chunks[chunk]
    ask(cluster, "report_replica", pb.ReportReplica(chunk_id=chunk, node=1))
    cluster.run(10)
    record = cluster.record(chunk)
    assert record is not None
    assert cluster.holders(chunk) == set(record.nodes)
    assert len(record.nodes) == 2


def test_a_short_plan_is_looked_at_again_when_a_node_comes_up() -> None:
    cluster = Cluster(nodes=2)
    cluster.run(5)
    cluster.nodes[2].up = False
    cluster.run(15)  # suspect
    nodes = list(plan(cluster, b"x" * 32).nodes)
    assert nodes == [1]
    cluster.nodes[1].store(b"x" * 32)
    cluster.commit(b"x" * 32, nodes)
    cluster.nodes[2].up = True
    cluster.run(10)
    assert cluster.holders(b"x" * 32) == {1, 2}
