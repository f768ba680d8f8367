"""Turns unsent bytes into stored chunks and commits, for one file or for many small ones at once."""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.compactor import Compactor
from cairnfs.vfs.dirty import DirtyFile, Runs
from cairnfs.vfs.inodes import WRITE_LEASE, Inode, lay_committed
from cairnfs.vfs.journal import Entry
from cairnfs.vfs.state import State
from cairnfs.vfs.tasks import run_all

GONE_RETRIES = 3
KEPT_MAX_BYTES = 4 * limits.KIB  # a chunk stored just now stays in memory, if it is not larger
# Refusals of a commit: its chunks were collected as garbage; a block has too many slices.
_MENDED = (common.ERROR_CODE_CHUNK_GONE, common.ERROR_CODE_OVERLOADED)

Taken = list[tuple[Inode, dict[int, Runs]]]  # files, and what DirtyFile.take gave of them
Part = tuple[int, int, int, int]  # chunk index, chunk offset, file offset, length


@dataclass(slots=True)
class Content:
    """Dirty blocks of one file as chunks, and where their parts go in the file.

    `session` is how many sessions had been lost when they were written.
    """

    chunks: list[bytes]
    parts: list[Part]
    session: int = 0


@dataclass(slots=True)
class _Journaled:
    """What of one file was stored, and the commits of it that wait in the journal."""

    inode: Inode
    content: Content
    stored: list[pb.StoredChunk]
    entries: list[Entry]


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
        for content in contents:
            content.session = self._state.sessions_lost
        try:
            stored = await self._state.chunks.store([c for content in contents for c in content.chunks])
            self._check_session(contents[0])
        except CairnError as error:
            return {inode: error for inode, _ in taken}
        errors: dict[Inode, CairnError] = {}
        journaled: list[_Journaled] = []
        others: list[Callable[[], Awaitable[None]]] = []
        start = 0
        for (inode, _), content in zip(taken, contents, strict=True):
            mine = stored[start : start + len(content.chunks)]
            start += len(content.chunks)
            self._keep_small(content, mine)
            if inode.lease == WRITE_LEASE:
                entries = self._journal_commits(inode, content, mine)
                journaled.append(_Journaled(inode, content, mine, entries))
            else:
                others.append(partial(self._commit_or_note, inode, content, mine, errors))
        await self._settle(journaled, errors)
        await run_all(others)
        return errors

    def _check_session(self, content: Content) -> None:
        """Bytes of a session that ended are lost, and reported: others may have written the file since."""
        if content.session != self._state.sessions_lost:
            raise CairnError(common.ERROR_CODE_SESSION_FENCED, "the session ended before this was saved")

    def _keep_small(self, content: Content, stored: list[pb.StoredChunk]) -> None:
        """Small chunks are merged soon; fetching them for that would cost more than keeping them."""
        for data, chunk in zip(content.chunks, stored, strict=True):
            if len(data) <= KEPT_MAX_BYTES:
                self._state.chunk_cache.put((chunk.chunk_id, 0, len(data)), data)

    def _journal_commits(self, inode: Inode, content: Content, stored: list[pb.StoredChunk]) -> list[Entry]:
        entries = []
        for part in _portions(content.parts):
            op = _commit_of(inode, part, stored, inode.dirty)
            done = partial(self._committed, inode, op)
            entries.append(
                self._state.journal.add(op, None, (inode,), self._state.clock.wall_ns(), on_done=done)
            )
        return entries

    def _committed(self, inode: Inode, op: pb.CommitWrite, result: pb.BatchResult) -> None:
        lay_committed(inode, op)
        if inode.attr is not None:
            inode.attr.allocated_bytes = result.allocated_bytes
            inode.changed()
        self._consider_compaction(inode, op, result.most_slices)

    def _consider_compaction(self, inode: Inode, op: pb.CommitWrite, most_slices: int) -> None:
        if most_slices >= limits.SLICES_COMPACT:
            grown = len(op.slices) == 1 and inode.attr is not None and op.size >= inode.attr.size
            self._compactor.consider(inode, _blocks_of(op), most_slices, grown=grown)

    async def _settle(self, journaled: list[_Journaled], errors: dict[Inode, CairnError]) -> None:
        """Wait for commits in the journal; those refused for what can be mended are tried again."""
        if not journaled:
            return
        try:
            await self._state.journal.settle_to(max(one.entries[-1].number for one in journaled))
        except CairnError as error:  # they stay in the journal; repeating them is harmless
            errors.update({one.inode: error for one in journaled})
            return
        for one in journaled:
            failure = next((entry.error for entry in one.entries if entry.error is not None), None)
            if failure is not None and failure.code in _MENDED:
                gone = failure.code == common.ERROR_CODE_CHUNK_GONE
                await self._commit_or_note(one.inode, one.content, None if gone else one.stored, errors)
            elif failure is not None:
                errors[one.inode] = failure

    async def _commit_or_note(
        self,
        inode: Inode,
        content: Content,
        stored: list[pb.StoredChunk] | None,
        errors: dict[Inode, CairnError],
    ) -> None:
        try:
            await self._commit_stored(inode, content, stored)
        except CairnError as error:
            errors[inode] = error

    async def _commit_stored(
        self, inode: Inode, content: Content, stored: list[pb.StoredChunk] | None
    ) -> None:
        """Commit, storing (again) what was collected as garbage between planning and committing."""
        for attempt in range(GONE_RETRIES):
            if stored is None:
                stored = await self._state.chunks.store(content.chunks)
            try:
                for part in _portions(content.parts):
                    self._check_session(content)
                    await self._commit_with_room(inode, part, stored)
            except CairnError as error:
                if error.code != common.ERROR_CODE_CHUNK_GONE or attempt == GONE_RETRIES - 1:
                    raise
                stored = None
            else:
                return

    async def _commit_with_room(self, inode: Inode, parts: list[Part], stored: list[pb.StoredChunk]) -> None:
        """Commit; blocks with too many slices are compacted first."""
        try:
            await self._commit(inode, parts, stored, inode.dirty)
        except CairnError as error:
            if error.code != common.ERROR_CODE_OVERLOADED:
                raise
            for block in {offset // limits.BLOCK_BYTES for _, _, offset, _ in parts}:
                await self._compactor.compact(inode, block)
            await self._commit(inode, parts, stored, inode.dirty)

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
            await self._change(inode, change)
            done = True
        except CairnError as error:
            done = error.code == common.ERROR_CODE_NOT_FOUND  # removed for good
            if not done or inode.handles:
                raise
        finally:
            inode.pending.sent() if done else inode.pending.failed()

    async def _change(self, inode: Inode, change: pb.SetAttr) -> None:
        if inode.lease != WRITE_LEASE:
            await self._state.session.call(change)
            return
        entry = self._state.journal.add(change, None, (inode,), change.ctime_ns, on_done=_ignore)
        await self._state.journal.settle_to(entry.number)
        if entry.error is not None:
            raise entry.error

    async def _commit(
        self,
        inode: Inode,
        parts: list[Part],
        stored: list[pb.StoredChunk],
        times: DirtyFile,
        if_size: int | None = None,
    ) -> None:
        op = _commit_of(inode, parts, stored, times, if_size)
        reply: pb.CommitWriteReply = await self._state.session.call(op)
        self._consider_compaction(inode, op, reply.most_slices)


def _portions(parts: list[Part]) -> Iterator[list[Part]]:
    for start in range(0, len(parts), limits.COMMIT_SLICES_MAX):
        yield parts[start : start + limits.COMMIT_SLICES_MAX]


def _commit_of(
    inode: Inode,
    parts: list[Part],
    stored: list[pb.StoredChunk],
    times: DirtyFile,
    if_size: int | None = None,
) -> pb.CommitWrite:
    used = sorted({index for index, _, _, _ in parts})
    return pb.CommitWrite(
        ino=inode.ino,
        slices=[
            common.Slice(
                offset=offset, length=length, chunk_id=stored[index].chunk_id, chunk_offset=chunk_offset
            )
            for index, chunk_offset, offset, length in parts
        ],
        chunks=[stored[index] for index in used],
        size=max(offset + length for _, _, offset, length in parts),
        mtime_ns=times.mtime_ns,
        ctime_ns=times.ctime_ns,
        if_size=if_size,
    )


def _blocks_of(op: pb.CommitWrite) -> set[int]:
    return {item.offset // limits.BLOCK_BYTES for item in op.slices}


def _ignore(_result: pb.BatchResult) -> None:
    """Who waits for the entry looks at its error."""
