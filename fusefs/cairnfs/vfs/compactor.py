"""Rewrites blocks that random writes have cut into many slices as one chunk, in the background."""

from functools import partial

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.extents import Extent
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.reader import Reader
from cairnfs.vfs.state import State
from cairnfs.vfs.tasks import run_all

log = get_logger(__name__)


class Compactor:
    """Compacts blocks that this mount wrote. A block that changes meanwhile is left as it is."""

    def __init__(self, state: State, reader: Reader) -> None:
        self._state = state
        self._reader = reader
        self._busy: set[tuple[int, int]] = set()

    def consider(self, inode: Inode, blocks: set[int]) -> None:
        """Start compacting those of `blocks` that have many slices."""
        for block in blocks:
            if (inode.ino, block) not in self._busy:
                self._busy.add((inode.ino, block))
                self._state.spawn(self._compact_quietly, inode, block)

    async def _compact_quietly(self, inode: Inode, block: int) -> None:
        try:
            await self.compact(inode, block)
        except CairnError as error:
            log.debug("a block was not compacted", ino=inode.ino, block=block, error=str(error))
        finally:
            self._busy.discard((inode.ino, block))

    async def compact(self, inode: Inode, block: int) -> None:
        """Replace the slices of one block by slices of a single new chunk.

        Raises CairnError CONFLICT when the block was changed meanwhile, and what reading or storing raises.
        """
        start = block * limits.BLOCK_BYTES
        extents, _ = await self._reader.extents(inode, start, limits.BLOCK_BYTES)
        if len(extents) < limits.SLICES_COMPACT:
            return
        parts: dict[int, bytes] = {}

        async def fetch(extent: Extent) -> None:
            parts[extent.start] = bytes(await self._reader.fetch(extent, whole=False))

        await run_all(partial(fetch, extent) for extent in extents)
        content = b"".join(parts[extent.start] for extent in extents)
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
