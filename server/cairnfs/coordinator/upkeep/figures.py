"""The figures of upkeep for people: a few for `Status`, and all of them for `UpkeepStatus`."""

from dataclasses import dataclass

from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import nodes_pb2


@dataclass(frozen=True, slots=True)
class UpkeepFigures:
    """Counts for people; those of chunks are as of the last walk over all of them."""

    safe_mode: bool
    chunks: int
    garbage_chunks: int
    under_replicated: int
    repairs_running: int


def figures(upkeep: Upkeep) -> UpkeepFigures:
    """What upkeep knows now."""
    tally, repairer = upkeep.scanner.tally, upkeep.repairer
    return UpkeepFigures(
        safe_mode=upkeep.safe_mode.active,
        chunks=tally.chunks,
        garbage_chunks=tally.garbage,
        under_replicated=repairer.waiting + repairer.running,
        repairs_running=repairer.running,
    )


def upkeep_status(upkeep: Upkeep, txn: ReadTransaction, now: float) -> nodes_pb2.UpkeepStatusReply:
    """How everything is at `now` (monotonic seconds)."""
    return nodes_pb2.UpkeepStatusReply(
        repair=_repair(upkeep, now),
        drains=upkeep.drains.report(),
        rebalance=_rebalance(upkeep),
        policy=_policy(upkeep, txn),
        nodes=[
            nodes_pb2.NodeStatus(
                node=node.number,
                disks=node.disks,
                scrub=node.scrub,
                store_us=node.store_us,
                faults=upkeep.faults.count(node.number, now),
            )
            for node in upkeep.manager
        ],
    )


def _repair(upkeep: Upkeep, now: float) -> nodes_pb2.RepairStatus:
    repairer, copies = upkeep.repairer, upkeep.copies
    return nodes_pb2.RepairStatus(
        safe_mode=upkeep.safe_mode.active,
        queue=[nodes_pb2.RepairQueue(readable=n, chunks=chunks) for n, chunks in repairer.queue()],
        running=repairer.running,
        copied_chunks=copies.done_chunks,
        copied_bytes=copies.done_bytes,
        bytes_per_s=copies.rate.per_s(now),
        limit_bytes_per_s=repairer.bandwidth.bytes_per_s,
        node_limit_bytes_per_s=repairer.bandwidth.node_bytes_per_s,
    )


def _policy(upkeep: Upkeep, txn: ReadTransaction) -> nodes_pb2.PolicyStatus:
    repairer, scanner, policies = upkeep.repairer, upkeep.scanner, upkeep.policies
    return nodes_pb2.PolicyStatus(
        running=policies.is_behind(txn),
        phase=policies.phase,
        chunks=policies.chunks,
        settling=bool(
            upkeep.safe_mode.active
            or scanner.is_due
            or repairer.waiting
            or repairer.running
            or len(upkeep.changes)
        ),
        surplus=scanner.tally.surplus,
    )


def _rebalance(upkeep: Upkeep) -> nodes_pb2.RebalanceStatus:
    rebalancer, mover = upkeep.rebalancer, upkeep.mover
    return nodes_pb2.RebalanceStatus(
        enabled=rebalancer.enabled,
        running=rebalancer.running,
        moves_running=mover.running,
        moved_chunks=mover.moved_chunks,
        moved_bytes=mover.moved_bytes,
        limit_bytes_per_s=mover.bandwidth.bytes_per_s,
        spread_percent=round(100 * rebalancer.spread(upkeep.scanner.tally.held_bytes)),
        threshold_percent=round(100 * rebalancer.threshold),
    )
