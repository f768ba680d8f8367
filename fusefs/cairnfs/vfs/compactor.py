"""Rewrites blocks that many small writes have cut into slices as fewer chunks, in the background.

A block cut up by random writes becomes one chunk. One that grows by small appends has few slices also while
it grows, because each append reads and writes the list of them: its last slices become one when they are
many, together with those before them that are not much larger. So a byte is rewritten only into a slice half
as large again as its own, and what an append costs grows with the logarithm of the block.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.extents import Extent
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.reader import Reader
from cairnfs.vfs.state import State

log = get_logger(__name__)

TICK_S = 1.0
MERGED_MIN = limits.SLICES_COMPACT // 2  # slices at the end of a block that are worth a merge
MERGED_MAX_BYTES = limits.PACK_CHUNK_MAX_BYTES
MERGED_RATIO = 2  # a slice at most so many times as large as all behind it together is merged with them


class Compactor:
    """Compacts blocks that this mount wrote. What changes meanwhile is left as it is.

    For a whole block that costs reading and storing 4 MiB, so it is done when a block has not been written
    for a while and the file is still wanted; at once only where the coordinator would soon refuse more.
    """

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader
        self._due_s: dict[tuple[int, int], float] = {}  # by inode and block
        self._looked_at: dict[tuple[int, int], int] = {}  # slices that a block had then
        self._merging: set[tuple[int, int]] = set()

    def consider(self, inode: Inode, blocks: set[int], most_slices: int, *, grown: bool) -> None:
        """Compact `blocks` later, of which the fullest has `most_slices` since it was written just now.

        `grown`: there is one block, and nothing but its end was written.
        """
        if most_slices < limits.SLICES_COMPACT:
            return
        pause_s = 0.0 if most_slices >= limits.SLICES_URGENT else limits.COMPACT_QUIET_S
        due_s = self._state.clock.monotonic() + pause_s
        for block in blocks:
            if len(self._due_s) < limits.COMPACTIONS_WAITING_MAX or (inode.ino, block) in self._due_s:
                self._due_s[inode.ino, block] = due_s
            if grown:
                self._consider_merge(inode, block, most_slices)

    def _consider_merge(self, inode: Inode, block: int, most_slices: int) -> None:
        key = inode.ino, block
        known = self._looked_at.get(key, 0)
        if key in self._merging or known <= most_slices < known + MERGED_MIN:
            return
        while len(self._looked_at) >= limits.COMPACTIONS_WAITING_MAX:
            del self._looked_at[next(iter(self._looked_at))]
        self._looked_at[key] = most_slices
        self._merging.add(key)
        self._state.spawn(self._merge_end, inode, block)

    async def _merge_end(self, inode: Inode, block: int) -> None:
        try:
            await self._quietly(inode, block, self.merge_end)
        finally:
            self._merging.discard((inode.ino, block))

    async def run(self) -> None:
        """Compact what is due, one block after another; runs as long as the mount."""
        while True:
            await trio.sleep(TICK_S)
            now_s = self._state.clock.monotonic()
            for (ino, block), due_s in list(self._due_s.items()):
                if due_s <= now_s and self._due_s.get((ino, block)) == due_s:
                    del self._due_s[ino, block]
                    inode = self._state.inodes.find(ino)
                    if inode is not None:
                        await self._quietly(inode, block, self.compact)

    async def _quietly(self, inode: Inode, block: int, work: Callable[[Inode, int], Awaitable[None]]) -> None:
        """Not when another mount uses the file now, or its last name is gone."""
        if not self._state.may_buffer(inode) or inode.attr is None or inode.attr.nlink == 0:
            return
        try:
            await work(inode, block)
        except CairnError as error:
            log.debug("a block was not compacted", ino=inode.ino, block=block, error=str(error))

    async def compact(self, inode: Inode, block: int) -> None:
        """Replace the slices of one block by slices of a single new chunk.

        Raises CairnError CONFLICT when the block was changed meanwhile, and what reading or storing raises.
        """
        extents = await self._extents(inode, block)
        if len(extents) >= limits.SLICES_COMPACT:
            await self._rewrite(inode, block, extents)

    async def merge_end(self, inode: Inode, block: int) -> None:
        """Make one of the last slices of a block, if they are many and small; raises as `compact` does."""
        extents = await self._extents(inode, block)
        count = mergeable([extent.length for extent in extents])
        if count:
            await self._rewrite(inode, block, extents[-count:])
            self._looked_at.pop((inode.ino, block), None)

    async def _extents(self, inode: Inode, block: int) -> list[Extent]:
        extents, _ = await self._reader.extents(inode, block * limits.BLOCK_BYTES, limits.BLOCK_BYTES)
        return extents

    async def _rewrite(self, inode: Inode, block: int, extents: list[Extent]) -> None:
        content = await self._reader.content(extents)
        [stored] = await self._state.chunks.store([content])
        if len(content) <= MERGED_MAX_BYTES:  # it may be merged again
            self._state.chunk_cache.put((stored.chunk_id, 0, len(content)), content)
        expected = [
            common.Slice(offset=e.start, length=e.length, chunk_id=e.chunk_id, chunk_offset=e.chunk_offset)
            for e in extents
        ]
        slices = _slices(extents, stored.chunk_id)
        try:
            await self._state.session.call(
                pb.ReplaceExtents(
                    ino=inode.ino, block=block, expected=expected, slices=slices, chunks=[stored]
                )
            )
        except CairnError as error:
            if error.code == common.ERROR_CODE_CONFLICT:  # what we know of the block may be at fault
                start = block * limits.BLOCK_BYTES
                inode.extents.forget(start, start + limits.BLOCK_BYTES)
            raise


def mergeable(lengths: Sequence[int]) -> int:
    """How many of the last slices of a block to make one of; `lengths` are of all its slices, in bytes."""
    count, size_bytes = MERGED_MIN, sum(lengths[-MERGED_MIN:])
    if len(lengths) < MERGED_MIN or size_bytes > MERGED_MAX_BYTES:
        return 0
    for length in reversed(lengths[:-MERGED_MIN]):
        if length > MERGED_RATIO * size_bytes or size_bytes + length > MERGED_MAX_BYTES:
            break
        count += 1
        size_bytes += length
    return count


def _slices(extents: list[Extent], chunk_id: bytes) -> list[common.Slice]:
    """Slices over the same bytes, whose content now lies in one chunk without gaps."""
    slices: list[common.Slice] = []
    chunk_offset = 0
    for extent in extents:
        last = slices[-1] if slices else None
        if last is not None and last.offset + last.length == extent.start:
            last.length += extent.length
        else:
            slices.append(
                common.Slice(
                    offset=extent.start, length=extent.length, chunk_id=chunk_id, chunk_offset=chunk_offset
                )
            )
        chunk_offset += extent.length
    return slices
