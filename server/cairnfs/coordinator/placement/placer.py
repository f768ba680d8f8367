"""Applies a selector to the membership: who may take a chunk, and what to answer when nobody may."""

from collections.abc import Collection, Iterable
from random import Random

from cairnfs.base.errors import CairnError
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import Node
from cairnfs.coordinator.placement.selector import Candidate, Selector
from cairnfs.rpc.v1 import common_pb2


class Placer:
    """Chooses nodes for chunks and debits them, so that a burst of plans spreads."""

    def __init__(self, manager: NodeManager, selector: Selector, rng: Random) -> None:
        self._manager = manager
        self._selector = selector
        self._rng = rng

    def place(
        self,
        size_bytes: int,
        count: int,
        *,
        held: Iterable[int] = (),
        exclude: Collection[int] = (),
    ) -> list[int]:
        """Numbers of up to `count` nodes for one chunk of `size_bytes`, the primary first.

        `held` already have it: they are not chosen, and the others are kept apart from them. Fewer
        than `count` come back when there are no more; the chunk is repaired when there are. Raises
        CairnError NO_SPACE when every node there is has said that it has too little room, UNAVAILABLE
        when those that may have room are excluded, in no state to take a chunk, or not heard yet since
        the coordinator's start (fewer replicas than wanted are not for a moment's ignorance).
        """
        holders = [node for number in held if (node := self._manager.get(number)) is not None]
        barred = {*exclude, *(node.number for node in holders)}
        present = [node for node in self._manager.usable() if node.number not in barred]
        # Debits are guesses (a retry debits twice), so they rank nodes but never make the cluster full.
        roomy = [node for node in present if node.free_bytes >= size_bytes] or [
            node for node in present if node.available_bytes >= size_bytes
        ]
        if not roomy:
            raise self._refusal(size_bytes)
        if len(roomy) < count and any(
            n.alive and not n.measured and n.number not in barred for n in self._manager
        ):
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "datanodes have not been heard yet")
        quick = [node for node in roomy if not node.slow]
        chosen = self._selector.select(
            [_candidate(node) for node in (quick if len(quick) >= count else roomy)],
            count,
            [_candidate(node) for node in holders],
            self._rng,
        )
        for candidate in chosen:
            self._manager.debit(candidate.number, size_bytes)
        return self._informed_first([candidate.number for candidate in chosen])

    def _informed_first(self, chosen: list[int]) -> list[int]:
        """Make a quick node the primary that can reach the others: not all know one that joined now."""
        nodes = [node for number in chosen if (node := self._manager.get(number)) is not None]
        for node in sorted(nodes, key=lambda node: node.slow):
            if all(node.knows(other) for other in nodes):
                return [node.number, *(number for number in chosen if number != node.number)]
        return chosen

    def _refusal(self, size_bytes: int) -> CairnError:
        alive = [node for node in self._manager if node.keeps]
        if alive and all(node.measured and _is_full(node, size_bytes) for node in alive):
            return CairnError(
                common_pb2.ERROR_CODE_NO_SPACE, f"no datanode has room for a chunk of {size_bytes} bytes"
            )
        return CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "no healthy datanode is left to take a chunk")


def _is_full(node: Node, size_bytes: int) -> bool:
    return node.read_only or node.available_bytes < size_bytes


def _candidate(node: Node) -> Candidate:
    return Candidate(
        number=node.number,
        host_id=node.host_id,
        rack=node.rack,
        free_bytes=node.free_bytes,
        capacity_bytes=node.capacity_bytes,
    )
