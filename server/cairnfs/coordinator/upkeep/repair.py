"""Restores replica counts: fewest readable replicas first, a bounded number of copies at a time."""

import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.census import Verdict, judge
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.tasks import TaskBoard
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

log = get_logger(__name__)

RETRY_S: Final = 5.0
_SOURCE_AT_FAULT: Final = (
    common_pb2.ERROR_CODE_NOT_FOUND,
    common_pb2.ERROR_CODE_CORRUPT,
    common_pb2.ERROR_CODE_IO,
)

Doubt = Callable[[bytes, int], None]


class Repairer:
    """A priority queue of chunks with too few replicas, and the copies under way.

    The queue holds chunk ids only; what is missing is judged from the record when a copy is started.
    """

    def __init__(
        self,
        manager: NodeManager,
        placer: Placer,
        board: TaskBoard,
        changes: ReplicaChanges,
        doubt: Doubt,
        is_barred: Callable[[int, bytes], bool],
    ) -> None:
        """`doubt(chunk, node)` has a source checked; `is_barred(node, chunk)` rules out a target."""
        self._manager = manager
        self._placer = placer
        self._board = board
        self._changes = changes
        self._doubt = doubt
        self._is_barred = is_barred
        self._order = count()
        self._heap: list[tuple[int, int, bytes]] = []
        self._queued: dict[bytes, int] = {}
        self._later: list[tuple[float, bytes, int]] = []
        self._running: dict[bytes, tuple[int, ...]] = {}
        self._load: Counter[int] = Counter()
        self._load_bytes: Counter[int] = Counter()

    @property
    def running(self) -> int:
        """Copies under way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Chunks known to need a copy that is not under way."""
        return len(self._queued) + len(self._later)

    @property
    def is_full(self) -> bool:
        """Whether no more candidates are taken for now."""
        return self.waiting >= limits.REPAIR_QUEUE_MAX

    def consider(self, chunk_id: bytes, record: ChunkRecord | None) -> bool:
        """Queue a chunk if replicas are missing and one is left to copy; whether any are missing."""
        if record is None or record.state != ChunkState.LIVE or record.references == 0:
            return False
        verdict = judge(self._manager, record)
        if verdict.missing and verdict.readable:
            self._enqueue(chunk_id, len(verdict.readable))
        return verdict.missing > 0

    def start_copies(self, txn: ReadTransaction, now: float) -> int:
        """Start as many copies as the bounds allow; returns how many."""
        self._wake_deferred(now)
        started = 0
        for _ in range(min(len(self._heap), limits.COPIES_MAX)):
            if not self._heap or len(self._running) >= limits.COPIES_MAX:
                break
            readable, _order, chunk_id = heapq.heappop(self._heap)
            if self._queued.get(chunk_id) != readable:
                continue  # queued again with another priority
            del self._queued[chunk_id]
            record = chunk_table.get_chunk(txn, chunk_id)
            if record is not None and record.state == ChunkState.LIVE and record.references > 0:
                started += self._start(chunk_id, record, now)
        return started

    # ------------------------------------------------------------------ inside

    def _enqueue(self, chunk_id: bytes, readable: int) -> None:
        known = self._queued.get(chunk_id)
        if chunk_id in self._running or (known is not None and known <= readable) or self.is_full:
            return
        self._queued[chunk_id] = readable
        heapq.heappush(self._heap, (readable, next(self._order), chunk_id))

    def _wake_deferred(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _at, chunk_id, readable = heapq.heappop(self._later)
            self._enqueue(chunk_id, readable)

    def _start(self, chunk_id: bytes, record: ChunkRecord, now: float) -> bool:
        verdict = judge(self._manager, record)
        if not verdict.missing or not verdict.readable:
            return False
        source = self._source(verdict)
        targets = self._targets(chunk_id, record, verdict)
        if source is None or not targets:
            self._defer(chunk_id, verdict, now)
            return False
        copy = nodes_pb2.CopyChunk(chunk_id=chunk_id, length=record.length, targets=targets)
        involved = (source, *targets)

        def done(result: nodes_pb2.TaskResult | None) -> None:
            del self._running[chunk_id]
            self._charge(involved, -1, -record.length)
            self._finish(chunk_id, involved, verdict, result, now)

        if not self._board.submit(source, nodes_pb2.Task(copy=copy), done, now):
            self._defer(chunk_id, verdict, now)
            return False
        self._running[chunk_id] = involved
        self._charge(involved, 1, record.length)
        return True

    def _charge(self, nodes: tuple[int, ...], copies: int, size_bytes: int) -> None:
        for number in nodes:
            self._load[number] += copies
            self._load_bytes[number] += size_bytes

    def _is_loaded(self, node: int) -> bool:
        return (
            self._load[node] >= limits.COPIES_PER_NODE_MAX
            or self._load_bytes[node] >= limits.COPIES_PER_NODE_MAX_BYTES
        )

    def _source(self, verdict: Verdict) -> int | None:
        able = [number for number in verdict.readable if not self._is_loaded(number)]
        healthy = [
            number
            for number in able
            if (node := self._manager.get(number)) is not None
            and node.state in (common_pb2.NODE_STATE_HEALTHY, common_pb2.NODE_STATE_DRAINING)
        ]
        return min(healthy or able, key=lambda number: self._load[number], default=None)

    def _targets(self, chunk_id: bytes, record: ChunkRecord, verdict: Verdict) -> list[int]:
        barred = {
            node.number
            for node in self._manager
            if self._is_loaded(node.number) or self._is_barred(node.number, chunk_id)
        }
        try:
            return self._placer.place(record.length, verdict.missing, held=record.nodes, exclude=barred)
        except CairnError as error:
            log.debug("no place for a replica now", chunk=chunk_id.hex(), reason=str(error))
            return []

    def _defer(self, chunk_id: bytes, verdict: Verdict, now: float) -> None:
        heapq.heappush(self._later, (now + RETRY_S, chunk_id, len(verdict.readable)))

    def _finish(
        self,
        chunk_id: bytes,
        involved: tuple[int, ...],
        verdict: Verdict,
        result: nodes_pb2.TaskResult | None,
        started_s: float,
    ) -> None:
        gained = [number for number in result.nodes if number in involved[1:]] if result is not None else []
        for number in gained:
            self._changes.want(Change(Kind.ADD, chunk_id, number, self._reconsider(chunk_id)))
        if len(gained) == len(involved) - 1:
            return
        if result is not None and result.error in _SOURCE_AT_FAULT:
            self._doubt(chunk_id, involved[0])
        log.info(
            "repair copy failed",
            chunk=chunk_id.hex(),
            source=involved[0],
            targets=involved[1:],
            detail=result.detail if result is not None else "no answer",
        )
        self._defer(chunk_id, verdict, started_s)

    def _reconsider(self, chunk_id: bytes) -> Callable[[Applied], None]:
        def look(applied: Applied) -> None:
            self.consider(chunk_id, applied.record)

        return look
