"""Changes to the replica sets of chunks, collected and committed many at a time."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from cairnfs.base import limits
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import HEALTHY
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.engine.interface import Operation, Transaction


class Kind(Enum):
    """What happens to one replica in its chunk's record; every kind is checked in the transaction."""

    ADD = auto()  # the node has it
    DROP = auto()  # the node does not have it
    DROP_BAD = auto()  # the node has a bad copy: dropped if another node that is alive has the chunk
    TRIM = auto()  # one copy too many: dropped if enough healthy nodes keep it
    FORGET = auto()  # removal was interrupted: the record goes, copies left are unknown to their next report


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a change: whether the record changed, and the record now (None: there is none)."""

    changed: bool
    record: ChunkRecord | None


@dataclass(frozen=True, slots=True)
class Change:
    """One wanted change; `done` is called, on the event loop, after the commit."""

    kind: Kind
    chunk_id: bytes
    node: int = 0
    done: Callable[[Applied], None] | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """What the transaction may know of the membership, frozen because it runs in another thread."""

    alive: frozenset[int]
    healthy: frozenset[int]
    replicas: int


class ReplicaChanges:
    """A queue of changes; `operation` turns its head into one transaction, `applied` reports back."""

    def __init__(self, manager: NodeManager) -> None:
        self._manager = manager
        self._queue: deque[Change] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def want(self, change: Change) -> None:
        """Queue a change."""
        self._queue.append(change)

    def next_batch(self) -> list[Change]:
        """The oldest changes, as many as fit into a transaction; they stay queued until `applied`."""
        return [self._queue[i] for i in range(min(len(self._queue), limits.REPLICA_CHANGES_PER_COMMIT))]

    def operation(self, batch: Sequence[Change]) -> Operation:
        """The transaction for `batch`; its value is the list of `Applied`, one for each change."""
        nodes = list(self._manager)
        view = _View(
            alive=frozenset(node.number for node in nodes if node.alive),
            healthy=frozenset(node.number for node in nodes if node.state == HEALTHY),
            replicas=self._manager.replicas,
        )
        changes = tuple(batch)
        return Operation(
            lambda txn: [_apply(txn, change, view) for change in changes],
            locks=tuple(sorted({keys.chunk(change.chunk_id) for change in changes})),
        )

    def applied(self, batch: Sequence[Change], outcomes: Sequence[Applied]) -> None:
        """The transaction of `batch`, the head of the queue, is durable: tell who asked."""
        for change, outcome in zip(batch, outcomes, strict=True):
            self._queue.popleft()
            if change.done is not None:
                change.done(outcome)


def _apply(txn: Transaction, change: Change, view: _View) -> Applied:
    record = chunk_table.get_chunk(txn, change.chunk_id)
    if record is None or not _allowed(change, record, view):
        return Applied(False, record)
    if change.kind is Kind.FORGET:
        chunk_table.remove(txn, change.chunk_id)
    elif change.kind is Kind.ADD:
        chunk_table.add_replica(txn, change.chunk_id, change.node)
    else:
        chunk_table.remove_replica(txn, change.chunk_id, change.node)
    return Applied(True, chunk_table.get_chunk(txn, change.chunk_id))


def _allowed(change: Change, record: ChunkRecord, view: _View) -> bool:
    if change.kind is Kind.FORGET:
        return record.state == ChunkState.DELETING and record.references == 0
    if record.state != ChunkState.LIVE:
        return False
    if change.kind is Kind.ADD:
        return change.node not in record.nodes
    if change.node not in record.nodes:
        return False
    others = set(record.nodes) - {change.node}
    if change.kind is Kind.DROP_BAD:
        return bool(others & view.alive)
    if change.kind is Kind.TRIM:
        return len(others & view.healthy) >= record.wish.count(view.replicas)
    return True
