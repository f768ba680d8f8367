"""All upkeep of one coordinator: what heartbeats and reports bring, and what is to be done about it."""

import secrets
from collections.abc import Sequence
from typing import Final

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import DEAD, DRAINING, HEALTHY, JOINING
from cairnfs.coordinator.membership.speed import SpeedJudge
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.records import ChunkRecord
from cairnfs.coordinator.upkeep.bandwidth import Bandwidth
from cairnfs.coordinator.upkeep.changes import ReplicaChanges
from cairnfs.coordinator.upkeep.copies import Copies
from cairnfs.coordinator.upkeep.deletions import Deleter
from cairnfs.coordinator.upkeep.doubts import Doubts
from cairnfs.coordinator.upkeep.drains import Drains
from cairnfs.coordinator.upkeep.faults import FaultBook
from cairnfs.coordinator.upkeep.garbage import Collector
from cairnfs.coordinator.upkeep.moves import Move, Mover
from cairnfs.coordinator.upkeep.policies import Policies
from cairnfs.coordinator.upkeep.rebalance import Rebalancer
from cairnfs.coordinator.upkeep.repair import Repairer
from cairnfs.coordinator.upkeep.reports import (
    AGAIN_AFTER_GRACE,
    ChunkListing,
    NodeReports,
    Parts,
    Reconciliation,
)
from cairnfs.coordinator.upkeep.safe_mode import SafeMode
from cairnfs.coordinator.upkeep.scanner import Scanner
from cairnfs.coordinator.upkeep.tasks import TaskBoard
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

log = get_logger(__name__)

FAILED: Final = nodes_pb2.DISK_STATE_FAILED
READ_ONLY: Final = nodes_pb2.DISK_STATE_READ_ONLY
_SETTLED: Final = (HEALTHY, DRAINING, DEAD)


class Upkeep:
    """Ties the cores together; a plain state machine, driven by `runner` and the Nodes service.

    Make it when the manager has its restored nodes: safe mode waits for these.
    """

    def __init__(
        self, settings: CoordinatorSettings, manager: NodeManager, placer: Placer, now: float
    ) -> None:
        self._now = now
        self._grace_s = settings.garbage_grace_s
        self.manager = manager
        # Random, so that a late result for an earlier coordinator's task is not taken for one of ours.
        self.board = TaskBoard(first_id=1 + secrets.randbits(48))
        self.changes = ReplicaChanges(manager)
        self.deleter = Deleter(manager, self.board, lambda: self._now, self._look_again)
        self.faults = FaultBook(manager)
        self.speed = SpeedJudge(manager)
        self.drains = Drains(manager)
        self.doubts = Doubts(
            self.board, self.changes, self._replica_dropped, lambda node: self.faults.note(node, self._now)
        )
        self.copies = Copies(manager, self.board, self._doubt_source, lambda: self._now)
        repairs = Bandwidth(settings.repair_bytes_per_s, settings.repair_node_bytes_per_s, now)
        barred = self._is_barred_target
        self.repairer = Repairer(manager, placer, self.copies, self.changes, repairs, barred)
        self.policies = Policies(self.repairer)
        moves = Bandwidth(settings.rebalance_bytes_per_s, settings.repair_node_bytes_per_s, now)
        self.mover = Mover(
            manager, placer, self.copies, self.changes, self.deleter, moves, barred, self._look_again
        )
        self.rebalancer = Rebalancer(
            manager, self.mover, settings.rebalance_percent, enabled=settings.rebalance
        )
        self.scanner = Scanner(
            manager, self.repairer, self.changes, self.deleter, self.mover, self.drains.counted
        )
        self.collector = Collector(manager, self.deleter, self.changes, settings.garbage_grace_s)
        self.safe_mode = SafeMode(manager, self._has_reported, settings.dead_s, now)
        self._reports: dict[int, NodeReports] = {}
        self._boots: dict[int, str] = {}
        self._settled: dict[int, common_pb2.NodeState.ValueType] = {}
        self._failing = {node.number for node in manager if node.failing}
        self._short_plans = False
        manager.subscribe(self._membership_changed)

    # ------------------------------------------------------------------ heartbeats

    def heartbeat(
        self, request: nodes_pb2.HeartbeatRequest, reply: nodes_pb2.HeartbeatReply, now: float
    ) -> None:
        """Take in what a known node says besides its state, and add its work to the reply."""
        self._now = now
        node = request.node
        if self._boots.setdefault(node, request.boot) != request.boot:
            self._boots[node] = request.boot
            self.restarted(node, now)
        self.board.answer(node, request.results)
        for chunk_id in request.corrupt:
            self.doubts.found_bad(chunk_id, node)
        reports = self._reports.setdefault(node, NodeReports(due_s=now))
        self._observe(request, now)
        if reports.due_s <= now and not reports.under_way:
            reply.send_chunk_report = True
            reports.due_s = now + limits.TASK_DEADLINE_S  # asked; ask again if none comes
        reply.tasks.extend(self.board.take(node, now))
        if self.board.is_busy(node):
            reply.next_heartbeat_ms = min(reply.next_heartbeat_ms, int(limits.BUSY_HEARTBEAT_S * 1000))

    def _observe(self, request: nodes_pb2.HeartbeatRequest, now: float) -> None:
        """A disk that fails shows in a chunk report: have one now, so that repair starts."""
        node = self.manager.get(request.node)
        if node is None or not node.observe(request):
            return
        if any(disk.state in (FAILED, READ_ONLY) for disk in node.disks):
            for disk in node.disks:
                if disk.detail:
                    log.warning("disk of a datanode", node=node.number, path=disk.path, detail=disk.detail)
            self.request_report(node.number)

    def restarted(self, node: int, now: float) -> None:
        """A new process of this node: what the old one was told is forgotten, what it holds is asked for."""
        self.board.node_lost(node)
        reports = self._reports.get(node)
        if reports is not None:
            reports.due_s = now

    # ------------------------------------------------------------------ reports

    def begin_report(self, node: int, listing: ChunkListing) -> Reconciliation:
        """Start to reconcile a complete report; step it, then pass it to `end_report`."""
        before = self._reports.setdefault(node, NodeReports(due_s=self._now))
        before.under_way = True
        parts = Parts(
            self.manager,
            self.changes,
            self.deleter,
            self.doubts,
            self.repairer,
            may_delete=not self.safe_mode.active,
            leave=lambda chunk_id, giver: self.mover.want(Move(chunk_id, giver, must=True)),
        )
        return Reconciliation(parts, node, listing, before)

    def end_report(self, node: int, reconciliation: Reconciliation, now: float) -> None:
        """The report was reconciled to its end."""
        self._reports[node] = reconciliation.finish(now)

    def abort_report(self, node: int) -> None:
        """Reconciling was given up; another report is asked for."""
        reports = self._reports.get(node)
        if reports is not None:
            reports.under_way = False
            reports.due_s = self._now

    def request_report(self, node: int) -> None:
        """Have `node` report with its next heartbeat."""
        self._reports.setdefault(node, NodeReports(due_s=self._now)).due_s = self._now

    def last_report_s(self, node: int) -> float | None:
        """When the newest complete report of `node` was reconciled (monotonic)."""
        reports = self._reports.get(node)
        return reports.complete_s if reports is not None else None

    def is_absent(self, node: int, chunk_id: bytes) -> bool:
        """Whether the newest report of `node` lacks a chunk that its record places there."""
        reports = self._reports.get(node)
        return reports is not None and (chunk_id in reports.suspected or chunk_id in reports.dropped)

    # ------------------------------------------------------------------ clients

    def replica_reported(self, chunk_id: bytes, node: int) -> None:
        """A client says that a replica is bad or missing: have it checked."""
        if self.manager.is_alive(node):
            self.doubts.check(chunk_id, node, self._now)

    def note_short_plan(self) -> None:
        """A chunk was planned with fewer replicas than configured: look again when a node comes up."""
        self._short_plans = True

    # ------------------------------------------------------------------ time

    def tick(self, now: float) -> None:
        """Let time take effect on nodes, tasks and safe mode."""
        self._now = now
        self.manager.tick(now)
        self.speed.tick(now)
        self.board.expire(now)
        if self.safe_mode.tick(now):
            log.info("safe mode ends", nodes=sum(1 for _ in self.manager))
            self.scanner.request()

    # ------------------------------------------------------------------ inside

    def _has_reported(self, node: int) -> bool:
        reports = self._reports.get(node)
        return reports is not None and reports.complete_s is not None

    def _is_barred_target(self, node: int, chunk_id: bytes) -> bool:
        return self.doubts.is_bad(node, chunk_id) or self.deleter.may_vanish(node, chunk_id)

    def _doubt_source(self, chunk_id: bytes, node: int) -> None:
        self.doubts.check(chunk_id, node, self._now)

    def _look_again(self, node: int) -> None:
        """Copies are left on `node` that nobody wants: have it report when it may be told to delete them."""
        reports = self._reports.get(node)
        if reports is not None:
            reports.due_s = min(reports.due_s, self._now + self._grace_s * AGAIN_AFTER_GRACE)

    def _replica_dropped(self, chunk_id: bytes, node: int, record: ChunkRecord) -> None:
        def finished(batch: Sequence[bytes], answered: bool) -> None:
            for one in batch if answered else ():
                self.doubts.is_gone(node, one)

        if not self.deleter.delete(node, [chunk_id], finished):
            self._look_again(node)
        self.repairer.consider(chunk_id, record)

    def _membership_changed(self, update: common_pb2.NodeUpdate) -> None:
        number, state = update.info.node, update.info.state
        if update.removed or state == DEAD:
            self.board.node_lost(number)
            self._reports.pop(number, None)
        if update.removed:
            self._settled.pop(number, None)
            self._boots.pop(number, None)
            self.scanner.request()
            return
        if update.info.failing != (number in self._failing):
            self._failing ^= {number}
            self.scanner.request()
        usable_again = self._short_plans and state == HEALTHY and not update.info.read_only
        if usable_again or (state in _SETTLED and self._settled.get(number) != state):
            self._short_plans = False
            self.scanner.request()
        if state in _SETTLED or state == JOINING:
            self._settled[number] = state
