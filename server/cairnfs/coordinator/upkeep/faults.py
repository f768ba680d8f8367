"""Which datanodes are not to be trusted: they lost or damaged chunks again and again. No I/O or clock.

A fault is a chunk that a node has acknowledged and, when it looks, does not have or has with wrong bytes. One
or two happen to every disk. A node with many of them, and many more than the others, gets no new chunks, and
its chunks are copied elsewhere, until an operator trusts it again.
"""

from collections import deque
from statistics import median

from cairnfs.base import limits
from cairnfs.coordinator.membership.manager import NodeManager


class FaultBook:
    """Counts the faults of the last NODE_FAULTS_S for each node."""

    def __init__(self, manager: NodeManager) -> None:
        self._manager = manager
        self._faults: dict[int, deque[float]] = {}

    def note(self, node: int, now: float) -> None:
        """A node lost or damaged a chunk."""
        self._faults.setdefault(node, deque(maxlen=limits.REPAIR_QUEUE_MAX)).append(now)

    def count(self, node: int, now: float) -> int:
        """Faults of a node lately."""
        faults = self._faults.get(node, deque[float]())
        while faults and faults[0] <= now - limits.NODE_FAULTS_S:
            faults.popleft()
        return len(faults)

    def forgive(self, node: int) -> None:
        """Begin to count anew."""
        self._faults.pop(node, None)

    def to_flag(self, now: float) -> tuple[int, str] | None:
        """A node to trust no longer, and why. None while too few others would be left to keep replicas."""
        keepers = [node.number for node in self._manager if node.keeps]
        if len(keepers) <= self._manager.replicas:
            return None
        for number in keepers:
            faults = self.count(number, now)
            usual = median(self.count(other, now) for other in keepers if other != number)
            if faults >= limits.NODE_FAULTS_MAX and faults > limits.NODE_FAULTS_FACTOR * usual:
                return (
                    number,
                    f"{faults} chunks were lost or damaged within {limits.NODE_FAULTS_S / 60:.0f} min",
                )
        return None
