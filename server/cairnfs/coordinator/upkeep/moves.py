"""Moves replicas that lie badly: copied first, then dropped, so that there is never one too few.

What is moved: the only replica on a disk that is to be emptied, a replica that shares a rack with another
one while other racks have room, and (by `rebalance`) replicas on nodes that are fuller than others.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.bandwidth import Bandwidth
from cairnfs.coordinator.upkeep.census import apartness, judge
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.copies import Copies, Copy
from cairnfs.coordinator.upkeep.deletions import Deleter
from cairnfs.engine.interface import ReadTransaction

log = get_logger(__name__)

Done = Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Move:
    """A replica of `chunk_id` is to leave node `giver`; `must` even if it lies no better elsewhere."""

    chunk_id: bytes
    giver: int
    must: bool


class Mover:
    """Wanted moves, and those under way."""

    def __init__(
        self,
        manager: NodeManager,
        placer: Placer,
        copies: Copies,
        changes: ReplicaChanges,
        deleter: Deleter,
        bandwidth: Bandwidth,
        is_barred: Callable[[int, bytes], bool],
        left_over: Callable[[int], None],
    ) -> None:
        """`left_over(node)` is called when a replica was dropped and its node could not be told."""
        self._manager = manager
        self._placer = placer
        self._copies = copies
        self._changes = changes
        self._deleter = deleter
        self._is_barred = is_barred
        self._left_over = left_over
        self._queue: deque[Move] = deque()
        self._queued: set[bytes] = set()
        self.bandwidth = bandwidth
        self.running = 0
        self.moved_chunks = self.moved_bytes = 0

    @property
    def waiting(self) -> int:
        """Moves wanted and not under way."""
        return len(self._queue)

    def want(self, move: Move) -> None:
        """Queue a move; what finds no room is found again later."""
        if move.chunk_id not in self._queued and len(self._queue) < limits.MOVES_QUEUE_MAX:
            self._queued.add(move.chunk_id)
            self._queue.append(move)

    def start_moves(self, txn: ReadTransaction, now: float) -> None:
        """Start as many of the queued moves as the bounds allow."""
        for _ in range(min(len(self._queue), limits.COPIES_BLOCKED_MAX)):
            if not self.may_start(now):
                return
            move = self._queue.popleft()
            self._queued.discard(move.chunk_id)
            record = chunk_table.get_chunk(txn, move.chunk_id)
            if record is None or not _is_movable(record, move.giver):
                continue
            target = self._target(move, record, now)
            if target is not None:
                self.start(move.chunk_id, record, move.giver, target, now)

    def may_start(self, now: float) -> bool:
        """Whether the bounds allow another move."""
        return self.running < limits.MOVES_MAX and not self._copies.is_full and self.bandwidth.is_open(now)

    def start(self, chunk_id: bytes, record: ChunkRecord, giver: int, target: int, now: float) -> bool:
        """Begin to move a replica from `giver` to `target`; False when it cannot be begun now."""
        occupied = self._copies.occupied(self.bandwidth, now)
        if target in occupied or chunk_id in self._copies:
            return False
        source = self._copies.source(judge(self._manager, record).readable, occupied)
        if source is None:
            return False

        def finished(gained: list[int]) -> None:
            self.running -= 1
            if gained:
                self.moved_chunks += 1
                self.moved_bytes += record.length
                self._changes.want(Change(Kind.ADD, chunk_id, target, self._dropping(chunk_id, giver)))

        copy = Copy(chunk_id, record.length, source, (target,))
        if not self._copies.start(copy, self.bandwidth, finished, now):
            return False
        self.running += 1
        return True

    # ------------------------------------------------------------------ inside

    def _target(self, move: Move, record: ChunkRecord, now: float) -> int | None:
        """A better node for the replica, or any other if it must go."""
        staying = [
            number for number in record.nodes if number != move.giver and self._manager.is_alive(number)
        ]
        occupied = self._copies.occupied(self.bandwidth, now)
        barred = {n.number for n in self._manager if self._is_barred(n.number, move.chunk_id)}
        try:
            (target,) = self._placer.place(
                record.length, 1, held=staying, exclude={*record.nodes, *occupied, *barred}
            )
        except CairnError as error:
            log.debug("no better place now", chunk=move.chunk_id.hex(), reason=str(error))
            return None
        better = apartness(self._manager, [*staying, target]) > apartness(self._manager, record.nodes)
        return target if move.must or better else None

    def _dropping(self, chunk_id: bytes, giver: int) -> Callable[[Applied], None]:
        def drop(applied: Applied) -> None:
            if applied.record is not None:
                self._changes.want(Change(Kind.TRIM, chunk_id, giver, self._deleting(chunk_id, giver)))

        return drop

    def _deleting(self, chunk_id: bytes, giver: int) -> Callable[[Applied], None]:
        def delete(applied: Applied) -> None:
            if applied.changed and not self._deleter.delete(giver, [chunk_id]):
                self._left_over(giver)

        return delete


def _is_movable(record: ChunkRecord, giver: int) -> bool:
    return record.state == ChunkState.LIVE and record.references > 0 and giver in record.nodes
