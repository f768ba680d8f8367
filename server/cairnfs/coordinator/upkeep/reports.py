"""Chunk reports: what a node says it holds, reconciled with the records in bounded steps.

A report takes effect only when it is complete. What it lists and no record knows is deleted (by
`Deleter`, which spares what may be on its way into a commit). What records name and it does not list is
dropped only when a second report, listed after the first was judged, does not have it either: a
chunk stored while the first listing was under way is in a record, and in the second listing.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.deletions import Deleter
from cairnfs.coordinator.upkeep.doubts import CHUNK_ID_BYTES, Doubts
from cairnfs.coordinator.upkeep.repair import Repairer
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

log = get_logger(__name__)

_LEAVING: Final = 1 << 31
_DAMAGED: Final = 1 << 30
AGAIN_AFTER_GRACE: Final = 1.1  # grace times until a node may be told to delete what it keeps now


class ChunkListing:
    """A report as it arrives, packed (36 bytes a chunk), because it is kept until it is complete.

    The highest bits of a packed length say that the chunk is leaving, and that it is damaged.
    """

    def __init__(self) -> None:
        self._ids = bytearray()
        self._lengths = array("I")
        self.complete = False

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, message: nodes_pb2.ChunkReport) -> None:
        """Append one part; raises CairnError INVALID (malformed, unsorted) or TOO_BIG (beyond the bound)."""
        if self.complete:
            raise _invalid("a part follows the end of the report")
        if len(self) + len(message.chunks) > limits.REPORT_CHUNKS_MAX:
            raise CairnError(common_pb2.ERROR_CODE_TOO_BIG, f"more than {limits.REPORT_CHUNKS_MAX} chunks")
        last = self.id_at(len(self) - 1) if len(self) else b""
        for chunk in message.chunks:
            if len(chunk.chunk_id) != CHUNK_ID_BYTES or chunk.length > limits.CHUNK_MAX_BYTES:
                raise _invalid("a chunk has no proper id or length")
            if chunk.chunk_id <= last:
                raise _invalid("chunk ids are not sorted")
            last = chunk.chunk_id
            self._ids += last
            self._lengths.append(chunk.length | _LEAVING * chunk.leaving | _DAMAGED * chunk.damaged)
        self.complete = message.end

    def id_at(self, index: int) -> bytes:
        """The id at `index`, from 0."""
        return bytes(self._ids[index * CHUNK_ID_BYTES : (index + 1) * CHUNK_ID_BYTES])

    def length_at(self, index: int) -> int:
        """The length in bytes of the chunk at `index`."""
        return self._lengths[index] & ~(_LEAVING | _DAMAGED)

    def is_leaving_at(self, index: int) -> bool:
        """Whether the disk of the chunk at `index` is to be emptied."""
        return bool(self._lengths[index] & _LEAVING)

    def is_damaged_at(self, index: int) -> bool:
        """Whether the node knows that its copy at `index` is bad."""
        return bool(self._lengths[index] & _DAMAGED)


def _invalid(detail: str) -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_INVALID, f"chunk report: {detail}")


@dataclass(slots=True)
class NodeReports:
    """What is known of one node's reports; `due_s` is when the next one is wanted (monotonic)."""

    due_s: float
    complete_s: float | None = None  # when the last one was reconciled, since the coordinator started
    under_way: bool = False
    suspected: set[bytes] = field(default_factory=set[bytes])  # in a record, not in the last report
    dropped: set[bytes] = field(default_factory=set[bytes])  # the last report confirmed that it lacks them


@dataclass(frozen=True, slots=True)
class Parts:
    """What reconciling works with."""

    manager: NodeManager
    changes: ReplicaChanges
    deleter: Deleter
    doubts: Doubts
    repairer: Repairer
    may_delete: bool  # not in safe mode
    leave: Callable[[bytes, int], None]  # have a chunk copied from a node that holds the only replica


class Reconciliation:
    """One complete report of one node against all records, step by step."""

    def __init__(self, parts: Parts, node: int, listing: ChunkListing, before: NodeReports) -> None:
        if not listing.complete:
            raise ValueError("an incomplete report changes nothing")
        self._parts = parts
        self._node = node
        self._listing = listing
        self._before = before
        self._at = 0
        self._after = b""
        self._absent: set[bytes] = set()
        self._unknown: list[bytes] = []
        self._dropped: set[bytes] = set()
        self.added = self.postponed = self.leaving = 0

    def step(self, txn: ReadTransaction) -> bool:
        """Reconcile the next range of ids; whether more follow."""
        records = chunk_table.scan_chunks(txn, self._after, limits.SCAN_STEP_CHUNKS)
        more = len(records) == limits.SCAN_STEP_CHUNKS
        for chunk_id, record in records:
            self._unknown.extend(self._listed_below(chunk_id))
            held = self._at < len(self._listing) and self._listing.id_at(self._at) == chunk_id
            if held:
                if self._listing.is_damaged_at(self._at):
                    self._judge_damaged(chunk_id, record)
                elif self._listing.is_leaving_at(self._at):
                    self._judge_leaving(chunk_id, record)
                else:
                    self._judge_held(chunk_id, record, self._listing.length_at(self._at))
                self._at += 1
            elif self._node in record.nodes and record.state == ChunkState.LIVE:
                self._judge_absent(chunk_id)
        if records:
            self._after = records[-1][0]
        if not more:
            self._unknown.extend(self._listed_below(None))
        self._delete_unknown()
        return more

    def finish(self, now: float) -> NodeReports:
        """What is known of the node's reports after this one."""
        log.info(
            "chunk report reconciled",
            node=self._node,
            chunks=len(self._listing),
            added=self.added,
            dropped=len(self._dropped),
            absent=len(self._absent),
            postponed=self.postponed,
        )
        return NodeReports(
            due_s=now + self._pause_s(), complete_s=now, suspected=self._absent, dropped=self._dropped
        )

    # ------------------------------------------------------------------ inside

    def _pause_s(self) -> float:
        """When to look again: at once to confirm what is absent, but not in a circle on a busy node."""
        if self._absent:
            return limits.TASK_DEADLINE_S if self._before.suspected else 0.0
        if self.leaving:
            return limits.TASK_DEADLINE_S
        node = self._parts.manager.get(self._node)
        if self.postponed and node is not None:
            return min(limits.CHUNK_REPORT_INTERVAL_S, node.history.span_s * AGAIN_AFTER_GRACE)
        return limits.CHUNK_REPORT_INTERVAL_S

    def _listed_below(self, chunk_id: bytes | None) -> Iterator[bytes]:
        while self._at < len(self._listing):
            listed = self._listing.id_at(self._at)
            if chunk_id is not None and listed >= chunk_id:
                return
            self._at += 1
            yield listed

    def _judge_held(self, chunk_id: bytes, record: ChunkRecord, length: int) -> None:
        if self._node in record.nodes:
            self.postponed += record.state == ChunkState.DELETING  # it goes, or is unknown next time
            return
        parts = self._parts
        keepers = sum(1 for number in record.nodes if parts.manager.keeps_replicas(number))
        good = length == record.length and not parts.doubts.is_bad(self._node, chunk_id)
        wanted = record.state == ChunkState.LIVE and keepers < record.wish.count(parts.manager.replicas)
        if good and wanted and not parts.deleter.may_vanish(self._node, chunk_id):
            self.added += 1
            parts.changes.want(Change(Kind.ADD, chunk_id, self._node))
        else:
            self._unknown.append(chunk_id)

    def _judge_damaged(self, chunk_id: bytes, record: ChunkRecord) -> None:
        """The coordinator before may have been told, and this one not: it is no replica, and goes."""
        recorded = self._node in record.nodes  # it could not be dropped while nobody else was there
        if recorded or not self._parts.doubts.is_bad(self._node, chunk_id):
            self._parts.doubts.found_bad(chunk_id, self._node)
        if not recorded:
            self._unknown.append(chunk_id)

    def _judge_leaving(self, chunk_id: bytes, record: ChunkRecord) -> None:
        """It is good, but must not stay: no longer a replica as soon as somebody else has the chunk."""
        parts = self._parts
        if record.state != ChunkState.LIVE or record.references == 0:
            return
        others = [n for n in record.nodes if n != self._node and parts.manager.is_alive(n)]
        if self._node not in record.nodes:
            if not others:
                parts.changes.want(Change(Kind.ADD, chunk_id, self._node, self._moving(chunk_id)))
        elif others:
            parts.changes.want(Change(Kind.DROP_BAD, chunk_id, self._node, self._repairing(chunk_id)))
        else:
            self.leaving += 1
            parts.leave(chunk_id, self._node)

    def _moving(self, chunk_id: bytes) -> Callable[[Applied], None]:
        return lambda _applied: self._parts.leave(chunk_id, self._node)

    def _repairing(self, chunk_id: bytes) -> Callable[[Applied], None]:
        def repair(applied: Applied) -> None:
            self._parts.repairer.consider(chunk_id, applied.record)

        return repair

    def _judge_absent(self, chunk_id: bytes) -> None:
        if chunk_id not in self._before.suspected:
            if len(self._absent) < limits.REPAIR_QUEUE_MAX:
                self._absent.add(chunk_id)
            return
        self._dropped.add(chunk_id)
        self._parts.changes.want(Change(Kind.DROP, chunk_id, self._node, self._repairing(chunk_id)))

    def _delete_unknown(self) -> None:
        if not self._unknown:
            return
        ids, self._unknown = self._unknown, []
        fresh = [one for one in ids if not self._parts.deleter.is_under_way(self._node, one)]

        def finished(batch: Sequence[bytes], answered: bool) -> None:
            for chunk_id in batch if answered else ():
                self._parts.doubts.is_gone(self._node, chunk_id)

        deletes = self._parts.may_delete and self._parts.deleter.delete(self._node, fresh, finished)
        if not deletes:
            self.postponed += len(fresh)
