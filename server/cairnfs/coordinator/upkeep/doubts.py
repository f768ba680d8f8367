"""Replicas said to be bad: what is believed, what is checked first, and what follows.

A node is believed about its own copies. A client is not: its word only makes the node verify the copy,
so that no client can talk the coordinator out of good replicas.
"""

from collections.abc import Callable
from typing import Final

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.records import ChunkRecord
from cairnfs.coordinator.upkeep.changes import Applied, Change, Kind, ReplicaChanges
from cairnfs.coordinator.upkeep.tasks import TaskBoard
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

log = get_logger(__name__)

Dropped = Callable[[bytes, int, ChunkRecord], None]

CHUNK_ID_BYTES: Final = 32
_FIRST_ID: Final = bytes(CHUNK_ID_BYTES)


class Doubts:
    """Checks under way, and copies known to be bad until the node has deleted them."""

    def __init__(
        self, board: TaskBoard, changes: ReplicaChanges, dropped: Dropped, fault: Callable[[int], None]
    ) -> None:
        """`dropped(chunk, node, record)` is called when a replica was taken out of its record.

        `fault(node)` is called for every chunk that the node lost or damaged.
        """
        self._fault = fault
        self._board = board
        self._changes = changes
        self._dropped = dropped
        self._checking: set[tuple[int, bytes]] = set()
        self._bad: set[tuple[int, bytes]] = set()

    def is_bad(self, node: int, chunk_id: bytes) -> bool:
        """Whether this copy was found bad and is not known to be gone."""
        return (node, chunk_id) in self._bad

    def is_gone(self, node: int, chunk_id: bytes) -> None:
        """The bad copy was deleted: the node may store the chunk anew."""
        self._bad.discard((node, chunk_id))

    def check(self, chunk_id: bytes, node: int, now: float) -> None:
        """Have `node` verify its copy, and drop the replica if it is bad or not there."""
        key = (node, chunk_id)
        if key in self._checking or len(self._checking) >= limits.TASKS_QUEUED_MAX:
            return
        task = nodes_pb2.Task(verify=nodes_pb2.VerifyChunks(after=id_before(chunk_id), limit=1))
        if self._board.submit(node, task, lambda result: self._checked(key, result), now):
            self._checking.add(key)

    def found_bad(self, chunk_id: bytes, node: int) -> None:
        """`node` says that its own copy is bad: drop the replica as soon as there is another one."""
        if (node, chunk_id) not in self._bad:
            self._fault(node)
        if len(self._bad) < limits.REPAIR_QUEUE_MAX:
            self._bad.add((node, chunk_id))
        log.warning("replica is corrupt", chunk=chunk_id.hex(), node=node)
        self._drop(chunk_id, node)

    def _checked(self, key: tuple[int, bytes], result: nodes_pb2.TaskResult | None) -> None:
        self._checking.discard(key)
        node, chunk_id = key
        if result is None:
            return
        if chunk_id in result.corrupt:
            self.found_bad(chunk_id, node)
        elif result.error == common_pb2.ERROR_CODE_OK and result.last != chunk_id:
            log.warning("replica is missing", chunk=chunk_id.hex(), node=node)
            self._fault(node)
            self._drop(chunk_id, node)

    def _drop(self, chunk_id: bytes, node: int) -> None:
        def look(applied: Applied) -> None:
            record = applied.record
            if record is None:
                return
            if applied.changed:
                self._dropped(chunk_id, node, record)
            elif node in record.nodes:
                log.warning("no good replica is left", chunk=chunk_id.hex(), node=node)

        self._changes.want(Change(Kind.DROP_BAD, chunk_id, node, look))


def id_before(chunk_id: bytes) -> bytes:
    """The greatest id below `chunk_id`, so that a listing starts at this chunk; empty below the first."""
    if chunk_id == _FIRST_ID:
        return b""
    return (int.from_bytes(chunk_id, "big") - 1).to_bytes(CHUNK_ID_BYTES, "big")
