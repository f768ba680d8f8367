"""The chunk client: hashes, plans, stores and retrieves chunks for the layers above.

docs/internals/replication.md explains the protocol.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from cairnfs.base import checksums, limits
from cairnfs.base.errors import CairnError
from cairnfs.client.interface import ChunkPlace, MetadataSession
from cairnfs.client.local_reads import InThread, LocalReader, in_threads
from cairnfs.client.node_ranking import NodeRanking
from cairnfs.client.planner import Planner
from cairnfs.client.retrieving import Piece, Retriever
from cairnfs.client.side_socket import SideDialer, dial
from cairnfs.client.storing import Storer
from cairnfs.client.transport import ChunkTransport
from cairnfs.client.waiting import ByteBudget, gather
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

Hasher = Callable[[bytes], Awaitable[bytes]]

_CHECK_PROGRESS_S = 1.0
_HASHING_THREADS = 4


class ThreadHasher:
    """SHA-256 in worker threads, where it runs beside the event loop; small chunks at once."""

    def __init__(self, threads: int = _HASHING_THREADS) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def __call__(self, data: bytes) -> bytes:
        """The chunk id of `data`."""
        if len(data) <= limits.HASH_INLINE_MAX_BYTES:
            return checksums.chunk_id(data)
        return await trio.to_thread.run_sync(checksums.chunk_id, data, limiter=self._limiter)


class ChunkClient:
    """Implements `ChunkIO`. Make one with `open`, which owns its tasks."""

    def __init__(
        self,
        session: MetadataSession,
        transport: ChunkTransport,
        host_id: str,
        nursery: trio.Nursery,
        hasher: Hasher | None = None,
        dialer: SideDialer = dial,
        in_thread: InThread | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._hasher = hasher or ThreadHasher()
        ranking = NodeRanking(session.node, host_id, clock)
        self._storer = Storer(session, transport, Planner(session, nursery), ranking, nursery, clock, dialer)
        self._retriever = Retriever(session, transport, ranking, nursery, clock, self._hasher)
        self._local = LocalReader(
            ranking, nursery, clock, dialer, self._retriever.failed, in_thread or in_threads()
        )
        self._retrieving = ByteBudget(limits.RETRIEVE_WINDOW_BYTES)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        session: MetadataSession,
        transport: ChunkTransport,
        host_id: str,
        hasher: Hasher | None = None,
        dialer: SideDialer = dial,
        in_thread: InThread | None = None,
    ) -> "AsyncGenerator[ChunkClient]":
        """A working client; at the end all its streams are dropped. Calls must have ended by then.

        `hasher` and `in_thread` do what blocks, in threads unless given; `dialer` reaches datanodes of this
        host whose files may be read without them.
        """
        async with trio.open_nursery() as nursery:
            client = cls(session, transport, host_id, nursery, hasher, dialer, in_thread)
            nursery.start_soon(client._watch_progress)
            try:
                yield client
            finally:
                nursery.cancel_scope.cancel()
                client._local.close()

    async def store(self, chunks: Sequence[bytes]) -> list[pb.StoredChunk]:
        """See `ChunkIO.store`. Equal chunks are sent once."""
        if any(not 1 <= len(data) <= limits.CHUNK_MAX_BYTES for data in chunks):
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "a chunk has 1 to CHUNK_MAX_BYTES bytes")
        ids = await gather([partial(self._hasher, data) for data in chunks])
        wanted = dict(zip(ids, chunks, strict=True))
        specs = [pb.ChunkSpec(chunk_id=name, length=len(data)) for name, data in wanted.items()]
        plans = await self._storer.plan(specs) if specs else {}
        stored = await gather(
            [partial(self._storer.store, spec, wanted[spec.chunk_id], plans[spec.chunk_id]) for spec in specs]
        )
        by_id = {each.chunk_id: each for each in stored}
        return [by_id[name] for name in ids]

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        """See `ChunkIO.retrieve`."""
        if offset < 0 or length < 0 or offset + length > chunk_length:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "range outside of the chunk")
        if length == 0:
            return b""
        piece = Piece(chunk_id, chunk_length, offset, length)
        if (data := self._local.read_at_once(piece)) is not None:
            await trio.lowlevel.checkpoint_if_cancelled()
            return data
        held = await self._retrieving.acquire(length)
        try:
            data = await self._local.read(piece, nodes)
            return data if data is not None else await self._retriever.retrieve(piece, nodes)
        finally:
            self._retrieving.release(held)

    def place(self, chunk_id: bytes) -> ChunkPlace | None:
        """See `ChunkIO.place`."""
        return self._local.place(chunk_id)

    async def find_places(self, chunks: Sequence[tuple[bytes, Sequence[int]]]) -> None:
        """See `ChunkIO.find_places`."""
        await self._local.find_places(chunks)

    async def _watch_progress(self) -> None:
        while True:
            await trio.sleep(_CHECK_PROGRESS_S)
            self._storer.check_progress()
            self._retriever.check_progress()
            self._local.check_progress()
