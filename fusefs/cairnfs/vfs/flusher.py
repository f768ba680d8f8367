"""Write-behind: stores unsent bytes as chunks, commits them, and bounds how much waits and how long.

Invariants: a block of a file is sent by one job at a time (DirtyFile), so commits keep the order of
writes; a byte leaves memory only after the commit that holds it was acknowledged, or with an error that
the next write, fsync or close of the file reports.
"""

from dataclasses import dataclass
from functools import partial

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.compactor import Compactor
from cairnfs.vfs.dirty import DirtyFile, Runs
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.pending import overlay
from cairnfs.vfs.state import State
from cairnfs.vfs.tasks import run_all

log = get_logger(__name__)

JOBS_MAX = 6  # sendings under way in this mount
JOB_MAX_BYTES = 4 * limits.CHUNK_MAX_BYTES
BACKGROUND_AGE_S = 1.0  # a file that was not written for this long is sent
TICK_S = 0.5
RETRY_S = 1.0
GONE_RETRIES = 3


@dataclass(slots=True)
class Sending:
    """The content of one job: chunks, and where their parts go in the file."""

    chunks: list[bytes]
    slices: list[tuple[int, int, int, int]]  # chunk index, chunk offset, file offset, length


def cut(blocks: dict[int, Runs]) -> Sending:
    """Cut dirty blocks into chunks: a whole block is one; small runs share chunks of at most 4 MiB."""
    sending = Sending([], [])
    small = bytearray()
    pending: list[tuple[int, int, int]] = []  # chunk offset, file offset, length

    def close_small() -> None:
        if pending:
            sending.slices.extend((len(sending.chunks), *part) for part in pending)
            sending.chunks.append(bytes(small))
            small.clear()
            pending.clear()

    for block in sorted(blocks):
        for run in blocks[block].runs:
            if len(run.data) * 2 > limits.CHUNK_MAX_BYTES:
                sending.slices.append((len(sending.chunks), 0, run.start, len(run.data)))
                sending.chunks.append(bytes(run.data))
                continue
            if len(small) + len(run.data) > limits.CHUNK_MAX_BYTES:
                close_small()
            pending.append((len(small), run.start, len(run.data)))
            small += run.data
    close_small()
    return sending


class Flusher:
    """Sends dirty files."""

    def __init__(self, state: State, compactor: Compactor) -> None:
        self._state = state
        self._compactor = compactor
        self._jobs = trio.CapacityLimiter(JOBS_MAX)
        self._dirty: set[Inode] = set()
        self._retry_at_s: dict[int, float] = {}
        self._refusal: CairnError | None = None  # while the cluster is full

    # ------------------------------------------------------------------ what others call

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        """Take bytes into memory; the caller has checked that they may wait there."""
        clock = self._state.clock
        grown = inode.dirty.write(offset, data, clock.monotonic(), clock.wall_ns())
        self._state.dirty_bytes += grown
        self._dirty.add(inode)
        inode.pending.written()
        attr = inode.attr
        if attr is not None:
            attr.size = max(attr.size, offset + len(data))
            attr.mtime_ns = attr.ctime_ns = inode.dirty.mtime_ns
        if (offset + len(data)) % limits.BLOCK_BYTES == 0:
            full = inode.dirty.full_blocks()
            if full:
                self._state.spawn(self._send_quietly, inode, full)

    def change(self, inode: Inode, change: pb.SetAttr) -> None:
        """Take an attribute change into memory; the caller has checked that it may wait there."""
        clock = self._state.clock
        now_ns = clock.wall_ns()
        inode.pending.add(change, clock.monotonic(), now_ns)
        self._dirty.add(inode)
        if inode.attr is not None:
            overlay(inode.attr, inode.pending.unsent)

    async def throttle(self, inode: Inode) -> None:
        """Wait while too many bytes are unsent.

        Raises what keeps those of `inode` from being sent, or NO_SPACE when a full cluster keeps any.
        """
        if self._state.dirty_bytes <= self._state.policy.dirty_max_bytes:
            return
        self._push()
        async with self._state.dirty_freed:
            while self._state.dirty_bytes > self._state.policy.dirty_max_bytes:
                if inode.error is not None:
                    raise inode.error
                if self._refusal is not None:
                    raise CairnError(self._refusal.code, self._refusal.detail)
                await self._state.dirty_freed.wait()

    async def flush(self, inode: Inode) -> None:
        """Return when everything written so far is committed; raises what made that fail."""
        self._retry_at_s.pop(inode.ino, None)
        while inode.unsaved:
            blocks = [block for block in inode.dirty.unsent if block not in inode.dirty.sending]
            if blocks:
                await self._send(inode, blocks[: 4 * JOB_MAX_BYTES // limits.BLOCK_BYTES])
            elif inode.pending.unsent is not None and not inode.dirty:
                await self._send_attributes(inode)
            else:  # another task is sending; it ends with a notification
                async with self._state.dirty_freed:
                    if inode.dirty.sending or inode.pending.sending:
                        await self._state.dirty_freed.wait()
        self._dirty.discard(inode)

    async def flush_all(self) -> None:
        """Send everything; raises the first error after trying all files."""
        first: CairnError | None = None
        for inode in list(self._dirty):
            try:
                await self.flush(inode)
            except CairnError as error:
                first = first or error
        if first is not None:
            raise first

    async def write_through(
        self, inode: Inode, offset: int, data: bytes, *, if_size: int | None = None
    ) -> None:
        """Store and commit `data` now, beside what waits in memory; for files that other mounts write, too.

        Raises CairnError CONFLICT when `if_size` is given and the file has another size.
        """
        fresh = DirtyFile()
        fresh.write(offset, data, 0.0, self._state.clock.wall_ns())
        sending = cut(fresh.unsent)
        stored = await self._state.chunks.store(sending.chunks)
        await self._commit(inode, sending.slices, stored, fresh, if_size)

    def discard(self, inode: Inode, end: int = 0) -> None:
        """Forget unsent bytes from offset `end` on: they were truncated away or have no name any more."""
        self._freed(inode.dirty.cut(end) if end else inode.dirty.discard())

    def abandon(self, inode: Inode, error: CairnError) -> None:
        """Unsent bytes cannot be saved: forget them, and let the file's next call report it."""
        inode.error = error
        inode.pending.clear()
        self.discard(inode)

    def forget(self, inode: Inode) -> None:
        """The file is gone: nothing of it is to be sent."""
        inode.pending.clear()
        self.discard(inode)
        self._dirty.discard(inode)

    async def run(self) -> None:
        """Send files that have waited long enough; runs as long as the mount."""
        while True:
            await trio.sleep(TICK_S)
            self._push()

    # ------------------------------------------------------------------ sending

    def _push(self) -> None:
        """Start sending old files, or all when memory is short."""
        now = self._state.clock.monotonic()
        short = self._state.dirty_bytes > self._state.policy.dirty_max_bytes // 2
        for inode in list(self._dirty):
            if not inode.unsaved:
                self._dirty.discard(inode)
            elif self._retry_at_s.get(inode.ino, 0.0) > now:
                continue
            elif inode.dirty.unsent and (short or now - inode.dirty.since_s >= BACKGROUND_AGE_S):
                self._state.spawn(self._send_quietly, inode, list(inode.dirty.unsent))
            elif not inode.dirty and now - inode.pending.since_s >= BACKGROUND_AGE_S:
                self._state.spawn(self._send_quietly, inode, [])

    async def _send_quietly(self, inode: Inode, blocks: list[int]) -> None:
        """Send in the background: a failure is kept for the next call on the file, and tried again."""
        try:
            await self._send(inode, blocks)
            if not inode.dirty:
                await self._send_attributes(inode)
        except CairnError as error:
            if inode.error is None:
                log.warning("writing behind failed; it is tried again", ino=inode.ino, error=str(error))
            inode.error = error
            self._retry_at_s[inode.ino] = self._state.clock.monotonic() + RETRY_S

    async def _send(self, inode: Inode, blocks: list[int]) -> None:
        unsent = inode.dirty.unsent
        size_bytes = sum(unsent[block].size_bytes for block in blocks if block in unsent)
        step = JOB_MAX_BYTES // limits.BLOCK_BYTES if size_bytes > JOB_MAX_BYTES else max(1, len(blocks))
        await run_all(
            partial(self._job, inode, blocks[index : index + step]) for index in range(0, len(blocks), step)
        )

    async def _job(self, inode: Inode, blocks: list[int]) -> None:
        async with self._jobs:
            taken = inode.dirty.take(blocks)
            if not taken:
                return
            done = False
            try:
                await self._store_and_commit(inode, taken)
                done = True
                self._refusal = None
            except CairnError as error:
                if error.code == common.ERROR_CODE_NO_SPACE:
                    self._refusal = error
                done = error.code == common.ERROR_CODE_NOT_FOUND  # removed for good: nothing left to save
                if not done or inode.handles:
                    raise
            finally:
                self._freed(inode.dirty.sent(taken) if done else inode.dirty.failed(taken))
                await self._notify()

    async def _send_attributes(self, inode: Inode) -> None:
        change = inode.pending.take()
        if change is None:
            return
        done = False
        try:
            await self._state.session.call(change)
            done = True
        except CairnError as error:
            done = error.code == common.ERROR_CODE_NOT_FOUND
            if not done or inode.handles:
                raise
        finally:
            inode.pending.sent() if done else inode.pending.failed()
            await self._notify()

    async def _notify(self) -> None:
        """Wake whoever waits for memory, or for the end of a sending."""
        with trio.CancelScope(shield=True):
            async with self._state.dirty_freed:
                self._state.dirty_freed.notify_all()

    async def _store_and_commit(self, inode: Inode, blocks: dict[int, Runs]) -> None:
        sending = cut(blocks)
        for attempt in range(GONE_RETRIES):
            stored = await self._state.chunks.store(sending.chunks)
            try:
                for start in range(0, len(sending.slices), limits.COMMIT_SLICES_MAX):
                    part = sending.slices[start : start + limits.COMMIT_SLICES_MAX]
                    await self._commit(inode, part, stored, inode.dirty)
            except CairnError as error:
                if error.code != common.ERROR_CODE_CHUNK_GONE or attempt == GONE_RETRIES - 1:
                    raise
            else:
                return

    async def _commit(
        self,
        inode: Inode,
        slices: list[tuple[int, int, int, int]],
        stored: list[pb.StoredChunk],
        times: DirtyFile,
        if_size: int | None = None,
    ) -> None:
        used = sorted({index for index, _, _, _ in slices})
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
                    for index, chunk_offset, offset, length in slices
                ],
                chunks=[stored[index] for index in used],
                size=max(offset + length for _, _, offset, length in slices),
                mtime_ns=times.mtime_ns,
                ctime_ns=times.ctime_ns,
                if_size=if_size,
            )
        )
        if reply.most_slices >= limits.SLICES_COMPACT:
            self._compactor.consider(inode, {offset // limits.BLOCK_BYTES for _, _, offset, _ in slices})

    def _freed(self, freed_bytes: int) -> None:
        self._state.dirty_bytes -= freed_bytes
