"""Brings chunks to datanodes: streams to primaries, failover to other nodes, when to be content."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import reader_node
from cairnfs.base.logs import get_logger
from cairnfs.bulk.shared import SendBuffer
from cairnfs.client.ahead import Plans
from cairnfs.client.channels import Channels
from cairnfs.client.interface import MetadataSession
from cairnfs.client.node_ranking import NodeRanking
from cairnfs.client.planner import Planner
from cairnfs.client.shared_memory import BufferUser, share_memory
from cairnfs.client.side_socket import SideDialer
from cairnfs.client.store_core import StoreCore
from cairnfs.client.transport import ChunkTransport, StoreStream
from cairnfs.client.waiting import Slot
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, metadata_pb2 as pb

_log = get_logger(__name__)

Ack = chunks_pb2.ChunkDataAck
_WAIT_AND_RETRY: Final = frozenset(
    {
        common_pb2.ERROR_CODE_UNAVAILABLE,
        common_pb2.ERROR_CODE_SAFE_MODE,
        common_pb2.ERROR_CODE_OVERLOADED,
        common_pb2.ERROR_CODE_TIMED_OUT,
    }
)
# What the coordinator says when no other node can take the chunk.
_NO_NODE_LEFT: Final = frozenset({common_pb2.ERROR_CODE_UNAVAILABLE, common_pb2.ERROR_CODE_NO_SPACE})


Sharing = Callable[[BufferUser], Awaitable[None]]


class _Channel:
    """The stream to one primary and the transfers on it; `sharing` gives it a buffer, until cancelled."""

    def __init__(self, stream: StoreStream, clock: Callable[[], float], sharing: Sharing | None) -> None:
        self.stream = stream
        self.buffer: SendBuffer | None = None
        self._sharing = sharing
        self.broken = False
        self._clock = clock
        self._core = StoreCore()

    async def transfer(self, data: bytes, header: chunks_pb2.ChunkHeader) -> Ack:
        """Send one chunk; its last ack, or CairnError UNAVAILABLE or TIMED_OUT."""
        slot = Slot[Ack]()
        transfer = self._core.begin(data, header, slot, self._clock())
        self._pump()
        try:
            return await slot.wait()
        finally:
            if not slot.filled:
                self._core.abandon(transfer)
                self._pump()

    async def serve(self) -> CairnError:
        """See `Channel`."""
        async with trio.open_nursery() as nursery:
            if self._sharing is not None:
                nursery.start_soon(self._sharing, self)
            error = await self._serve_stream()
            nursery.cancel_scope.cancel()
        return error

    async def _serve_stream(self) -> CairnError:
        try:
            while True:
                for ack in await self.stream.receive():
                    if self.buffer is not None:
                        self.buffer.acknowledged(ack)
                    transfer = self._core.acknowledge(ack, self._clock())
                    if transfer is not None and transfer.waiter is not None:
                        transfer.waiter.put(ack)
                self._pump()
        except CairnError as error:
            return error
        finally:
            self.broken = True
            self.stream.close()

    def fail(self, error: CairnError) -> None:
        """See `Channel`."""
        for transfer in self._core.transfers:
            if transfer.waiter is not None:
                transfer.waiter.put_error(error)

    def check_progress(self) -> None:
        """See `Channel`."""
        now = self._clock()
        late = CairnError(common_pb2.ERROR_CODE_TIMED_OUT, "the datanode made no progress")
        if self._core.stuck(now):
            self.fail(late)
            self.broken = True
            self.stream.close()
            return
        for transfer in self._core.expire(now):
            if transfer.waiter is not None:
                transfer.waiter.put_error(late)
        self._pump()

    def _pump(self) -> None:
        while not self.broken and (frame := self._core.next_frame()) is not None:
            self.stream.send(frame if self.buffer is None else self.buffer.place(frame))


@dataclass(slots=True)
class _Patience:
    """How long to go on asking for a place, and at which intervals."""

    clock: Callable[[], float]
    delay_s: float = limits.RECONNECT_MIN_S
    deadline_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.deadline_s = self.clock() + limits.TRANSFER_DEADLINE_S

    @property
    def over(self) -> bool:
        return self.clock() >= self.deadline_s

    async def pause(self) -> None:
        await trio.sleep(self.delay_s)
        self.delay_s = min(self.delay_s * 2, limits.RECONNECT_MAX_S)


@dataclass(slots=True)
class _Attempts:
    """What is known of one chunk while a place is sought for it."""

    spec: pb.ChunkSpec
    data: bytes
    patience: _Patience
    holders: dict[int, None] = field(default_factory=dict[int, None])  # in the order they were named
    exclude: set[int] = field(default_factory=set[int])
    last_error: CairnError | None = None

    def stored(self) -> pb.StoredChunk:
        return pb.StoredChunk(chunk_id=self.spec.chunk_id, length=self.spec.length, nodes=self.holders)


class Storer:
    """Stores single chunks, sharing one stream per primary. Its nursery outlives every caller."""

    def __init__(
        self,
        session: MetadataSession,
        transport: ChunkTransport,
        planner: Planner,
        ranking: NodeRanking,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        dialer: SideDialer,
    ) -> None:
        self._session = session
        self._transport = transport
        self._dialer = dialer
        self._planner = planner
        self._ranking = ranking
        self._nursery = nursery
        self._clock = clock
        self._channels = Channels(self._open, nursery)

    async def plan(self, specs: Sequence[pb.ChunkSpec]) -> Plans:
        """First plans for chunks, by chunk id; waits for datanodes as long as a transfer may take.

        Raises CairnError as the coordinator does when waiting cannot help or did not.
        """
        patience = _Patience(self._clock)
        while True:
            try:
                return await self._planner.plan(specs)
            except CairnError as error:
                if error.code not in _WAIT_AND_RETRY or patience.over:
                    raise
            await patience.pause()

    async def store(self, spec: pb.ChunkSpec, data: bytes, plan: pb.ChunkPlan) -> pb.StoredChunk:
        """Store one chunk by `plan`, and by other plans when nodes fail; see `ChunkIO.store`."""
        state = _Attempts(spec, data, _Patience(self._clock))
        current: pb.ChunkPlan | None = plan
        while True:
            if current is None:
                return state.stored()
            if current.stored:
                return pb.StoredChunk(chunk_id=spec.chunk_id, length=spec.length)
            if state.holders and set(current.nodes) <= state.holders.keys():
                return state.stored()
            if await self._try(state, current):
                return state.stored()
            current = await self._plan_again(state)

    async def _try(self, state: _Attempts, plan: pb.ChunkPlan) -> bool:
        """Send the chunk to the plan's primary; whether all that the plan names hold it now."""
        primary = self._session.node(plan.nodes[0]) if plan.nodes else None
        if primary is None:
            state.exclude.update(plan.nodes[:1])
            state.last_error = CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "no known datanode in the plan")
            return False
        header = chunks_pb2.ChunkHeader(
            chunk_id=state.spec.chunk_id,
            length=state.spec.length,
            replicas=plan.nodes[1:],
            ticket=plan.ticket,
            wanted_replicas=len(plan.nodes),
            reader=reader_node(state.spec.chunk_id, plan.nodes),
        )
        try:
            ack = await self._channels.to(primary).transfer(state.data, header)
        except CairnError as error:
            self._note_failure(state, plan.nodes[0], error)
            return False
        holders = list(ack.nodes) if ack.nodes or not ack.stored else [plan.nodes[0]]
        state.holders.update(dict.fromkeys(holders))
        if ack.stored and ack.error == common_pb2.ERROR_CODE_OK:
            return True
        reason = CairnError(ack.error or common_pb2.ERROR_CODE_UNAVAILABLE, ack.detail)
        failed = [number for number in plan.nodes if number not in state.holders]
        for number in failed if plan.nodes[0] in state.holders else plan.nodes[:1]:
            self._note_failure(state, number, reason)
        return False

    def _note_failure(self, state: _Attempts, number: int, error: CairnError) -> None:
        _log.debug("datanode failed a chunk", node=number, chunk=state.spec.chunk_id.hex(), error=str(error))
        state.exclude.add(number)
        state.last_error = error
        self._ranking.failed(number)

    async def _plan_again(self, state: _Attempts) -> pb.ChunkPlan | None:
        """The next plan; None when the coordinator has no more nodes and the chunk is held by some."""
        while True:
            if state.patience.over:
                if state.holders:
                    return None
                raise state.last_error or CairnError(common_pb2.ERROR_CODE_TIMED_OUT, "no place in time")
            try:
                plans = await self._planner.plan([state.spec], frozenset(state.exclude))
                plan = plans[state.spec.chunk_id]
                if plan.stored or plan.nodes:
                    return plan
                error = CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "no datanode is left")
            except CairnError as caught:
                error = caught
            if state.holders and error.code in _NO_NODE_LEFT:
                return None
            full = error.code == common_pb2.ERROR_CODE_NO_SPACE
            if (full and not state.exclude) or (not full and error.code not in _WAIT_AND_RETRY):
                raise error
            state.last_error = error if state.last_error is None else state.last_error
            state.exclude.clear()  # those that failed may be back by now
            await state.patience.pause()

    def _open(self, info: common_pb2.NodeInfo) -> _Channel:
        shares = bool(info.unix_socket) and self._ranking.is_local(info)
        sharing = partial(share_memory, info, self._dialer) if shares else None
        return _Channel(self._transport.open_store(info), self._clock, sharing)

    def check_progress(self) -> None:
        """Look for transfers without progress; call about once a second."""
        self._channels.check_progress()
