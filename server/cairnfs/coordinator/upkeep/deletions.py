"""Deletes copies on datanodes, in batches, and never one that may be on its way into a commit."""

from collections.abc import Callable, Sequence

from cairnfs.base import limits
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.upkeep.tasks import TaskBoard
from cairnfs.rpc.v1 import nodes_pb2

Finished = Callable[[Sequence[bytes], bool], None]
_Vanishing = dict[bytes, bool]  # whether the task is under way; one that was given up may be carried out late


class Deleter:
    """Hands out delete tasks, and knows which copies may vanish.

    A task names the node's store counter as it was a grace time ago; the node keeps whatever it was
    asked to store since. So a client that stored a chunk has the grace time to commit it.
    """

    def __init__(
        self,
        manager: NodeManager,
        board: TaskBoard,
        now: Callable[[], float],
        left_over: Callable[[int], None],
    ) -> None:
        """`now` tells the time when a deletion is ordered, often in the wake of a commit.

        `left_over(node)` is called when a node kept something or did not answer.
        """
        self._left_over = left_over
        self._manager = manager
        self._now = now
        self._board = board
        self._vanishing: dict[int, tuple[str, _Vanishing]] = {}

    def can_delete(self, node: int) -> bool:
        """Whether this run of the node has been known for a grace time."""
        known = self._manager.get(node)
        return known is not None and known.history.as_of(self._now()) is not None

    def delete(self, node: int, chunk_ids: Sequence[bytes], finished: Finished | None = None) -> bool:
        """Have `node` delete its copies of `chunk_ids`; False, without effect, when it cannot be asked yet.

        `finished` is called for each batch, with whether the node answered; what is left turns up in a
        later report of the node as unknown.
        """
        known = self._manager.get(node)
        now = self._now()
        as_of = known.history.as_of(now) if known is not None else None
        if known is None or as_of is None:
            return False
        vanishing = self._vanishing_of(node, known.history.boot)
        for start in range(0, len(chunk_ids), limits.DELETE_BATCH_MAX):
            batch = list(chunk_ids[start : start + limits.DELETE_BATCH_MAX])
            task = nodes_pb2.Task(
                delete=nodes_pb2.DeleteChunks(chunk_ids=batch, as_of_seq=as_of, boot=known.history.boot)
            )
            done = self._finisher(node, vanishing, batch, finished)
            if self._board.submit(node, task, done, now):
                vanishing.update(dict.fromkeys(batch, True))
            else:
                done(None)
        return True

    def may_vanish(self, node: int, chunk_id: bytes) -> bool:
        """Whether a deletion of this copy was ordered and not answered by this run of the node."""
        known = self._manager.get(node)
        return known is not None and chunk_id in self._vanishing_of(node, known.history.boot)

    def is_under_way(self, node: int, chunk_id: bytes) -> bool:
        """Whether this run of the node has the order to delete this copy, or soon will."""
        known = self._manager.get(node)
        return known is not None and self._vanishing_of(node, known.history.boot).get(chunk_id, False)

    def _vanishing_of(self, node: int, boot: str) -> _Vanishing:
        entry = self._vanishing.get(node)
        if entry is None or entry[0] != boot:  # a new process knows nothing of old tasks
            entry = self._vanishing[node] = (boot, {})
        return entry[1]

    def _finisher(
        self, node: int, vanishing: _Vanishing, batch: list[bytes], finished: Finished | None
    ) -> Callable[[nodes_pb2.TaskResult | None], None]:
        def done(result: nodes_pb2.TaskResult | None) -> None:
            for chunk_id in batch:
                if result is not None:
                    vanishing.pop(chunk_id, None)
                elif chunk_id in vanishing:
                    vanishing[chunk_id] = False
            if result is None or result.kept or result.error:
                self._left_over(node)
            if finished is not None:
                finished(batch, result is not None)

        return done
