"""Gets bytes of chunks from datanodes: one stream per node, failover, hedging, reports of bad replicas."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import reader_node
from cairnfs.base.logs import get_logger
from cairnfs.client.channels import Channels
from cairnfs.client.interface import MetadataSession
from cairnfs.client.node_ranking import NodeRanking
from cairnfs.client.transport import ChunkTransport, RetrievedFrame, RetrieveStream
from cairnfs.client.waiting import Bell
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, metadata_pb2 as pb

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """What is wanted: `length` bytes (at least 1) at `offset` of a chunk."""

    chunk_id: bytes
    chunk_length: int
    offset: int
    length: int

    @property
    def whole(self) -> bool:
        """Whether the SHA-256 can be checked."""
        return self.length == self.chunk_length


@dataclass(slots=True, eq=False)
class _Attempt:
    """One piece asked of one node; tells the race by `finished` and its bell."""

    node: int
    piece: Piece
    race: "_Race"
    progress_s: float
    parts: list[bytes | bytearray | memoryview] = field(default_factory=list[bytes | bytearray | memoryview])
    received: int = 0
    error: CairnError | None = None

    def finish(self, error: CairnError | None = None) -> None:
        self.error = error
        self.race.finished.append(self)
        self.race.bell.ring()


@dataclass(slots=True)
class _Race:
    """The attempts for one piece."""

    finished: deque[_Attempt] = field(default_factory=deque[_Attempt])
    bell: Bell = field(default_factory=Bell)
    errors: list[CairnError] = field(default_factory=list[CairnError])


class _Channel:
    """The stream to one node and the attempts on it."""

    def __init__(
        self, node: int, stream: RetrieveStream, ranking: NodeRanking, clock: Callable[[], float]
    ) -> None:
        self.stream = stream
        self.broken = False
        self._node = node
        self._ranking = ranking
        self._clock = clock
        self._last_number = 0
        self._attempts: dict[int, _Attempt] = {}

    def ask(self, attempt: _Attempt) -> int:
        """Send the request for an attempt; its transfer number."""
        self._last_number += 1
        self._attempts[self._last_number] = attempt
        piece = attempt.piece
        self.stream.send(
            chunks_pb2.RetrieveChunkRequest(
                transfer=self._last_number, chunk_id=piece.chunk_id, offset=piece.offset, length=piece.length
            )
        )
        return self._last_number

    def forget(self, number: int) -> None:
        """Nobody waits for this transfer any more; what still comes is dropped."""
        self._attempts.pop(number, None)

    async def serve(self) -> CairnError:
        """See `Channel`."""
        try:
            while True:
                for frame in await self.stream.receive():
                    self._arrived(frame)
        except CairnError as error:
            return error
        finally:
            self.broken = True
            self.stream.close()

    def _arrived(self, frame: RetrievedFrame) -> None:
        attempt = self._attempts.get(frame.transfer)
        if attempt is None:
            return
        now = self._clock()
        self._ranking.answered(self._node, now - attempt.progress_s)
        attempt.progress_s = now
        problem = _problem(attempt, frame)
        if problem is None:
            attempt.parts.append(frame.data)
            attempt.received += len(frame.data)
            if attempt.received < attempt.piece.length:
                return
        del self._attempts[frame.transfer]
        attempt.finish(problem)

    def fail(self, error: CairnError) -> None:
        """See `Channel`."""
        attempts, self._attempts = self._attempts, {}
        for attempt in attempts.values():
            attempt.finish(error)

    def check_progress(self) -> None:
        """See `Channel`; the whole stream is given up, and its attempts are made elsewhere."""
        now = self._clock()
        if any(now - each.progress_s >= limits.TRANSFER_PROGRESS_S for each in self._attempts.values()):
            self.broken = True
            self.stream.close()
            self.fail(CairnError(common_pb2.ERROR_CODE_TIMED_OUT, "the datanode made no progress"))


def _problem(attempt: _Attempt, frame: RetrievedFrame) -> CairnError | None:
    if frame.error != common_pb2.ERROR_CODE_OK:
        known = frame.error in common_pb2.ErrorCode.values()
        code = common_pb2.ErrorCode.ValueType(frame.error) if known else common_pb2.ERROR_CODE_INTERNAL
        return CairnError(code, frame.detail)
    if not frame.intact:
        return CairnError(common_pb2.ERROR_CODE_CORRUPT, "frame with a wrong CRC-32C")
    piece, received = attempt.piece, attempt.received + len(frame.data)
    if frame.offset != piece.offset + attempt.received or received > piece.length:
        return CairnError(common_pb2.ERROR_CODE_CORRUPT, "frame out of place")
    if frame.is_final and received < piece.length:
        return CairnError(common_pb2.ERROR_CODE_CORRUPT, "replica too short")
    return None


class Retriever:
    """Retrieves pieces of chunks. Its nursery outlives every caller."""

    def __init__(
        self,
        session: MetadataSession,
        transport: ChunkTransport,
        ranking: NodeRanking,
        nursery: trio.Nursery,
        clock: Callable[[], float],
        chunk_id_of: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        self._session = session
        self._transport = transport
        self._ranking = ranking
        self._nursery = nursery
        self._clock = clock
        self._chunk_id_of = chunk_id_of
        self._channels = Channels(self._open, nursery)
        self._hedges = 0

    async def retrieve(self, piece: Piece, nodes: Sequence[int]) -> bytes:
        """The bytes of `piece` from the best of `nodes`; see `ChunkIO.retrieve`."""
        deadline_s = self._clock() + limits.RPC_DEADLINE_S
        delay_s = limits.RECONNECT_MIN_S
        while True:
            race = _Race()
            best_first = self._ranking.order(nodes, reader_node(piece.chunk_id, nodes))
            data = await self._race(piece, best_first, race)
            if data is not None:
                return data
            # Only nodes that did not answer may do better a moment later.
            hopeful = any(error.code not in _REPORTED for error in race.errors)
            if not hopeful or self._clock() + delay_s >= deadline_s:
                raise _verdict(race.errors)
            await trio.sleep(delay_s)
            delay_s = min(delay_s * 2, limits.RECONNECT_MAX_S)

    async def _race(self, piece: Piece, nodes: list[common_pb2.NodeInfo], race: _Race) -> bytes | None:
        """Ask one node after another, the next one also when the last is slow; None when all failed."""
        candidates = deque(nodes)
        running: dict[_Attempt, tuple[_Channel, int]] = {}
        hedges = 0
        try:
            while candidates or running:
                if candidates and len(running) <= hedges:
                    self._start(piece, candidates.popleft(), race, running)
                if not await self._wait(race, running, hedge=bool(candidates)):
                    hedges += 1
                    self._hedges += 1
                    continue
                while race.finished:
                    attempt = race.finished.popleft()
                    running.pop(attempt, None)
                    if (data := await self._checked(attempt, race)) is not None:
                        return data
        finally:
            self._hedges -= hedges
            for channel, number in running.values():
                channel.forget(number)
        return None

    def _start(
        self,
        piece: Piece,
        info: common_pb2.NodeInfo,
        race: _Race,
        running: dict[_Attempt, tuple[_Channel, int]],
    ) -> None:
        attempt = _Attempt(info.node, piece, race, self._clock())
        channel = self._channels.to(info)
        running[attempt] = (channel, channel.ask(attempt))

    async def _wait(self, race: _Race, running: dict[_Attempt, tuple[_Channel, int]], *, hedge: bool) -> bool:
        """Wait for an attempt to end; False when the newest one is slow and another may be started."""
        if not hedge or self._hedges >= limits.HEDGES_MAX:
            await race.bell.wait()
            return True
        newest = next(reversed(running))
        patience_s = self._ranking.patience_s(newest.node)
        while True:
            wait_s = newest.progress_s + patience_s - self._clock()
            if wait_s <= 0:
                return False
            with trio.move_on_after(wait_s):
                await race.bell.wait()
                return True

    async def _checked(self, attempt: _Attempt, race: _Race) -> bytes | None:
        """The bytes of a finished attempt, or None after noting and reporting what is wrong with it."""
        error = attempt.error
        if error is None:
            data = bytes(attempt.parts[0]) if len(attempt.parts) == 1 else b"".join(attempt.parts)
            if not attempt.piece.whole or await self._chunk_id_of(data) == attempt.piece.chunk_id:
                return data
            error = CairnError(common_pb2.ERROR_CODE_CORRUPT, "chunk with a wrong SHA-256")
        race.errors.append(error)
        self.failed(attempt.piece.chunk_id, attempt.node, error)
        return None

    def failed(self, chunk_id: bytes, node: int, error: CairnError) -> None:
        """A node did not yield a chunk: try it last for a while, and report a bad replica."""
        self._ranking.failed(node)
        if error.code in _REPORTED:
            _log.warning("bad replica", node=node, chunk=chunk_id.hex(), error=str(error))
            corrupt = error.code == common_pb2.ERROR_CODE_CORRUPT
            self._nursery.start_soon(self._report, chunk_id, node, corrupt)
        else:
            _log.debug("datanode failed a read", node=node, chunk=chunk_id.hex(), error=str(error))

    async def _report(self, chunk_id: bytes, node: int, corrupt: bool) -> None:
        try:
            await self._session.call(pb.ReportReplica(chunk_id=chunk_id, node=node, corrupt=corrupt))
        except CairnError as error:
            _log.debug("report of a replica not delivered", node=node, error=str(error))

    def _open(self, info: common_pb2.NodeInfo) -> _Channel:
        return _Channel(info.node, self._transport.open_retrieve(info), self._ranking, self._clock)

    def check_progress(self) -> None:
        """Look for attempts without progress; call about once a second."""
        self._channels.check_progress()


_REPORTED = frozenset({common_pb2.ERROR_CODE_CORRUPT, common_pb2.ERROR_CODE_NOT_FOUND})


def _verdict(errors: list[CairnError]) -> CairnError:
    if errors and all(error.code == common_pb2.ERROR_CODE_CORRUPT for error in errors):
        return CairnError(common_pb2.ERROR_CODE_CORRUPT, "every replica is corrupt")
    detail = "; ".join(str(error) for error in errors) or "no replica is on a known datanode"
    return CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, detail)
