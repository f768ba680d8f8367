"""Reads: unsent bytes over committed extents over holes, with what readers will want next fetched ahead."""

from collections import deque
from functools import partial

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.client.waiting import ByteBudget
from cairnfs.rpc.v1 import metadata_pb2 as pb
from cairnfs.vfs.chunk_source import ChunkSource
from cairnfs.vfs.contents import Contents
from cairnfs.vfs.extents import Extent, from_slice
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.prefetch import Prefetcher
from cairnfs.vfs.readahead import Range
from cairnfs.vfs.state import FileHandle, State
from cairnfs.vfs.tasks import run_all

log = get_logger(__name__)

FIRST_BLOCKS = 64  # located at once where no pattern is known
SMALL_CHUNK_BYTES = 256 * limits.KIB  # fetched whole at once
WHOLE_AFTER_MISSES = 3  # partial reads of one chunk until it is fetched whole
ATTEMPTS = 3
SPAN_GAP_BYTES = limits.CHECKSUM_BLOCK_BYTES  # between parts of a chunk that are fetched together
READERS_SEEN = 16  # reads that tell how many share the memory for reading ahead


class Reader:
    """Reads file content for one mount."""

    def __init__(self, state: State, source: ChunkSource, prefetcher: Prefetcher, contents: Contents) -> None:
        self._state = state
        self._source = source
        self._contents = contents
        self._prefetcher = prefetcher
        memory_bytes = state.policy.read_cache_max_bytes
        self._ahead_bytes = memory_bytes // 2
        self._ahead = ByteBudget(max(memory_bytes // 2, 1))
        self._readers: deque[int] = deque(maxlen=READERS_SEEN)
        self._locating: dict[int, tuple[Range, trio.Event]] = {}

    async def read(self, file: FileHandle, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes at `offset`; fewer only at the end of the file."""
        inode = file.inode
        if offset == 0 and not file.direct:
            self._prefetcher.reading(inode)
        for attempt in range(ATTEMPTS):
            extents, file_size = await self._extents(inode, offset, size, direct=file.direct)
            end = min(offset + size, file_size)
            if end <= offset:
                return b""
            whole = self._look_ahead(file, offset, end, file_size) if not attempt else False
            try:
                fits = file_size <= self._state.policy.read_cache_max_bytes
                data = await self._assemble(inode, extents, offset, end, whole=whole, fits=fits)
                if not file.direct:
                    self._contents.publish_around(inode, offset)
                return data
            except CairnError as error:
                # What was planned may have been replaced and collected meanwhile: ask for it anew.
                if attempt == ATTEMPTS - 1:
                    raise
                log.debug("reading again after an error", ino=inode.ino, error=str(error))
                inode.extents.forget(offset, offset + size)
        raise AssertionError("unreachable")

    # ------------------------------------------------------------------ where the bytes are

    async def extents(self, inode: Inode, offset: int, size: int) -> tuple[list[Extent], int]:
        """The committed extents that overlap a range, and the file's size."""
        return await self._extents(inode, offset, size, direct=False)

    async def _extents(
        self, inode: Inode, offset: int, size: int, *, direct: bool
    ) -> tuple[list[Extent], int]:
        end = offset + size
        if not direct:
            known = self._known(inode, offset, end)
            if known is None and await self._located(inode, offset, end):
                known = self._known(inode, offset, end)
            if known is not None:
                return known
        length = size if direct else max(size, FIRST_BLOCKS * limits.BLOCK_BYTES)
        reply = await self._locate(inode, offset, length, direct=direct)
        file_size = max(reply.attr.size, inode.dirty.end)
        found = (from_slice(item) for item in reply.slices)
        return [e.clip(offset, end) for e in found if e.start < end and e.end > offset], file_size

    async def _located(self, inode: Inode, start: int, end: int) -> bool:
        """Wait for an answer that another task has asked for, if it tells of this range."""
        asked, arrived = self._locating.get(inode.ino, (Range(0, 0), None))
        if arrived is None or not asked.start <= start < end <= asked.end:
            return False
        await arrived.wait()
        return True

    def _known(self, inode: Inode, offset: int, end: int) -> tuple[list[Extent], int] | None:
        if not self._state.leased(inode) or inode.attr is None:
            return None
        end = min(end, inode.attr.size)
        if end <= offset:
            return [], inode.attr.size
        if not inode.extents.knows(offset, end):
            return None
        return inode.extents.within(offset, end), inode.attr.size

    async def _locate(self, inode: Inode, offset: int, length: int, *, direct: bool) -> pb.ExtentsReply:
        op = pb.GetExtents(ino=inode.ino, offset=offset, length=length, no_lease=direct)
        if direct or inode.ino in self._locating:
            reply: pb.ExtentsReply = await self._state.session.call(op)
            return reply
        arrived = trio.Event()
        self._locating[inode.ino] = Range(offset, offset + length), arrived
        try:
            reply = await self._state.session.call(op)
            return reply
        finally:
            del self._locating[inode.ino]
            arrived.set()

    # ------------------------------------------------------------------ putting it together

    async def _assemble(
        self, inode: Inode, extents: list[Extent], start: int, end: int, *, whole: bool, fits: bool
    ) -> bytes | memoryview:
        pieces = inode.dirty.pieces(start, end) if inode.dirty else []
        if len(extents) == 1 and not pieces and extents[0].start == start and extents[0].end == end:
            return await self.fetch(extents[0], whole=whole, fits=fits)
        buffer = bytearray(end - start)
        await self._gather(buffer, start, extents, whole=whole, fits=fits)
        for piece in pieces:
            buffer[piece.start - start : piece.start - start + len(piece.data)] = piece.data
        return memoryview(buffer)

    async def content(self, extents: list[Extent]) -> bytes:
        """The bytes of `extents` of one block, in order, without the holes between them."""
        start, end = extents[0].start, extents[-1].end
        buffer = bytearray(end - start)
        await self._gather(buffer, start, extents, whole=False, fits=False)
        view = memoryview(buffer)
        return b"".join(view[extent.start - start : extent.end - start] for extent in extents)

    async def _gather(
        self, buffer: bytearray, start: int, extents: list[Extent], *, whole: bool, fits: bool
    ) -> None:
        """Put the bytes of `extents` into a buffer for the file's bytes from `start` on."""
        missing: dict[bytes, list[Extent]] = {}
        for extent in extents:
            data = self._source.held(extent)
            if data is None:
                missing.setdefault(extent.chunk_id, []).append(extent)
            else:
                buffer[extent.start - start : extent.end - start] = data
        if len(missing) == 1:
            await self._fill(buffer, start, next(iter(missing.values())), whole, fits)
        elif missing:
            parts = missing.values()
            await run_all(partial(self._fill, buffer, start, part, whole, fits) for part in parts)

    async def _fill(
        self, buffer: bytearray, start: int, extents: list[Extent], whole: bool, fits: bool
    ) -> None:
        """Fetch `extents` of one chunk, those that lie near each other in it at once."""
        for span in _spans(extents):
            data = memoryview(await self.fetch(_around(span), whole=whole, fits=fits))
            for extent in span:
                at = extent.chunk_offset - span[0].chunk_offset
                buffer[extent.start - start : extent.end - start] = data[at : at + extent.length]

    async def fetch(self, extent: Extent, *, whole: bool, fits: bool = True) -> bytes | memoryview:
        """The bytes of one extent; with `whole` its chunk is kept in memory.

        `fits`: all chunks of the file find room there together. When they do not, random reads would drop
        each chunk before it is used again, so only what is asked for is fetched.
        """
        source = self._source
        data = source.held(extent)
        if data is not None:
            return data
        if self._contents.place(extent) is not None:
            return await source.part(extent)  # the pages of its file are memory enough
        part = extent.length * 2 < extent.chunk_length and extent.chunk_length > SMALL_CHUNK_BYTES
        if whole or not part or source.at_hand(extent):
            return await source.whole(extent)
        if fits and self._state.chunk_cache.count_miss(extent.chunk_id) >= WHOLE_AFTER_MISSES:
            return await source.whole(extent)
        return await source.part(extent)

    # ------------------------------------------------------------------ reading ahead

    def was_read(self, file: FileHandle, offset: int, size: int) -> None:
        """A range of a file was read without this program."""
        attr = file.inode.attr
        if attr is not None and self._state.leased(file.inode) and offset + size <= attr.size:
            self._look_ahead(file, offset, offset + size, attr.size)

    def _look_ahead(self, file: FileHandle, offset: int, end: int, file_size: int) -> bool:
        """Fetch what this reader will want next; returns whether it wants whole chunks."""
        self._readers.append(id(file))
        window_bytes = min(limits.READ_AHEAD_MAX_BYTES, self._ahead_bytes // len(set(self._readers)))
        foreseen = file.pattern.observe(offset, end - offset, file_size, window_bytes)
        if foreseen.ahead and not file.direct:
            self._state.spawn(self._fetch_ahead, file.inode, foreseen.ahead, foreseen.whole)
        return foreseen.whole

    async def _fetch_ahead(self, inode: Inode, ranges: tuple[Range, ...], whole: bool) -> None:
        try:
            begun: set[bytes] = set()
            for start, end in ranges:
                extents = await self._extents_ahead(inode, start, end)
                for extent in await self._not_here(inode, extents):
                    if extent.chunk_id not in begun:
                        if whole:
                            begun.add(extent.chunk_id)
                        size_bytes = extent.chunk_length if whole else extent.length
                        held_bytes = await self._ahead.acquire(size_bytes)
                        self._state.spawn(self._fetch_quietly, extent, whole, held_bytes)
        except CairnError as error:
            log.debug("reading ahead failed", error=str(error))

    async def _not_here(self, inode: Inode, extents: list[Extent]) -> list[Extent]:
        """Publish those that are in files of this host; returns others that are not in memory."""
        wanted = [extent for extent in extents if not self._source.at_hand(extent)]
        if wanted:
            chunks = dict.fromkeys((extent.chunk_id, extent.nodes) for extent in wanted)
            await self._state.chunks.find_places(list(chunks))
        for extent in wanted:
            self._contents.publish_around(inode, extent.start)
        return [extent for extent in wanted if self._contents.place(extent) is None]

    async def _extents_ahead(self, inode: Inode, start: int, end: int) -> list[Extent]:
        """What is known of a range after asking for what is not, and for a good deal behind it."""
        if (known := self._known(inode, start, end)) is not None:
            return known[0]
        if not self._state.leased(inode):
            return []  # somebody else wants the file: only a program may ask for it again
        if not await self._located(inode, start, end):
            await self._locate(inode, start, limits.EXTENT_BLOCKS_AHEAD * limits.BLOCK_BYTES, direct=False)
        known = self._known(inode, start, end)
        return known[0] if known is not None else []

    async def _fetch_quietly(self, extent: Extent, whole: bool, held_bytes: int) -> None:
        try:
            await (self._source.whole if whole else self._source.keep_part)(extent)
        except CairnError as error:
            log.debug("reading ahead failed", error=str(error))
        finally:
            self._ahead.release(held_bytes)


def _spans(extents: list[Extent]) -> list[list[Extent]]:
    """Extents of one chunk by their place in it, those that are near each other together."""
    ordered = sorted(extents, key=lambda extent: extent.chunk_offset)
    spans = [[ordered[0]]]
    reached = ordered[0].chunk_offset
    for extent in ordered[1:]:
        reached = max(reached, spans[-1][-1].chunk_offset + spans[-1][-1].length)
        if extent.chunk_offset <= reached + SPAN_GAP_BYTES:
            spans[-1].append(extent)
        else:
            spans.append([extent])
    return spans


def _around(span: list[Extent]) -> Extent:
    """The part of the chunk that holds all of `span`, as an extent without a place in the file."""
    if len(span) == 1:
        return span[0]
    low = span[0].chunk_offset
    length = max(extent.chunk_offset + extent.length for extent in span) - low
    return span[0]._replace(length=length)
