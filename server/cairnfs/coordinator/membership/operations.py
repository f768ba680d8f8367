"""What clients ask of the membership on their session: where to store, how much room, a bad replica."""

from collections.abc import Sequence
from typing import Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.records import ChunkState
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_CHUNK_ID_BYTES: Final = 32


def membership_operations(manager: NodeManager, placer: Placer, upkeep: Upkeep) -> list[OperationSpec]:
    """plan_write, statfs and report_replica; all of them reads, run on the event loop."""

    def plan_write(txn: ReadTransaction, request: pb.PlanWrite, _env: Env) -> pb.PlanWriteReply:
        _check_plan(request)
        return pb.PlanWriteReply(
            plans=[
                _plan_chunk(txn, spec, request.exclude_nodes, manager, placer, upkeep)
                for spec in request.chunks
            ]
        )

    def statfs(txn: ReadTransaction, request: pb.StatFs, _env: Env) -> pb.StatFsReply:
        return space_reply(txn, manager, request.ino or limits.ROOT_INO)

    def report_replica(_txn: ReadTransaction, request: pb.ReportReplica, _env: Env) -> None:
        _check_chunk_id(request.chunk_id)
        upkeep.replica_reported(request.chunk_id, request.node)

    return [
        OperationSpec(name="plan_write", result="plan_write", run=plan_write),
        OperationSpec(name="statfs", result="statfs", run=statfs),
        OperationSpec(name="report_replica", result="", run=report_replica),
    ]


def space_reply(txn: ReadTransaction, manager: NodeManager, ino: int = limits.ROOT_INO) -> pb.StatFsReply:
    """Room and inodes as users of `ino` see them, after replication and as limits of its realms allow."""
    total, free = manager.space()
    inodes = usage.read(txn).inodes
    reply = pb.StatFsReply(
        total_bytes=total,
        free_bytes=free,
        inodes_used=inodes,
        inodes_free=max(0, limits.INODES_MAX - inodes),
    )
    inode = tree.find_inode(txn, ino)
    if inode is not None:
        space, room = usage.tightest(txn, inode.realm)
        if space is not None and space.limit < total:
            reply.total_bytes, reply.free_bytes = space.limit, min(free, space.left)
        if room is not None:
            reply.inodes_used, reply.inodes_free = room.limit - room.left, room.left
    return reply


def _plan_chunk(
    txn: ReadTransaction,
    spec: pb.ChunkSpec,
    exclude: Sequence[int],
    manager: NodeManager,
    placer: Placer,
    upkeep: Upkeep,
) -> pb.ChunkPlan:
    record = chunk_table.get_chunk(txn, spec.chunk_id)
    if record is not None and record.state == ChunkState.DELETING:
        raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, f"{spec.chunk_id.hex()} is being deleted")
    # A chunk whose holders are all dead or bad is stored anew: the writer has what the cluster lost.
    bad: list[int] = []
    if record is not None and record.references > 0:
        bad = [number for number in record.nodes if upkeep.doubts.is_bad(number, spec.chunk_id)]
        if any(manager.is_alive(number) for number in record.nodes if number not in bad):
            return pb.ChunkPlan(chunk_id=spec.chunk_id, stored=True)
    nodes = placer.place(spec.length, manager.replicas, exclude=[*exclude, *bad])
    if len(nodes) < manager.replicas:
        upkeep.note_short_plan()
    return pb.ChunkPlan(chunk_id=spec.chunk_id, nodes=nodes)


def _check_plan(request: pb.PlanWrite) -> None:
    if len(request.chunks) > limits.PLAN_CHUNKS_MAX:
        raise _invalid(f"more than {limits.PLAN_CHUNKS_MAX} chunks in one plan")
    for spec in request.chunks:
        _check_chunk_id(spec.chunk_id)
        if not 0 < spec.length <= limits.CHUNK_MAX_BYTES:
            raise _invalid(f"a chunk of {spec.length} bytes")


def _check_chunk_id(chunk_id: bytes) -> None:
    if len(chunk_id) != _CHUNK_ID_BYTES:
        raise _invalid(f"a chunk id of {len(chunk_id)} bytes")


def _invalid(detail: str) -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_INVALID, detail)
