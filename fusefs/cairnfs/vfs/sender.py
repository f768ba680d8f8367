"""Turns unsent bytes into stored chunks and commits, for one file or for many small ones at once."""

from dataclasses import dataclass
from functools import partial

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.compactor import Compactor
from cairnfs.vfs.dirty import DirtyFile, Runs
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.state import State
from cairnfs.vfs.tasks import run_all

GONE_RETRIES = 3

Taken = list[tuple[Inode, dict[int, Runs]]]  # files, and what DirtyFile.take gave of them
Part = tuple[int, int, int, int]  # chunk index, chunk offset, file offset, length


@dataclass(slots=True)
class Content:
    """Dirty blocks of one file as chunks, and where their parts go in the file."""

    chunks: list[bytes]
    parts: list[Part]


def cut(blocks: dict[int, Runs]) -> Content:
    """Cut dirty blocks into chunks: a whole block is one; small runs share chunks of at most 4 MiB."""
    content = Content([], [])
    small = bytearray()
    pending: list[tuple[int, int, int]] = []  # chunk offset, file offset, length

    def close_small() -> None:
        if pending:
            content.parts.extend((len(content.chunks), *part) for part in pending)
            content.chunks.append(bytes(small))
            small.clear()
            pending.clear()

    for block in sorted(blocks):
        for run in blocks[block].runs:
            if len(run.data) * 2 > limits.CHUNK_MAX_BYTES:
                content.parts.append((len(content.chunks), 0, run.start, len(run.data)))
                content.chunks.append(bytes(run.data))
                continue
            if len(small) + len(run.data) > limits.CHUNK_MAX_BYTES:
                close_small()
            pending.append((len(small), run.start, len(run.data)))
            small += run.data
    close_small()
    return content


class Sender:
    """Stores and commits; who is sent and when is the flusher's business."""

    def __init__(self, state: State, compactor: Compactor) -> None:
        self._state = state
        self._compactor = compactor

    async def send(self, taken: Taken) -> dict[Inode, CairnError]:
        """Store the chunks of all files together, then commit each file; returns who failed, and why."""
        contents = [cut(blocks) for _, blocks in taken]
        try:
            stored = await self._state.chunks.store([c for content in contents for c in content.chunks])
        except CairnError as error:
            return {inode: error for inode, _ in taken}
        errors: dict[Inode, CairnError] = {}
        commits = []
        start = 0
        for (inode, _), content in zip(taken, contents, strict=True):
            mine = stored[start : start + len(content.chunks)]
            start += len(content.chunks)
            commits.append(partial(self._commit_or_note, inode, content, mine, errors))
        if len(commits) == 1:
            await commits[0]()
        else:
            await run_all(commits)
        return errors

    async def _commit_or_note(
        self, inode: Inode, content: Content, stored: list[pb.StoredChunk], errors: dict[Inode, CairnError]
    ) -> None:
        try:
            await self._commit_stored(inode, content, stored)
        except CairnError as error:
            errors[inode] = error

    async def _commit_stored(self, inode: Inode, content: Content, stored: list[pb.StoredChunk]) -> None:
        """Commit, storing again what was collected as garbage between planning and committing."""
        for attempt in range(GONE_RETRIES):
            try:
                for start in range(0, len(content.parts), limits.COMMIT_SLICES_MAX):
                    part = content.parts[start : start + limits.COMMIT_SLICES_MAX]
                    await self._commit(inode, part, stored, inode.dirty)
            except CairnError as error:
                if error.code != common.ERROR_CODE_CHUNK_GONE or attempt == GONE_RETRIES - 1:
                    raise
                stored = await self._state.chunks.store(content.chunks)
            else:
                return

    async def write_through(
        self, inode: Inode, offset: int, data: bytes, *, if_size: int | None = None
    ) -> None:
        """Store and commit `data` now, beside what waits in memory; for files that other mounts write, too.

        Raises CairnError CONFLICT when `if_size` is given and the file has another size.
        """
        fresh = DirtyFile()
        fresh.write(offset, data, 0.0, self._state.clock.wall_ns())
        content = cut(fresh.unsent)
        stored = await self._state.chunks.store(content.chunks)
        await self._commit(inode, content.parts, stored, fresh, if_size)

    async def send_attributes(self, inode: Inode) -> None:
        """Send waiting attribute changes, if any; raises what made that fail."""
        change = inode.pending.take()
        if change is None:
            return
        done = False
        try:
            await self._state.session.call(change)
            done = True
        except CairnError as error:
            done = error.code == common.ERROR_CODE_NOT_FOUND  # removed for good
            if not done or inode.handles:
                raise
        finally:
            inode.pending.sent() if done else inode.pending.failed()

    async def _commit(
        self,
        inode: Inode,
        parts: list[Part],
        stored: list[pb.StoredChunk],
        times: DirtyFile,
        if_size: int | None = None,
    ) -> None:
        used = sorted({index for index, _, _, _ in parts})
        reply: pb.CommitWriteReply = await self._state.session.call(
            pb.CommitWrite(
                ino=inode.ino,
                slices=[
                    common.Slice(
                        offset=offset,
                        length=length,
                        chunk_id=stored[index].chunk_id,
                        chunk_offset=chunk_offset,
                    )
                    for index, chunk_offset, offset, length in parts
                ],
                chunks=[stored[index] for index in used],
                size=max(offset + length for _, _, offset, length in parts),
                mtime_ns=times.mtime_ns,
                ctime_ns=times.ctime_ns,
                if_size=if_size,
            )
        )
        if reply.most_slices >= limits.SLICES_COMPACT:
            self._compactor.consider(inode, {offset // limits.BLOCK_BYTES for _, _, offset, _ in parts})
