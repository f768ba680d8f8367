"""Reads: unsent bytes over committed extents over holes, with whole chunks fetched ahead."""

from functools import partial

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.extents import Extent, from_slice
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.state import FileHandle, State
from cairnfs.vfs.tasks import run_all

log = get_logger(__name__)

LOOK_AHEAD_BLOCKS = 64  # extents asked for at once
PREFETCH_CHUNKS = 3
SMALL_CHUNK_BYTES = 256 * limits.KIB  # fetched whole at once
WHOLE_AFTER_MISSES = 3  # partial reads of one chunk until it is fetched whole
ATTEMPTS = 3


class Reader:
    """Reads file content for one mount."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def read(self, file: FileHandle, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes at `offset`; fewer only at the end of the file."""
        inode = file.inode
        sequential = offset == file.read_end
        file.sequential_reads = file.sequential_reads + 1 if sequential else 0
        for attempt in range(ATTEMPTS):
            extents, file_size = await self._extents(inode, offset, size, direct=file.direct)
            end = min(offset + size, file_size)
            if end <= offset:
                return b""
            file.read_end = end
            try:
                if sequential:
                    self._prefetch(inode, end)
                fits = file_size <= self._state.policy.read_cache_max_bytes
                return await self._assemble(inode, extents, offset, end, whole=sequential, fits=fits)
            except CairnError as error:
                # What was planned may have been replaced and collected meanwhile: ask for it anew.
                if attempt == ATTEMPTS - 1:
                    raise
                log.debug("reading again after an error", ino=inode.ino, error=str(error))
                inode.extents.forget(offset, offset + size)
        raise AssertionError("unreachable")

    async def extents(self, inode: Inode, offset: int, size: int) -> tuple[list[Extent], int]:
        """The committed extents that overlap a range, and the file's size."""
        return await self._extents(inode, offset, size, direct=False)

    async def _extents(
        self, inode: Inode, offset: int, size: int, *, direct: bool
    ) -> tuple[list[Extent], int]:
        state = self._state
        end = offset + size
        if not direct and state.leased(inode) and inode.attr is not None:
            end = min(end, inode.attr.size)
            if end <= offset or inode.extents.knows(offset, end):
                return (inode.extents.within(offset, end) if end > offset else []), inode.attr.size
        length = max(size, LOOK_AHEAD_BLOCKS * limits.BLOCK_BYTES)
        if direct:
            length = size
        reply: pb.ExtentsReply = await state.session.call(
            pb.GetExtents(ino=inode.ino, offset=offset, length=length, no_lease=direct)
        )
        file_size = max(reply.attr.size, inode.dirty.end)
        found = (from_slice(item) for item in reply.slices)
        return [e.clip(offset, end) for e in found if e.start < end and e.end > offset], file_size

    async def _assemble(
        self, inode: Inode, extents: list[Extent], start: int, end: int, *, whole: bool, fits: bool
    ) -> bytes | memoryview:
        pieces = inode.dirty.pieces(start, end) if inode.dirty else []
        if len(extents) == 1 and not pieces and extents[0].start == start and extents[0].end == end:
            return await self.fetch(extents[0], whole=whole, fits=fits)
        buffer = bytearray(end - start)
        if len(extents) == 1:
            await self._fill(buffer, start, extents[0], whole, fits)
        elif extents:
            await run_all(partial(self._fill, buffer, start, extent, whole, fits) for extent in extents)
        for piece in pieces:
            buffer[piece.start - start : piece.start - start + len(piece.data)] = piece.data
        return memoryview(buffer)

    async def _fill(self, buffer: bytearray, start: int, extent: Extent, whole: bool, fits: bool) -> None:
        data = await self.fetch(extent, whole=whole, fits=fits)
        buffer[extent.start - start : extent.end - start] = data

    async def fetch(self, extent: Extent, *, whole: bool, fits: bool = True) -> bytes | memoryview:
        """The bytes of one extent; with `whole` its chunk is kept in memory.

        `fits`: all chunks of the file find room there together. When they do not, random reads would drop
        each chunk before it is used again, so only what is asked for is fetched.
        """
        cache = self._state.chunk_cache
        data = cache.get(extent.chunk_id)
        if data is None:
            part = extent.length * 2 < extent.chunk_length and extent.chunk_length > SMALL_CHUNK_BYTES
            wanted = whole or not part or extent.chunk_id in cache.fetching
            if not wanted and not (fits and cache.count_miss(extent.chunk_id) >= WHOLE_AFTER_MISSES):
                return await self._state.chunks.retrieve(
                    extent.chunk_id, extent.chunk_length, extent.nodes, extent.chunk_offset, extent.length
                )
            data = await self._fetch_whole(extent)
        return memoryview(data)[extent.chunk_offset : extent.chunk_offset + extent.length]

    async def _fetch_whole(self, extent: Extent) -> bytes:
        cache = self._state.chunk_cache
        while (fetching := cache.fetching.get(extent.chunk_id)) is not None:
            await fetching.wait()
            data = cache.get(extent.chunk_id)
            if data is not None:
                return data
        done = cache.fetching[extent.chunk_id] = trio.Event()
        try:
            data = await self._state.chunks.retrieve(
                extent.chunk_id, extent.chunk_length, extent.nodes, 0, extent.chunk_length
            )
            cache.put(extent.chunk_id, data)
            return data
        finally:
            del cache.fetching[extent.chunk_id]
            done.set()

    def _prefetch(self, inode: Inode, offset: int) -> None:
        """Fetch the chunks that a sequential reader will want next."""
        end = offset + PREFETCH_CHUNKS * limits.BLOCK_BYTES
        for extent in inode.extents.within(offset, end):
            cache = self._state.chunk_cache
            if extent.chunk_id not in cache and extent.chunk_id not in cache.fetching:
                self._state.spawn(self._fetch_quietly, extent)

    async def _fetch_quietly(self, extent: Extent) -> None:
        try:
            cache = self._state.chunk_cache
            if extent.chunk_id not in cache and extent.chunk_id not in cache.fetching:
                await self._fetch_whole(extent)
        except CairnError as error:
            log.debug("reading ahead failed", error=str(error), code=common.ErrorCode.Name(error.code))
