"""Which datanodes are slow: far slower than the others, for a while. A state machine without I/O or clock.

Every node says how long it needs to make something durable (stores, and a probe of every disk every few
seconds, so that an idle or avoided node is known as well), and how long it saw others need. What the others
need is the measure, so a cluster of slow disks is not slow.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median

from cairnfs.base import limits
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import Node


class SpeedJudge:
    """Tells the manager which nodes are slow; call `tick` often."""

    def __init__(self, manager: NodeManager) -> None:
        self._manager = manager
        self._next_s = 0.0
        self._votes: Counter[int] = Counter()  # judgements in a row against what holds now

    def tick(self, now: float) -> None:
        """Judge, if it is time."""
        if now < self._next_s:
            return
        self._next_s = now + limits.NODE_JUDGE_S
        nodes = [node for node in self._manager if node.answers]
        figures = {node.number: _store_us(node, nodes) for node in nodes}
        for node in nodes:
            others = [us for number, us in figures.items() if us and number != node.number]
            self._judge(node, figures[node.number], others)

    def _judge(self, node: Node, store_us: int, others_us: Sequence[int]) -> None:
        trouble = ""
        if len(others_us) > 1:
            usual_us = median(others_us)
            bound_us = max(limits.NODE_SLOW_MIN_S * 1e6, limits.NODE_SLOW_FACTOR * usual_us)
            if store_us > (bound_us / 2 if node.slow else bound_us):
                trouble = f"stores take {store_us / 1e3:.0f} ms, elsewhere {usual_us / 1e3:.0f} ms"
        if bool(trouble) == node.slow:
            self._votes[node.number] = 0
            return
        self._votes[node.number] += 1
        if self._votes[node.number] >= limits.NODE_JUDGEMENTS:
            self._votes[node.number] = 0
            self._manager.set_slow(node.number, trouble)


def _store_us(node: Node, nodes: Sequence[Node]) -> int:
    """What a node needs by its own word, or by that of most others if that is more; 0: nobody knows."""
    seen = [us for other in nodes if (us := other.peers_us.get(node.number, 0))]
    by_others = median(seen) if len(seen) > 1 else 0
    return max(node.store_us, int(by_others))
