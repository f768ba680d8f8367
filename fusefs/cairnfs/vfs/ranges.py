"""Operations on ranges of a file: fallocate, SEEK_HOLE and SEEK_DATA, copies by reference."""

import os

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.base import Part
from cairnfs.vfs.inodes import Inode

SEEK_STEP_BYTES = 256 * limits.BLOCK_BYTES


class RangeOps(Part):
    """The part of the file system that works on ranges without moving bytes."""

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2): allocate, keep size, punch a hole, zero a range."""
        file = self.state.file(handle)
        if not file.writable:
            raise CairnError(common.ERROR_CODE_INVALID, "not open for writing")
        await self.flusher.flush(file.inode)
        op = pb.Fallocate(ino=file.inode.ino, offset=offset, length=length, mode=mode)
        await self.state.session.call(op)

    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        """The next data (SEEK_DATA) or hole (SEEK_HOLE) at or after `offset`; NO_DEVICE past the end."""
        inode = self.state.file(handle).inode
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise CairnError(common.ERROR_CODE_INVALID, f"whence {whence}")
        if offset < 0:  # the kernel leaves this check to the file system
            raise CairnError(common.ERROR_CODE_NO_DEVICE, f"offset {offset}")
        await self.flusher.flush(inode)
        position = offset
        while True:
            found, size = await self._seek_step(inode, position, whence)
            if position >= size:
                if whence == os.SEEK_HOLE and offset < size:
                    return size
                raise CairnError(common.ERROR_CODE_NO_DEVICE, "beyond the end of the file")
            if found is not None:
                return min(found, size)
            position = (position // SEEK_STEP_BYTES + 1) * SEEK_STEP_BYTES

    async def _seek_step(self, inode: Inode, position: int, whence: int) -> tuple[int | None, int]:
        """Search up to the next step border: the offset found, if any, and the file's size."""
        border = (position // SEEK_STEP_BYTES + 1) * SEEK_STEP_BYTES
        extents, size = await self.reader.extents(inode, position, border - position)
        if whence == os.SEEK_DATA:
            return (extents[0].start if extents else None), size
        for extent in extents:
            if extent.start > position:
                break
            position = extent.end
        return (position if position < border else None), size

    async def copy_file_range(
        self, source_handle: int, source_offset: int, target_handle: int, target_offset: int, length: int
    ) -> int:
        """Copy a range by reference; may copy less than `length`. Returns how much was copied."""
        source, target = self.state.file(source_handle), self.state.file(target_handle)
        if not target.writable:
            raise CairnError(common.ERROR_CODE_INVALID, "not open for writing")
        await self.flusher.flush(source.inode)
        await self.flusher.flush(target.inode)
        reply: pb.CopyRangeReply = await self.state.session.call(
            pb.CopyRange(
                source=source.inode.ino,
                source_offset=source_offset,
                target=target.inode.ino,
                target_offset=target_offset,
                length=length,
            )
        )
        return reply.copied
