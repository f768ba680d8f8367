"""The receiving end of one stream of chunk frames: performs what its transfers decide.

Memory for a stream stays below its window plus one frame: reading stops while more is held.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError, ErrorCode
from cairnfs.base.logs import get_logger
from cairnfs.bulk.codec import Buffer, ChunkFrame
from cairnfs.datanode import transfers
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.peers import Peers
from cairnfs.datanode.store.interface import ChunkWriter, SmallChunk
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)


class StreamIntake:
    """All transfers of one incoming stream."""

    def __init__(
        self,
        disk: Disk,
        peers: Peers,
        own_node: int,
        window_bytes: int,
        clock: Clock,
        answer: Callable[[chunks_pb2.ChunkDataAck], bool] | None = None,
    ) -> None:
        """`answer` sends an acknowledgement if the sender takes it at once; the others wait in `acks`."""
        self.disk = disk
        self.peers = peers
        self.acks: deque[chunks_pb2.ChunkDataAck] = deque()
        self.held_bytes = 0
        self._answer = answer
        self._ending = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._own_node = own_node
        self._window_bytes = window_bytes
        self._clock = clock
        self._running: dict[int, RunningTransfer] = {}

    @property
    def idle(self) -> bool:
        """No transfer waits for anything."""
        return not self._running

    async def receive(self, frame: ChunkFrame) -> None:
        """Take one frame; returns when the next one may be read. Raises CairnError for a broken stream."""
        running = self._running.get(frame.transfer)
        if frame.header is not None:
            if running is not None:
                raise CairnError(common_pb2.ERROR_CODE_INVALID, f"transfer {frame.transfer} began twice")
            running = self._begin(frame)
        if running is not None:
            running.last_frame_s = self._clock.monotonic()
            running.given_up = running.given_up or bool(frame.error)
            running.perform(running.transfer.on_frame(frame))
            running.release()
        while self.held_bytes >= self._window_bytes:
            self._room.clear()
            await self._room.wait()

    def _begin(self, frame: ChunkFrame) -> "RunningTransfer | None":
        header = frame.header
        assert header is not None
        try:
            if len(self._running) >= limits.TRANSFERS_PER_STREAM_MAX:
                raise CairnError(common_pb2.ERROR_CODE_OVERLOADED, "too many transfers on one stream")
            transfer = transfers.Transfer(frame.transfer, header, self._own_node, self._window_bytes)
        except CairnError as error:
            self.refuse(frame.transfer, error)
            return None
        running = self._running[frame.transfer] = RunningTransfer(self, frame.transfer, transfer)
        for node in header.replicas:
            self.peers.begin(node, running, header)
        if self.disk.store.request(transfer.chunk_id):
            running.perform(transfer.on_already_here())
        return running

    def refuse(self, transfer: int, error: CairnError) -> None:
        """End a transfer with an error; the rest of it is dropped."""
        self.acknowledge(
            chunks_pb2.ChunkDataAck(
                transfer=transfer,
                ready_for_next=self._window_bytes,
                error=error.code,
                detail=error.detail,
            )
        )

    def acknowledge(self, ack: chunks_pb2.ChunkDataAck) -> None:
        """Answer the sender, in order."""
        if self.acks or self._answer is None or not self._answer(ack):
            self.acks.append(ack)
            self._news.set()

    def wake(self) -> None:
        """Let `wait_for_acks` return now, and from now on whenever a transfer ends."""
        self._ending = True
        self._news.set()

    async def wait_for_acks(self) -> None:
        """Return when there may be acknowledgements to send; after `wake` also when a transfer has ended."""
        await self._news.wait()
        self._news.clear()

    def hold(self, more_bytes: int) -> None:
        """So many more payload bytes are in memory; fewer when negative."""
        self.held_bytes += more_bytes
        if more_bytes < 0:
            self._room.set()

    def ended(self, number: int, running: "RunningTransfer") -> None:
        """The sender has its final answer."""
        if self._running.get(number) is running:
            del self._running[number]
        if self._ending:
            self._news.set()

    def give_up_idle(self) -> None:
        """Fail transfers of which nothing arrived for TRANSFER_IDLE_S."""
        now = self._clock.monotonic()
        for running in list(self._running.values()):
            if now - running.last_frame_s > limits.TRANSFER_IDLE_S:
                late = common_pb2.ERROR_CODE_TIMED_OUT
                running.perform(running.transfer.on_given_up(late, "no frame arrived in time"))

    def drain(self) -> None:
        """The datanode stops: end what is incomplete, so that only complete chunks are waited for."""
        gone = common_pb2.ERROR_CODE_UNAVAILABLE
        for running in list(self._running.values()):
            running.perform(running.transfer.on_given_up(gone, "the datanode is stopping"))

    def close(self) -> None:
        """The stream ended: forget what is incomplete; what is complete is finished on its own."""
        for running in list(self._running.values()):
            running.perform(running.transfer.on_sender_gone())
        self._running.clear()


class RunningTransfer:
    """Performs the effects of one transfer; implements ReplicaListener."""

    def __init__(self, intake: StreamIntake, number: int, transfer: transfers.Transfer) -> None:
        self.transfer = transfer
        self.last_frame_s = 0.0
        self.given_up = False  # by its sender
        self._intake = intake
        self._number = number
        self._held_bytes = 0
        self._data: Buffer = b""
        self._writer: ChunkWriter | None = None
        self._jobs: list[transfers.Write | transfers.Finish | transfers.Discard] = []
        self._lane: asyncio.Task[None] | None = None
        self._storing = False

    def replica_answered(self, node: int, ack: chunks_pb2.ChunkDataAck) -> None:
        """See ReplicaListener."""
        self.perform(self.transfer.on_replica_ack(node, ack))

    def replica_failed(self, node: int, detail: str) -> None:
        """See ReplicaListener."""
        self.perform(self.transfer.on_replica_failed(node, detail))

    def perform(self, effects: list[transfers.Effect]) -> None:
        """Do what the transfer decided."""
        for effect in effects:
            match effect:
                case transfers.Forward(node, frame):
                    self._intake.peers.push(node, self, frame)
                case transfers.GiveUp(node):
                    self._intake.peers.cancel(node, self)
                case transfers.Acknowledge(ack, _):
                    self._intake.acknowledge(ack)
                case _ if self.transfer.length <= limits.PACK_CHUNK_MAX_BYTES:
                    self._small(effect)
                case _:
                    self._large(effect)
        held = self.transfer.received - min(self.transfer.received, self.transfer.acknowledged)
        self._intake.hold(held - self._held_bytes)
        self._held_bytes = held
        if self.transfer.ended:
            self._intake.ended(self._number, self)

    def _small(self, effect: "transfers.Write | transfers.Finish | transfers.Discard") -> None:
        match effect:
            case transfers.Write(data):
                self._data = data
            case transfers.Discard():
                self._data = b""
            case transfers.Finish(block_checksums):
                chunk = SmallChunk(self.transfer.chunk_id, self._data, block_checksums)
                self._storing = True
                self._intake.disk.store_small(chunk, self._stored)

    def _stored(self, problem: Exception | None) -> None:
        self._data = b""
        self._storing = False
        self.perform(self.transfer.on_stored() if problem is None else self._failure(problem))
        self.release()

    def _failure(self, problem: Exception) -> list[transfers.Effect]:
        if isinstance(problem, CairnError):
            level = _log.warning if problem.code == common_pb2.ERROR_CODE_IO else _log.info
            level("chunk not stored", chunk=self.transfer.chunk_id.hex(), detail=str(problem))
            return self.transfer.on_disk_failed(problem.code, problem.detail)
        _log.error("chunk not stored", chunk=self.transfer.chunk_id.hex(), exc_info=problem)
        return self.transfer.on_disk_failed(ErrorCode.ERROR_CODE_INTERNAL, repr(problem))

    def _large(self, effect: "transfers.Write | transfers.Finish | transfers.Discard") -> None:
        self._jobs.append(effect)
        if self._lane is None:
            self._lane = asyncio.create_task(self._work_off())

    async def _work_off(self) -> None:
        """Everything that piled up goes to the disk in one visit to a thread, in order."""
        while self._jobs:
            jobs, self._jobs = self._jobs, []
            try:
                await self._intake.disk.run(self._work, jobs)
            except Exception as problem:  # noqa: BLE001  # reported to the sender
                self._jobs.clear()
                self.perform(self._failure(problem))
                continue
            written = sum(len(job.data) for job in jobs if isinstance(job, transfers.Write))
            finished = any(isinstance(job, transfers.Finish) for job in jobs)
            self.perform(self.transfer.on_stored() if finished else self.transfer.on_written(written))
        self._lane = None
        self.release()

    def release(self) -> None:
        """Tell a sender that gave the transfer up when nothing reads its bytes any more."""
        if self.given_up and self._lane is None and not self._storing:
            self.given_up = False
            self._intake.refuse(self._number, CairnError(common_pb2.ERROR_CODE_INTERRUPTED, "given up"))

    def _work(self, jobs: "list[transfers.Write | transfers.Finish | transfers.Discard]") -> None:
        store = self._intake.disk.store
        try:
            for job in jobs:
                match job:
                    case transfers.Write(data):
                        if self._writer is None:
                            self._writer = store.open(
                                self.transfer.chunk_id,
                                self.transfer.length,
                                keep_in_memory=self.transfer.keep_in_memory,
                            )
                        self._writer.append(data)
                    case transfers.Finish(block_checksums):
                        assert self._writer is not None
                        self._writer.finish(block_checksums)
                    case transfers.Discard():
                        self._abort()
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()
