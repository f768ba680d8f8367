"""The gRPC service Chunks: bulk messages pass as bytes, and the bulk codec reads and writes them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.base.logs import get_logger
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.bulk.shared import SharedBuffers
from cairnfs.datanode.calls import ByteCall, Serve
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.intake import StreamIntake
from cairnfs.datanode.membership import Membership
from cairnfs.datanode.peers import Peers
from cairnfs.rpc.v1 import chunks_pb2, common_pb2
from cairnfs.serving.methods import unary
from cairnfs.serving.server import Call, Opener

_log = get_logger(__name__)

SESSIONS_MAX: Final = 4_096
_CHUNKS: Final = "/cairnfs.rpc.v1.Chunks/"

FoundCorrupt = Callable[[bytes], None]


class ChunksService:
    """Serves clients and peers."""

    def __init__(
        self,
        disk: Disk,
        peers: Peers,
        membership: Membership,
        clock: Clock,
        found_corrupt: FoundCorrupt,
        buffers: SharedBuffers,
    ) -> None:
        self._disk = disk
        self._peers = peers
        self._membership = membership
        self._clock = clock
        self._found_corrupt = found_corrupt
        self._buffers = buffers
        self._sessions: dict[str, int] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._calls: set[asyncio.Task[None]] = set()
        self._draining = False

    def methods(self) -> dict[str, Opener]:
        """What to register with a server."""
        return {
            _CHUNKS + "StoreChunk": partial(self._open, self._store_chunk),
            _CHUNKS + "RetrieveChunk": partial(self._open, self._retrieve_chunk),
            _CHUNKS + "ReplicateChunk": unary(chunks_pb2.ReplicateChunkRequest, self.replicate_chunk),
            _CHUNKS + "ChunkDataStream": partial(self._open, self._chunk_data_stream),
        }

    def _open(self, serve: Serve, call: Call) -> ByteCall:
        opened = ByteCall(call, serve)
        self._calls.add(opened.task)
        opened.task.add_done_callback(self._calls.discard)
        return opened

    async def _store_chunk(self, call: ByteCall) -> None:
        """StoreChunk: a client stores chunks here and on replicas."""
        await self._serve_intake(call, limits.STORE_WINDOW_BYTES, self._registered)

    async def _chunk_data_stream(self, call: ByteCall) -> None:
        """ChunkDataStream: a peer stores replicas here."""
        await self._serve_intake(call, limits.REPLICATION_WINDOW_BYTES, self._of_session)

    async def replicate_chunk(
        self, request: chunks_pb2.ReplicateChunkRequest, _context: None
    ) -> chunks_pb2.ReplicateChunkReply:
        """ReplicateChunk: a peer asks for a replication session."""
        mine = self._membership.cluster_id
        if not mine or request.cluster_id != mine:
            detail = f"node {self._membership.node} is of cluster {mine or 'none'}, not {request.cluster_id}"
            return chunks_pb2.ReplicateChunkReply(error=common_pb2.ERROR_CODE_WRONG_CLUSTER, detail=detail)
        if len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]
        session = new_id()
        self._sessions[session] = request.source_node
        window = max(limits.FRAME_MAX_BYTES, min(request.window_bytes, limits.REPLICATION_WINDOW_BYTES))
        return chunks_pb2.ReplicateChunkReply(
            accepted=True, replication_session=session, ready_for_next=window
        )

    def _registered(self, _header: chunks_pb2.ChunkHeader) -> None:
        if not self._membership.node:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "this datanode has not joined a cluster yet")

    def _of_session(self, header: chunks_pb2.ChunkHeader) -> None:
        if header.replication_session not in self._sessions:
            raise CairnError(common_pb2.ERROR_CODE_STALE, "unknown replication session")
        if header.replicas:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "a replica makes no further copies")

    async def _serve_intake(
        self, call: ByteCall, window_bytes: int, check: Callable[[chunks_pb2.ChunkHeader], None]
    ) -> None:
        def answer(ack: chunks_pb2.ChunkDataAck) -> bool:
            return call.write_now(ack.SerializeToString())

        intake = StreamIntake(
            self._disk, self._peers, self._membership.node, window_bytes, self._clock, answer
        )
        reader = self._reader(self._receive(call, intake, check))
        idle = asyncio.create_task(_give_up_idle(intake))
        try:
            await _acknowledge(call, intake, reader)
            if not reader.cancelled():
                reader.result()
        except CairnError as error:
            _log.info("stream refused", detail=str(error))
            raise
        finally:
            reader.cancel()
            idle.cancel()
            intake.close()

    def _reader(self, reading: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        if self._draining:
            reading.close()
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "the datanode is stopping")
        reader = asyncio.create_task(reading)
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        return reader

    async def drain(self, grace_s: float) -> None:
        """Read no more from any stream; wait up to `grace_s` until all have answered what they read."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace_s)

    async def _receive(
        self, call: ByteCall, intake: StreamIntake, check: Callable[[chunks_pb2.ChunkHeader], None]
    ) -> None:
        while (message := await call.read()) is not None:
            frame = decode_chunk_data(message)
            self._buffers.resolve(frame)
            if frame.header is not None:
                try:
                    check(frame.header)
                except CairnError as error:
                    intake.refuse(frame.transfer, error)
                    continue
            await intake.receive(frame)

    async def _retrieve_chunk(self, call: ByteCall) -> None:
        """RetrieveChunk: send chunks and ranges of them, a few at a time."""
        room = asyncio.Semaphore(limits.RETRIEVALS_QUEUED_MAX)
        turns = asyncio.Semaphore(limits.RETRIEVALS_CONCURRENT_MAX)
        sending = asyncio.Lock()
        tasks: set[asyncio.Task[None]] = set()

        async def send(frame: ChunkFrame) -> None:
            message = encode_chunk_data(frame)
            async with sending:
                await call.write(message)

        async def serve(request: chunks_pb2.RetrieveChunkRequest) -> None:
            try:
                async with turns:
                    await self._retrieve(request, send)
            finally:
                room.release()

        async def read() -> None:
            while (message := await call.read()) is not None:
                request = _request(message)
                await room.acquire()
                task = asyncio.create_task(serve(request))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        reader = self._reader(read())
        try:
            await asyncio.wait([reader])
            await asyncio.gather(*tasks)
            if not reader.cancelled():
                reader.result()
        finally:
            reader.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _retrieve(
        self, request: chunks_pb2.RetrieveChunkRequest, send: Callable[[ChunkFrame], Awaitable[None]]
    ) -> None:
        store = self._disk.store
        try:
            total = store.length(request.chunk_id)
            if total is None:
                raise CairnError(
                    common_pb2.ERROR_CODE_NOT_FOUND, f"chunk {request.chunk_id.hex()} is not here"
                )
            end = request.offset + request.length if request.length else total
            if not request.offset < end <= total:
                raise CairnError(common_pb2.ERROR_CODE_INVALID, f"no range of a chunk of {total} bytes")
            offset = request.offset
            while offset < end:
                size = min(limits.FRAME_MAX_BYTES, end - offset)
                data, crc = await self._disk.run(store.read, request.chunk_id, offset, size)
                await send(ChunkFrame(request.transfer, offset, data, crc, offset + size == end))
                offset += size
        except CairnError as error:
            if error.code in (common_pb2.ERROR_CODE_CORRUPT, common_pb2.ERROR_CODE_IO):
                _log.warning("bad chunk", chunk=request.chunk_id.hex(), detail=str(error))
                self._found_corrupt(request.chunk_id)
            await send(ChunkFrame(request.transfer, error=error.code, detail=error.detail))


def _request(message: bytes) -> chunks_pb2.RetrieveChunkRequest:
    try:
        return chunks_pb2.RetrieveChunkRequest.FromString(message)
    except DecodeError as error:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, str(error)) from None


async def _acknowledge(call: ByteCall, intake: StreamIntake, reader: "asyncio.Task[None]") -> None:
    """Send acknowledgements until the sender has closed its side and every transfer is answered."""
    reader.add_done_callback(lambda _: intake.wake())
    while True:
        if reader.cancelled():
            intake.drain()
        while intake.acks:
            await call.write(intake.acks[0].SerializeToString())
            intake.acks.popleft()  # only now: what comes meanwhile goes behind it
        if reader.done() and (intake.idle or (not reader.cancelled() and reader.exception())):
            return
        await intake.wait_for_acks()


async def _give_up_idle(intake: StreamIntake) -> None:
    while True:
        await asyncio.sleep(limits.TRANSFER_IDLE_S / 4)
        intake.give_up_idle()
