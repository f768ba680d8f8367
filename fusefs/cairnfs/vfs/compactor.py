"""Rewrites blocks that random writes have cut into many slices as one chunk, in the background."""

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


class Compactor:
    """Compacts blocks that this mount wrote. A block that changes meanwhile is left as it is.

    That costs reading and storing 4 MiB, so it is done when a block has not been written for a while and the
    file is still wanted; at once only where the coordinator would soon refuse more slices.
    """

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader
        self._due_s: dict[tuple[int, int], float] = {}  # by inode and block

    def consider(self, inode: Inode, blocks: set[int], most_slices: int) -> None:
        """Compact `blocks` later, of which the fullest has `most_slices` since it was written just now."""
        if most_slices < limits.SLICES_COMPACT:
            return
        pause_s = 0.0 if most_slices >= limits.SLICES_URGENT else limits.COMPACT_QUIET_S
        due_s = self._state.clock.monotonic() + pause_s
        for block in blocks:
            if len(self._due_s) < limits.COMPACTIONS_WAITING_MAX or (inode.ino, block) in self._due_s:
                self._due_s[inode.ino, block] = due_s

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
                        await self._compact_quietly(inode, block)

    async def _compact_quietly(self, inode: Inode, block: int) -> None:
        """Not when another mount uses the file now, or its last name is gone."""
        if not self._state.may_buffer(inode) or inode.attr is None or inode.attr.nlink == 0:
            return
        try:
            await self.compact(inode, block)
        except CairnError as error:
            log.debug("a block was not compacted", ino=inode.ino, block=block, error=str(error))

    async def compact(self, inode: Inode, block: int) -> None:
        """Replace the slices of one block by slices of a single new chunk.

        Raises CairnError CONFLICT when the block was changed meanwhile, and what reading or storing raises.
        """
        start = block * limits.BLOCK_BYTES
        extents, _ = await self._reader.extents(inode, start, limits.BLOCK_BYTES)
        if len(extents) < limits.SLICES_COMPACT:
            return
        content = await self._reader.content(extents)
        [stored] = await self._state.chunks.store([content])
        await self._state.session.call(
            pb.ReplaceExtents(
                ino=inode.ino,
                block=block,
                expected=[
                    common.Slice(
                        offset=e.start, length=e.length, chunk_id=e.chunk_id, chunk_offset=e.chunk_offset
                    )
                    for e in extents
                ],
                slices=_slices(extents, stored.chunk_id),
                chunks=[stored],
            )
        )


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
