"""Restores replica counts: fewest readable replicas first, within the bounds of copies."""

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
from cairnfs.coordinator.upkeep.bandwidth import Bandwidth
from cairnfs.coordinator.upkeep.census import Verdict, judge
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.copies import Copies, Copy
from cairnfs.engine.interface import ReadTransaction

log = get_logger(__name__)

RETRY_S: Final = 5.0


class Repairer:
    """A priority queue of chunks with too few replicas.

    The queue holds chunk ids only; what is missing is judged from the record when a copy is started.
    """

    def __init__(
        self,
        manager: NodeManager,
        placer: Placer,
        copies: Copies,
        changes: ReplicaChanges,
        bandwidth: Bandwidth,
        is_barred: Callable[[int, bytes], bool],
    ) -> None:
        """`is_barred(node, chunk)` rules out a target."""
        self._manager = manager
        self._placer = placer
        self._copies = copies
        self._changes = changes
        self._is_barred = is_barred
        self._order = count()
        self._heap: list[tuple[int, int, bytes]] = []
        self._queued: dict[bytes, int] = {}
        self._later: list[tuple[float, bytes, int]] = []
        self._running: set[bytes] = set()
        self.bandwidth = bandwidth

    @property
    def running(self) -> int:
        """Chunks being copied."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Chunks known to need a copy that is not under way."""
        return len(self._queued) + len(self._later)

    @property
    def room(self) -> int:
        """How many more candidates are taken for now."""
        return max(0, limits.REPAIR_QUEUE_MAX - self.waiting)

    def queue(self) -> list[tuple[int, int]]:
        """How many chunks wait, by the number of their readable replicas; the most urgent first."""
        counts = Counter(self._queued.values())
        counts.update(readable for _, _, readable in self._later)
        return sorted(counts.items())

    def consider(self, chunk_id: bytes, record: ChunkRecord | None) -> bool:
        """Queue a chunk if replicas are missing and one is left to copy; whether any are missing."""
        if record is None or record.state != ChunkState.LIVE or record.references == 0:
            return False
        verdict = judge(self._manager, record)
        if verdict.missing and verdict.readable:
            self._enqueue(chunk_id, len(verdict.readable))
        elif not verdict.missing:
            self._queued.pop(chunk_id, None)
        return verdict.missing > 0

    def start_copies(self, txn: ReadTransaction, now: float) -> int:
        """Start as many copies as the bounds allow; returns how many."""
        self._wake_deferred(now)
        started = 0
        blocked: list[tuple[int, int, bytes]] = []
        while self._may_start(now) and len(blocked) < limits.COPIES_BLOCKED_MAX:
            entry = heapq.heappop(self._heap)
            readable, _order, chunk_id = entry
            if self._queued.get(chunk_id) != readable:
                continue  # queued again with another priority
            record = chunk_table.get_chunk(txn, chunk_id)
            verdict = self._verdict(record)
            if record is None or verdict is None:
                del self._queued[chunk_id]
            elif self._start(chunk_id, record, verdict, now):
                del self._queued[chunk_id]
                started += 1
            elif self._is_held_up(verdict, now):
                blocked.append(entry)
            else:
                del self._queued[chunk_id]
                self._defer(chunk_id, len(verdict.readable), now)
        for entry in blocked:
            heapq.heappush(self._heap, entry)
        return started

    # ------------------------------------------------------------------ inside

    def _may_start(self, now: float) -> bool:
        return bool(self._heap) and not self._copies.is_full and self.bandwidth.is_open(now)

    def _verdict(self, record: ChunkRecord | None) -> Verdict | None:
        """What is to be done about a record; None: nothing."""
        if record is None or record.state != ChunkState.LIVE or record.references == 0:
            return None
        verdict = judge(self._manager, record)
        return verdict if verdict.missing and verdict.readable else None

    def _enqueue(self, chunk_id: bytes, readable: int) -> None:
        known = self._queued.get(chunk_id)
        if chunk_id in self._running or (known is not None and known <= readable) or not self.room:
            return
        self._queued[chunk_id] = readable
        heapq.heappush(self._heap, (readable, next(self._order), chunk_id))

    def _wake_deferred(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            _at, chunk_id, readable = heapq.heappop(self._later)
            self._enqueue(chunk_id, readable)

    def _is_held_up(self, verdict: Verdict, now: float) -> bool:
        """Whether a copy waits only for nodes that are occupied now."""
        occupied = self._copies.occupied(self.bandwidth, now)
        return all(number in occupied for number in verdict.readable) or any(
            node.number in occupied for node in self._manager.usable()
        )

    def _start(self, chunk_id: bytes, record: ChunkRecord, verdict: Verdict, now: float) -> bool:
        if chunk_id in self._copies:
            return False
        occupied = self._copies.occupied(self.bandwidth, now)
        source = self._copies.source(verdict.readable, occupied)
        targets = self._targets(chunk_id, record, verdict, occupied) if source is not None else []
        if source is None or not targets:
            return False

        def finished(gained: list[int]) -> None:
            self._running.discard(chunk_id)
            for number in gained:
                self._changes.want(Change(Kind.ADD, chunk_id, number, self._reconsider(chunk_id)))
            if len(gained) < len(targets):
                self._defer(chunk_id, len(verdict.readable), now)

        copy = Copy(chunk_id, record.length, source, tuple(targets))
        if not self._copies.start(copy, self.bandwidth, finished, now):
            return False
        self._running.add(chunk_id)
        return True

    def _targets(
        self, chunk_id: bytes, record: ChunkRecord, verdict: Verdict, occupied: set[int]
    ) -> list[int]:
        barred = {node.number for node in self._manager if self._is_barred(node.number, chunk_id)}
        try:
            return self._placer.place(
                record.length,
                verdict.missing,
                held=verdict.kept,
                exclude={*occupied, *barred, *record.nodes},
            )
        except CairnError as error:
            log.debug("no place for a replica now", chunk=chunk_id.hex(), reason=str(error))
            return []

    def _defer(self, chunk_id: bytes, readable: int, now: float) -> None:
        heapq.heappush(self._later, (now + RETRY_S, chunk_id, readable))

    def _reconsider(self, chunk_id: bytes) -> Callable[[Applied], None]:
        def look(applied: Applied) -> None:
            self.consider(chunk_id, applied.record)

        return look
