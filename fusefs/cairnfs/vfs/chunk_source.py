"""Where readers get chunks: memory, the disk cache, the datanodes; once however many ask at the same time."""

import trio

from cairnfs.client.interface import ChunkIO
from cairnfs.vfs.chunk_cache import ChunkCache, Piece
from cairnfs.vfs.disk_cache import DiskCache
from cairnfs.vfs.extents import Extent


class ChunkSource:
    """The chunks of one mount."""

    def __init__(self, chunks: ChunkIO, cache: ChunkCache, disk: DiskCache | None) -> None:
        self._chunks = chunks
        self._cache = cache
        self._disk = disk
        self._fetching: dict[Piece, trio.Event] = {}

    def at_hand(self, extent: Extent) -> bool:
        """Whether the whole chunk of an extent is in memory, or on its way there."""
        piece = _whole(extent)
        return piece in self._cache or piece in self._fetching

    def held(self, extent: Extent) -> memoryview | None:
        """The bytes of an extent, if they are in memory."""
        data = self._cache.get(_whole(extent))
        if data is not None:
            return memoryview(data)[extent.chunk_offset : extent.chunk_offset + extent.length]
        data = self._cache.get(_part(extent))
        return None if data is None else memoryview(data)

    async def whole(self, extent: Extent) -> memoryview:
        """The bytes of an extent; all of its chunk stays in memory. Raises what `ChunkIO.retrieve` raises."""
        data = await self._piece(_whole(extent), extent)
        return memoryview(data)[extent.chunk_offset : extent.chunk_offset + extent.length]

    async def keep_part(self, extent: Extent) -> None:
        """Have the bytes of an extent, and no more of its chunk, in memory. Raises as `whole`."""
        await self._piece(_part(extent), extent)

    async def part(self, extent: Extent) -> bytes:
        """The bytes of an extent without keeping them. Raises as `whole`."""
        fetching = self._fetching.get(_part(extent))
        if fetching is not None:
            await fetching.wait()
            data = self._cache.get(_part(extent))
            if data is not None:
                return data
        return await self._retrieve(_part(extent), extent)

    async def _piece(self, piece: Piece, extent: Extent) -> bytes:
        while (data := self._cache.get(piece)) is None:
            fetching = self._fetching.get(piece)
            if fetching is None:
                return await self._fetch(piece, extent)
            await fetching.wait()
        return data

    async def _fetch(self, piece: Piece, extent: Extent) -> bytes:
        done = self._fetching[piece] = trio.Event()
        try:
            data = await self._retrieve(piece, extent)
            self._cache.put(piece, data)
            return data
        finally:
            del self._fetching[piece]
            done.set()

    async def _retrieve(self, piece: Piece, extent: Extent) -> bytes:
        chunk_id, offset, length = piece
        disk = self._disk
        if disk is not None:
            data = await disk.get(chunk_id, extent.chunk_length, offset, length)
            if data is not None:
                return data
        data = await self._chunks.retrieve(chunk_id, extent.chunk_length, extent.nodes, offset, length)
        if disk is not None and length == extent.chunk_length:
            disk.keep(chunk_id, data)
        return data


def _whole(extent: Extent) -> Piece:
    return extent.chunk_id, 0, extent.chunk_length


def _part(extent: Extent) -> Piece:
    return extent.chunk_id, extent.chunk_offset, extent.length
