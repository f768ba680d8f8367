"""Garbage collection: chunks without references for the grace time go, in three durable steps.

Marked (no commit may refer to it any more), deleted on the nodes, removed from the table. Between the
steps nothing is lost by a crash: a chunk found marked, but not by us, is simply removed from the table,
and copies left on nodes are unknown chunks of their next reports.
"""

from collections.abc import Sequence

from cairnfs.base import limits
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.namespace import tree_jobs
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.deletions import Deleter
from cairnfs.engine.interface import Operation, ReadTransaction, Transaction

Marked = list[tuple[bytes, tuple[int, ...]]]


class Collector:
    """Which chunks are on their way out, and which nodes are still to answer for them."""

    def __init__(
        self, manager: NodeManager, deleter: Deleter, changes: ReplicaChanges, grace_s: float
    ) -> None:
        self._manager = manager
        self._deleter = deleter
        self._changes = changes
        self._grace_ns = int(grace_s * 1e9)
        self._awaited: dict[bytes, int] = {}
        self.resumed = False

    @property
    def in_flight(self) -> int:
        """Chunks marked and not yet removed."""
        return len(self._awaited)

    def resume(self, txn: ReadTransaction, now_ns: int) -> None:
        """Once after a start, even in safe mode: forget what was being deleted; writers wait for that."""
        self.resumed = True
        for chunk_id, record in chunk_table.scan_garbage(txn, now_ns, 2 * limits.GARBAGE_IN_FLIGHT_MAX):
            if record.state == ChunkState.DELETING:
                self._forget(chunk_id)

    def find(self, txn: ReadTransaction, now_ns: int) -> list[bytes]:
        """Chunks to mark now; those an earlier process marked are put on their way out at once."""
        room = min(limits.REPLICA_CHANGES_PER_COMMIT, limits.GARBAGE_IN_FLIGHT_MAX - len(self._awaited))
        if room <= 0:
            return []
        due: list[bytes] = []
        for chunk_id, record in chunk_table.scan_garbage(
            txn, now_ns - self._grace_ns, room + len(self._awaited)
        ):
            if chunk_id in self._awaited:
                continue
            if record.state == ChunkState.DELETING:
                self._forget(chunk_id)
            elif self._can_ask_all(record):
                due.append(chunk_id)
        return due[:room]

    def marking(self, chunk_ids: Sequence[bytes], now_ns: int) -> Operation:
        """The transaction that marks them; its value, `Marked`, leaves out those wanted again meanwhile.

        It marks nothing while a tree is copied: the copy will refer to what was referred to when it began.
        """
        before_ns = now_ns - self._grace_ns
        wanted = tuple(chunk_ids)

        def mark(txn: Transaction) -> Marked:
            marked: Marked = []
            if tree_jobs.is_copying(txn):
                return marked
            for chunk_id in wanted:
                record = chunk_table.get_chunk(txn, chunk_id)
                if record is not None and _is_due(record, before_ns):
                    chunk_table.mark_deleting(txn, chunk_id)
                    marked.append((chunk_id, record.nodes))
            return marked

        return Operation(mark, locks=tuple(keys.chunk(chunk_id) for chunk_id in wanted))

    def marked(self, marked: Marked) -> None:
        """The marks are durable: tell every holder that is alive; a dead one reports its copy some day."""
        by_node: dict[int, list[bytes]] = {}
        for chunk_id, nodes in marked:
            self._awaited[chunk_id] = 1
            for number in nodes:
                if self._manager.is_alive(number):
                    self._awaited[chunk_id] += 1
                    by_node.setdefault(number, []).append(chunk_id)
        for number, chunk_ids in by_node.items():
            handed_over = self._deleter.delete(number, chunk_ids, self._answered)
            if not handed_over:
                self._answered(chunk_ids, False)
        self._answered([chunk_id for chunk_id, _nodes in marked], True)

    def _answered(self, chunk_ids: Sequence[bytes], _by_node: bool) -> None:
        """One more holder is done with these, or was given up; with the last one the record can go."""
        for chunk_id in chunk_ids:
            self._awaited[chunk_id] -= 1
            if self._awaited[chunk_id] == 0:
                self._forget(chunk_id)

    def _forget(self, chunk_id: bytes) -> None:
        self._awaited[chunk_id] = 0

        def forgotten(_applied: Applied) -> None:
            del self._awaited[chunk_id]

        self._changes.want(Change(Kind.FORGET, chunk_id, done=forgotten))

    def _can_ask_all(self, record: ChunkRecord) -> bool:
        return all(
            self._deleter.can_delete(number) for number in record.nodes if self._manager.is_alive(number)
        )


def _is_due(record: ChunkRecord, before_ns: int) -> bool:
    return record.state == ChunkState.LIVE and record.references == 0 and record.garbage_since_ns < before_ns
