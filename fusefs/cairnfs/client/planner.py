"""Asks the coordinator where chunks go, with one `PlanWrite` for all who ask while another is under way.

Small chunks mostly need not ask: `ahead.py`.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.ahead import Plans, PlansAhead
from cairnfs.client.interface import MetadataSession
from cairnfs.client.waiting import Slot
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


@dataclass(slots=True)
class _Ask:
    specs: list[pb.ChunkSpec]
    exclude: frozenset[int]
    slot: Slot[Plans] = field(default_factory=Slot[Plans])


class Planner:
    """Batches questions that exclude the same nodes. Its nursery outlives every caller."""

    def __init__(
        self,
        session: MetadataSession,
        nursery: trio.Nursery,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._session = session
        self._nursery = nursery
        self._clock = clock
        self._ahead = PlansAhead()
        self._renewing = False
        self._asks: deque[_Ask] = deque()
        self._asking = False

    async def plan(self, specs: Sequence[pb.ChunkSpec], exclude: frozenset[int] = frozenset()) -> Plans:
        """Where each chunk goes, by chunk id. Raises CairnError as the coordinator does."""
        if exclude:
            self._ahead.forget(exclude)
        elif (ahead := self._ahead.take(specs, self._clock())) is not None:
            self._renew(specs[0])
            return ahead
        if not self._asking and len(specs) <= limits.PLAN_CHUNKS_MAX:
            self._asking = True
            try:
                return await self._ask(specs, exclude)
            finally:
                self._asking = False
                self._answer_the_rest()
        asks = [
            _Ask(list(specs[start : start + limits.PLAN_CHUNKS_MAX]), exclude)
            for start in range(0, len(specs), limits.PLAN_CHUNKS_MAX)
        ]
        self._asks.extend(asks)
        self._answer_the_rest()
        plans: Plans = {}
        for ask in asks:
            plans.update(await ask.slot.wait())
        return plans

    def _renew(self, spec: pb.ChunkSpec) -> None:
        """Ask for new placements in the background, for who asks next."""
        if not self._renewing and self._ahead.wants_more(self._clock()):
            self._renewing = True
            self._nursery.start_soon(self._ask_ahead, spec)

    async def _ask_ahead(self, spec: pb.ChunkSpec) -> None:
        try:
            await self._ask([spec], frozenset())
        except CairnError:
            pass  # who needs a plan will ask, and hear why
        finally:
            self._renewing = False

    def _answer_the_rest(self) -> None:
        if self._asks and not self._asking:
            self._asking = True
            self._nursery.start_soon(self._answer)

    async def _answer(self) -> None:
        try:
            while self._asks:
                batch = self._next_batch()
                specs = {spec.chunk_id: spec for ask in batch for spec in ask.specs}
                try:
                    plans = await self._ask(list(specs.values()), batch[0].exclude)
                except CairnError as error:
                    for ask in batch:
                        ask.slot.put_error(error)
                else:
                    for ask in batch:
                        ask.slot.put({spec.chunk_id: plans[spec.chunk_id] for spec in ask.specs})
        finally:
            self._asking = False

    def _next_batch(self) -> list[_Ask]:
        """The oldest question and all others that fit into one message with it."""
        batch, rest = [self._asks.popleft()], deque[_Ask]()
        count = len(batch[0].specs)
        for ask in self._asks:
            if ask.exclude == batch[0].exclude and count + len(ask.specs) <= limits.PLAN_CHUNKS_MAX:
                batch.append(ask)
                count += len(ask.specs)
            else:
                rest.append(ask)
        self._asks = rest
        return batch

    async def _ask(self, specs: Sequence[pb.ChunkSpec], exclude: frozenset[int]) -> Plans:
        reply = await self._session.call(pb.PlanWrite(chunks=specs, exclude_nodes=sorted(exclude)))
        plans = {plan.chunk_id: plan for plan in reply.plans}
        if not exclude:
            self._ahead.learn(plans.values(), self._clock())
        if any(spec.chunk_id not in plans for spec in specs):
            raise CairnError(common_pb2.ERROR_CODE_INTERNAL, "the coordinator left a chunk out of its plan")
        return plans
