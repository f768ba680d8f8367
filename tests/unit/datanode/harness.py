"""Datanodes in this process on loopback, a small fake of the coordinator's Nodes service, and a client."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from cairnfs.base import limits
from cairnfs.base.settings import DatanodeSettings
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.datanode.coordinators import CHANNEL_OPTIONS
from cairnfs.datanode.node import Datanode
from cairnfs.datanode.peers import CHUNKS
from cairnfs.datanode.store.checked import crc_of
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, nodes_pb2, nodes_pb2_grpc

DEADLINE_S = 30.0


def content(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(b"%d" % seed).digest(size)


def name(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def frames_of(
    data: bytes,
    replicas: Sequence[int] = (),
    *,
    transfer: int = 1,
    wanted: int = 0,
    session: str = "",
    frame_bytes: int = limits.FRAME_MAX_BYTES,
) -> list[ChunkFrame]:
    frames: list[ChunkFrame] = []
    for offset in range(0, len(data), frame_bytes):
        part = data[offset : offset + frame_bytes]
        frames.append(ChunkFrame(transfer, offset, part, crc_of(part), offset + len(part) == len(data)))
    frames[0].header = chunks_pb2.ChunkHeader(
        chunk_id=name(data),
        length=len(data),
        replicas=replicas,
        wanted_replicas=wanted,
        replication_session=session,
    )
    return frames


class FakeCoordinator(nodes_pb2_grpc.NodesServicer):
    """Gives numbers, remembers what it is told, and hands out what a test puts into it."""

    def __init__(self) -> None:
        self.cluster_id = "fake-cluster"
        self.nodes: dict[str, common_pb2.NodeInfo] = {}
        self.version = 0
        self.registrations = 0
        self.forgotten = False
        self.resync = False
        self.unavailable = False
        self.tasks: dict[int, list[nodes_pb2.Task]] = {}
        self.results: dict[int, nodes_pb2.TaskResult] = {}
        self.corrupt: set[bytes] = set()
        self.heartbeats: list[nodes_pb2.HeartbeatRequest] = []
        self.reports: dict[int, list[bytes]] = {}
        self.reported_damaged: set[bytes] = set()
        self.changed = asyncio.Condition()

    def map(self) -> common_pb2.ClusterMap:
        return common_pb2.ClusterMap(version=self.version, nodes=self.nodes.values())

    async def Register(self, request: nodes_pb2.RegisterRequest, context: Any) -> nodes_pb2.RegisterReply:
        if self.unavailable:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if request.cluster_id not in ("", self.cluster_id):
            return nodes_pb2.RegisterReply(
                error=common_pb2.ERROR_CODE_WRONG_CLUSTER, detail="this is another cluster"
            )
        self.registrations += 1
        self.version += 1
        known = self.nodes.get(request.uuid)
        number = known.node if known else request.node or len(self.nodes) + 1
        self.nodes[request.uuid] = common_pb2.NodeInfo(
            node=number,
            uuid=request.uuid,
            address=request.address,
            unix_socket=request.unix_socket,
            host_id=request.host_id,
            state=common_pb2.NODE_STATE_HEALTHY,
        )
        self.forgotten = False
        await self._tell()
        return nodes_pb2.RegisterReply(
            node=number, cluster_id=self.cluster_id, cluster_map=self.map(), heartbeat_ms=50
        )

    async def Heartbeat(self, request: nodes_pb2.HeartbeatRequest, context: Any) -> nodes_pb2.HeartbeatReply:
        if self.unavailable:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        if self.forgotten:
            return nodes_pb2.HeartbeatReply(error=common_pb2.ERROR_CODE_NODE_UNKNOWN)
        self.heartbeats.append(request)
        self.results.update({result.id: result for result in request.results})
        self.corrupt.update(request.corrupt)
        await self._tell()
        reply = nodes_pb2.HeartbeatReply(tasks=self.tasks.pop(request.node, []), next_heartbeat_ms=50)
        if self.resync:
            reply.requires_full_resync = True
            reply.cluster_map.CopyFrom(self.map())
        elif request.seen_version < self.version:
            for info in self.nodes.values():
                reply.updates.add(version=self.version, info=info)
        return reply

    async def ReportChunks(
        self, pages: AsyncIterator[nodes_pb2.ChunkReport], _context: Any
    ) -> nodes_pb2.ChunkReportReply:
        ids: list[bytes] = []
        async for page in pages:
            ids += [chunk.chunk_id for chunk in page.chunks]
            self.reported_damaged.update(chunk.chunk_id for chunk in page.chunks if chunk.damaged)
            if page.end:
                self.reports[page.node] = ids
        await self._tell()
        return nodes_pb2.ChunkReportReply()

    def informed(self) -> set[int]:
        """Nodes whose last heartbeat had seen the newest version."""
        return {beat.node for beat in self.heartbeats if beat.seen_version == self.version}

    async def ChangeNode(
        self, _request: nodes_pb2.ChangeNodeRequest, _context: Any
    ) -> nodes_pb2.ChangeNodeReply:
        return nodes_pb2.ChangeNodeReply()

    async def UpkeepStatus(
        self, _request: nodes_pb2.UpkeepStatusRequest, _context: Any
    ) -> nodes_pb2.UpkeepStatusReply:
        return nodes_pb2.UpkeepStatusReply()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S), self.changed:
            await self.changed.wait_for(reached)

    async def do(self, node: int, **kind: Any) -> nodes_pb2.TaskResult:
        number = 1 + len(self.results)
        self.tasks[node] = [nodes_pb2.Task(id=number, **kind)]
        await self.until(lambda: number in self.results)
        return self.results[number]


@asynccontextmanager
async def coordinator() -> AsyncIterator[tuple[FakeCoordinator, str]]:
    fake = FakeCoordinator()
    server = grpc.aio.server()
    nodes_pb2_grpc.add_NodesServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield fake, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def datanode(data: Path, coordinators: str, **settings: Any) -> AsyncIterator[Datanode]:
    node = Datanode(DatanodeSettings(data=data, coordinators=coordinators, reserve_bytes=0, **settings))
    await node.start()
    running = asyncio.create_task(node.run())
    try:
        yield node
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await node.stop()


class Client:
    """Speaks the bulk protocol to one datanode the way any gRPC client may."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def open_store(self) -> Any:
        return self._channel.stream_stream(
            CHUNKS + "StoreChunk", response_deserializer=chunks_pb2.ChunkDataAck.FromString
        )()

    def open_replica(self) -> Any:
        return self._channel.stream_stream(
            CHUNKS + "ChunkDataStream", response_deserializer=chunks_pb2.ChunkDataAck.FromString
        )()

    async def replicate(self, request: chunks_pb2.ReplicateChunkRequest) -> chunks_pb2.ReplicateChunkReply:
        call = self._channel.unary_unary(
            CHUNKS + "ReplicateChunk",
            request_serializer=chunks_pb2.ReplicateChunkRequest.SerializeToString,
            response_deserializer=chunks_pb2.ReplicateChunkReply.FromString,
        )
        reply: chunks_pb2.ReplicateChunkReply = await call(request, timeout=DEADLINE_S)
        return reply

    async def store(self, frames: Sequence[ChunkFrame]) -> chunks_pb2.ChunkDataAck:
        """Send one transfer without waiting for credit (a chunk fits); returns the final answer."""
        call = self.open_store()
        async with asyncio.timeout(DEADLINE_S):
            for frame in frames:
                await call.write(encode_chunk_data(frame))
            await call.done_writing()
            return await final_answer(call.read)

    async def retrieve(self, chunk_id: bytes, offset: int = 0, length: int = 0) -> tuple[bytes, ChunkFrame]:
        """The bytes, and the last frame (which carries an error, if any)."""
        call: Any = self._channel.stream_stream(
            CHUNKS + "RetrieveChunk",
            request_serializer=chunks_pb2.RetrieveChunkRequest.SerializeToString,
        )()
        request = chunks_pb2.RetrieveChunkRequest(transfer=3, chunk_id=chunk_id, offset=offset, length=length)
        data = b""
        async with asyncio.timeout(DEADLINE_S):
            await call.write(request)
            while True:
                frame = decode_chunk_data(await call.read())
                assert crc_of(frame.data) == frame.crc32c
                data += frame.data
                if frame.is_final or frame.error:
                    await call.done_writing()
                    return data, frame


async def eventually(reached: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again, for things of which nobody tells us."""
    async with asyncio.timeout(DEADLINE_S):
        while not await reached():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def final_answer(read: Callable[[], Awaitable[Any]]) -> chunks_pb2.ChunkDataAck:
    while True:
        ack = await read()
        assert isinstance(ack, chunks_pb2.ChunkDataAck), "the stream ended without an answer"
        if ack.stored or ack.error:
            return ack
