"""Copies of chunks under way between datanodes: bounded in number, in bytes and in bandwidth."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.upkeep.bandwidth import Bandwidth
from cairnfs.coordinator.upkeep.rate_meter import RateMeter
from cairnfs.coordinator.upkeep.tasks import TaskBoard
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

log = get_logger(__name__)

_SOURCE_AT_FAULT: Final = (
    common_pb2.ERROR_CODE_NOT_FOUND,
    common_pb2.ERROR_CODE_CORRUPT,
    common_pb2.ERROR_CODE_IO,
)

Doubt = Callable[[bytes, int], None]
Finished = Callable[[list[int]], None]


@dataclass(frozen=True, slots=True)
class Copy:
    """One chunk of `length` bytes from a node to others."""

    chunk_id: bytes
    length: int
    source: int
    targets: tuple[int, ...]


class Copies:
    """All copies of one coordinator, whatever they are for; at most one of each chunk."""

    def __init__(
        self, manager: NodeManager, board: TaskBoard, doubt: Doubt, now: Callable[[], float]
    ) -> None:
        """`doubt(chunk, node)` has a source checked that failed; `now` tells the time when a result comes."""
        self._manager = manager
        self._board = board
        self._doubt = doubt
        self._now = now
        self._running: set[bytes] = set()
        self._load: Counter[int] = Counter()
        self._load_bytes: Counter[int] = Counter()
        self.rate = RateMeter()
        self.done_chunks = self.done_bytes = 0

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, chunk_id: bytes) -> bool:
        return chunk_id in self._running

    @property
    def is_full(self) -> bool:
        """Whether no more copies may start in the whole cluster."""
        return len(self._running) >= limits.COPIES_MAX

    def is_loaded(self, node: int) -> bool:
        """Whether this node has as many copies as it may have."""
        return (
            self._load[node] >= limits.COPIES_PER_NODE_MAX
            or self._load_bytes[node] >= limits.COPIES_PER_NODE_MAX_BYTES
        )

    def occupied(self, bandwidth: Bandwidth, now: float) -> set[int]:
        """Nodes that cannot take part in a further copy now."""
        return {
            node.number
            for node in self._manager
            if self.is_loaded(node.number) or not bandwidth.is_node_open(node.number, now)
        }

    def source(self, readable: Sequence[int], occupied: set[int]) -> int | None:
        """The holder to copy from: answering and not slow, if possible, then the least loaded."""
        able = [node for n in readable if n not in occupied and (node := self._manager.get(n)) is not None]
        best = min(able, key=lambda n: (not n.answers, n.slow, self._load[n.number]), default=None)
        return None if best is None else best.number

    def start(self, copy: Copy, bandwidth: Bandwidth, finished: Finished, now: float) -> bool:
        """Have a copy made; False, without effect, when its source cannot be asked.

        `finished` is called with the targets that have the chunk then.
        """
        task = nodes_pb2.CopyChunk(chunk_id=copy.chunk_id, length=copy.length, targets=copy.targets)

        def done(result: nodes_pb2.TaskResult | None) -> None:
            self._running.discard(copy.chunk_id)
            self._charge(copy, -1)
            finished(self._gained(copy, result))

        if not self._board.submit(copy.source, nodes_pb2.Task(copy=task), done, now):
            return False
        self._running.add(copy.chunk_id)
        self._charge(copy, 1)
        bandwidth.take(copy.source, copy.targets, copy.length, now)
        return True

    def _charge(self, copy: Copy, sign: int) -> None:
        for number in (copy.source, *copy.targets):
            self._load[number] += sign
            self._load_bytes[number] += sign * copy.length

    def _gained(self, copy: Copy, result: nodes_pb2.TaskResult | None) -> list[int]:
        gained = [number for number in result.nodes if number in copy.targets] if result is not None else []
        self.done_chunks += len(gained)
        self.done_bytes += len(gained) * copy.length
        self.rate.add(len(gained) * copy.length, self._now())
        if len(gained) < len(copy.targets):
            if result is not None and result.error in _SOURCE_AT_FAULT:
                self._doubt(copy.chunk_id, copy.source)
            log.info(
                "copy failed",
                chunk=copy.chunk_id.hex(),
                source=copy.source,
                targets=copy.targets,
                detail=result.detail if result is not None else "no answer",
            )
        return gained
