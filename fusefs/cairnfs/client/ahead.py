"""Plans made ahead: nodes named by the coordinator a moment ago also take the next small chunks (no I/O)."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cairnfs.base import limits
from cairnfs.rpc.v1 import metadata_pb2 as pb

Plans = dict[bytes, pb.ChunkPlan]


@dataclass(slots=True)
class _Placement:
    nodes: tuple[int, ...]
    ticket: bytes
    made_s: float
    uses: int = 0


class PlansAhead:
    """Placements for chunks that fit into packs, each good for PLAN_REUSE_S and PLAN_REUSES_MAX chunks.

    What a plan says besides is lost for such a chunk: that it is stored already (then it is sent in vain),
    that it is being deleted (then its commit fails), which copies are bad (a reader goes around them). So a
    chunk is planned ahead once: when it comes again soon, the coordinator is asked.
    """

    def __init__(self) -> None:
        self._placements: deque[_Placement] = deque(maxlen=limits.PLANS_KEPT_MAX)
        self._planned: dict[bytes, None] = {}

    def learn(self, plans: Iterable[pb.ChunkPlan], now_s: float) -> None:
        """Remember where the coordinator would put chunks now."""
        known = {placement.nodes for placement in self._placements if self._is_young(placement, now_s)}
        for plan in plans:
            nodes = tuple(plan.nodes)
            if nodes and nodes not in known:
                known.add(nodes)
                self._placements.append(_Placement(nodes, plan.ticket, now_s))

    def forget(self, nodes: frozenset[int]) -> None:
        """These nodes failed."""
        kept = [placement for placement in self._placements if nodes.isdisjoint(placement.nodes)]
        self._placements.clear()
        self._placements.extend(kept)

    def take(self, specs: Sequence[pb.ChunkSpec], now_s: float) -> Plans | None:
        """Plans for all of `specs`; None when one of them is large or no placement is good any more."""
        if any(spec.length > limits.PACK_CHUNK_MAX_BYTES or spec.chunk_id in self._planned for spec in specs):
            return None
        plans: Plans = {}
        for spec in specs:
            while self._placements and not self._is_good(self._placements[0], now_s):
                self._placements.popleft()
            if not self._placements:
                return None
            placement = self._placements[0]
            self._placements.rotate(-1)
            placement.uses += 1
            plans[spec.chunk_id] = pb.ChunkPlan(
                chunk_id=spec.chunk_id, nodes=placement.nodes, ticket=placement.ticket
            )
        self._remember(plans)
        return plans

    def _remember(self, plans: Plans) -> None:
        self._planned.update(dict.fromkeys(plans))
        while len(self._planned) > limits.PLANS_REMEMBERED_MAX:
            del self._planned[next(iter(self._planned))]

    def wants_more(self, now_s: float) -> bool:
        """Whether it is time to ask for new placements, before the last one is used up."""
        return not any(self._is_young(placement, now_s) for placement in self._placements)

    def _is_young(self, placement: _Placement, now_s: float) -> bool:
        return (
            now_s - placement.made_s < limits.PLAN_REUSE_S / 2
            and placement.uses < limits.PLAN_REUSES_MAX // 2
        )

    def _is_good(self, placement: _Placement, now_s: float) -> bool:
        return now_s - placement.made_s < limits.PLAN_REUSE_S and placement.uses < limits.PLAN_REUSES_MAX
