"""Which datanode to ask first, and how long to wait before asking another as well."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from cairnfs.base import limits
from cairnfs.rpc.v1 import common_pb2

_RANK_OF_STATE: Final = {
    common_pb2.NODE_STATE_HEALTHY: 0,
    common_pb2.NODE_STATE_DRAINING: 1,
    common_pb2.NODE_STATE_SUSPECT: 2,
    common_pb2.NODE_STATE_JOINING: 3,
    common_pb2.NODE_STATE_DEAD: 4,
}
_FIRST_GUESS_S: Final = 0.1
_WEIGHT: Final = 0.2  # of the newest measurement in the moving average
_SLOW_FACTOR: Final = 4.0


class NodeRanking:
    """Remembers failures and the usual time to the next frame, per datanode number."""

    def __init__(
        self, node: Callable[[int], common_pb2.NodeInfo | None], host_id: str, clock: Callable[[], float]
    ) -> None:
        self._node = node
        self._host_id = host_id
        self._clock = clock
        self._failed_s: dict[int, float] = {}
        self._gap_s: dict[int, float] = {}

    def order(self, numbers: Sequence[int], reader: int = 0) -> list[common_pb2.NodeInfo]:
        """Known nodes, best first: not failed lately, here, healthy, `reader`; equal ones in random order."""
        known = [info for number in dict.fromkeys(numbers) if (info := self._node(number)) is not None]
        random.shuffle(known)
        known.sort(key=lambda info: (*self._rank(info), info.node != reader))
        return known

    def is_local(self, info: common_pb2.NodeInfo) -> bool:
        """Whether the node is on this host."""
        return info.host_id == self._host_id

    def local(self, numbers: Sequence[int], reader: int = 0) -> list[common_pb2.NodeInfo]:
        """Those of this host that did not fail lately, best first."""
        return [
            info
            for info in self.order(numbers, reader)
            if self.is_local(info) and not self._failing(info.node)
        ]

    def _rank(self, info: common_pb2.NodeInfo) -> tuple[bool, bool, int]:
        state = _RANK_OF_STATE.get(info.state, 3)
        return self._failing(info.node) or state >= 2, not self.is_local(info), state

    def _failing(self, number: int) -> bool:
        failed_s = self._failed_s.get(number)
        return failed_s is not None and self._clock() - failed_s < limits.NODE_PENALTY_S

    def failed(self, number: int) -> None:
        """The node did not do what it was asked."""
        self._failed_s[number] = self._clock()

    def answered(self, number: int, gap_s: float) -> None:
        """A frame came `gap_s` seconds after the request or the frame before."""
        self._failed_s.pop(number, None)
        usual_s = self._gap_s.get(number, _FIRST_GUESS_S)
        self._gap_s[number] = usual_s + _WEIGHT * (gap_s - usual_s)

    def patience_s(self, number: int) -> float:
        """Seconds without a frame after which this node counts as slow."""
        usual_s = self._gap_s.get(number, _FIRST_GUESS_S)
        return min(max(usual_s * _SLOW_FACTOR, limits.HEDGE_MIN_S), limits.HEDGE_MAX_S)
