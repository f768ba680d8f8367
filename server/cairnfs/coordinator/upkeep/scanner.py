"""Walks all chunk records in the background, and has repaired or trimmed what is not as it should be."""

from collections.abc import Callable

from cairnfs.base import limits
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.census import crowded_holder, judge, surplus_holders
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.deletions import Deleter
from cairnfs.coordinator.upkeep.moves import Move, Mover
from cairnfs.coordinator.upkeep.repair import Repairer
from cairnfs.coordinator.upkeep.tally import Tally
from cairnfs.engine.interface import ReadTransaction


class Scanner:
    """One walk at a time, in bounded steps; another one follows when it was asked for meanwhile."""

    def __init__(
        self,
        manager: NodeManager,
        repairer: Repairer,
        changes: ReplicaChanges,
        deleter: Deleter,
        mover: Mover,
        counted: Callable[[Tally, float], None],
    ) -> None:
        """`counted` is called at the end of every walk with what it found, and the time."""
        self._mover = mover
        self._counted = counted
        self._roomy_racks = 0
        self._manager = manager
        self._repairer = repairer
        self._changes = changes
        self._deleter = deleter
        self._wanted = False
        self._walking = False
        self._after = b""
        self._started_s = self._next_s = 0.0
        self._running_tally = Tally()
        self.tally = Tally()

    def request(self) -> None:
        """Something happened that may concern any chunk: walk (again) from the start."""
        self._wanted = True

    @property
    def is_due(self) -> bool:
        """Whether what was asked for is not all looked at yet."""
        return self._wanted or self._walking

    def step(self, txn: ReadTransaction, now: float) -> bool:
        """Look at the next records; whether to go on at once."""
        if not self._walking:
            if not self._wanted and now < self._next_s:
                return False
            self._started_s = now
            self._wanted, self._walking, self._after = False, True, b""
            self._running_tally = Tally(draining=self._draining())
        step_chunks = min(limits.SCAN_STEP_CHUNKS, self._repairer.room)
        if not step_chunks or len(self._changes) > limits.REPAIR_QUEUE_MAX:
            return False
        found = chunk_table.scan_chunks(txn, self._after, step_chunks)
        self._roomy_racks = len({node.rack for node in self._manager.usable()})
        for chunk_id, record in found:
            self._look(chunk_id, record)
        if len(found) == step_chunks:
            self._after = found[-1][0]
            return True
        self._walking = False
        self._next_s = now + self._pause_s(now - self._started_s)
        self.tally = self._running_tally
        self.tally.draining &= self._draining()
        self._counted(self.tally, now)
        return self._wanted

    def _draining(self) -> set[int]:
        return {node.number for node in self._manager if node.draining}

    def _pause_s(self, walk_s: float) -> float:
        if self._draining():
            return max(limits.SCAN_PAUSE_DRAINING_S, walk_s * limits.SCAN_PAUSE_DRAINING_FACTOR)
        pause_s = walk_s * limits.SCAN_PAUSE_FACTOR
        return min(limits.SCAN_PAUSE_MAX_S, max(limits.SCAN_PAUSE_MIN_S, pause_s))

    def _look(self, chunk_id: bytes, record: ChunkRecord) -> None:
        tally = self._running_tally
        tally.chunks += 1
        if record.references == 0:
            tally.garbage += 1
        if record.state != ChunkState.LIVE or record.references == 0:
            return
        for number in record.nodes:
            if self._manager.get(number) is None:
                self._changes.want(Change(Kind.DROP_BAD, chunk_id, number))
        self._count_holders(record)
        missing = self._repairer.consider(chunk_id, record)
        tally.under_replicated += missing
        if len(record.nodes) > record.wish.count(self._manager.replicas):
            self._trim(chunk_id, record)
        elif not missing:
            crowded = crowded_holder(self._manager, record, self._roomy_racks)
            if crowded is not None:
                self._mover.want(Move(chunk_id, crowded, must=False))

    def _count_holders(self, record: ChunkRecord) -> None:
        tally = self._running_tally
        for number in record.nodes:
            tally.held_chunks[number] += 1
            tally.held_bytes[number] += record.length
        if tally.draining.intersection(record.nodes) and judge(self._manager, record).missing:
            for number in tally.draining.intersection(record.nodes):
                tally.left_chunks[number] += 1
                tally.left_bytes[number] += record.length

    def _trim(self, chunk_id: bytes, record: ChunkRecord) -> None:
        due = [n for n in surplus_holders(self._manager, record) if self._deleter.can_delete(n)]
        for number in due:
            self._changes.want(Change(Kind.TRIM, chunk_id, number, self._delete(chunk_id, number)))
        left = len(record.nodes) - len(due)
        self._running_tally.surplus += left > record.wish.count(self._manager.replicas)

    def _delete(self, chunk_id: bytes, number: int) -> Callable[[Applied], None]:
        def after_commit(applied: Applied) -> None:
            if applied.changed:
                self._deleter.delete(number, [chunk_id])

        return after_commit
