"""Write-behind: stores unsent bytes as chunks, commits them, and bounds how much waits and how long.

Invariants: a block of a file is sent by one job at a time (DirtyFile), so commits keep the order of
writes; a byte leaves memory only after the commit that holds it was acknowledged, or with an error that
the next write, fsync or close of the file reports.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.dirty import Runs
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.pending import overlay
from cairnfs.vfs.sender import Sender, Taken
from cairnfs.vfs.state import State
from cairnfs.vfs.tasks import run_all

log = get_logger(__name__)

Work = Callable[[], Awaitable[None]]

JOBS_MAX = 6  # sendings under way in this mount
JOB_MAX_BYTES = 4 * limits.CHUNK_MAX_BYTES
SMALL_FILE_BYTES = 256 * limits.KIB  # such files share a job
FILES_PER_JOB = 64
BACKGROUND_AGE_S = 1.0  # a file that was not written for this long is sent
TICK_S = 0.5
RETRY_S = 1.0

assert BACKGROUND_AGE_S + TICK_S < limits.DIRTY_AGE_MAX_S


class Flusher:
    """Sends dirty files."""

    def __init__(self, state: State, sender: Sender) -> None:
        self._state = state
        self._sender = sender
        self._jobs = trio.CapacityLimiter(JOBS_MAX)
        self._dirty: set[Inode] = set()
        self._queued: set[Inode] = set()  # on their way to be sent by `_push`
        self._retry_at_s: dict[int, float] = {}
        self._refusal: CairnError | None = None  # while the cluster is full

    # ------------------------------------------------------------------ what others call

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        """Take bytes into memory; the caller has checked that they may wait there."""
        self._write(inode, offset, data, self._state.clock.wall_ns())
        self._tell_room()

    def take_absorbed(self) -> None:
        """Take over what was written through open files that were published for it.

        Call it before anything that depends on what is unsent, unless a request of the kernel's began it:
        then the FUSE layer has. And after the writers of an inode were withdrawn.
        """
        written = None
        for written in self._state.answers.take_writes():
            inode = self._state.inodes.find(written.ino)
            if inode is not None:
                self._write(inode, written.offset, written.data, written.time_ns)
        if written is not None:
            self._tell_room()

    def _tell_room(self) -> None:
        state = self._state
        state.answers.room_for_writes(max(0, state.policy.dirty_max_bytes - state.dirty_bytes))

    def _write(self, inode: Inode, offset: int, data: bytes | memoryview, now_ns: int) -> None:
        grown = inode.dirty.write(offset, data, self._state.clock.monotonic(), now_ns)
        self._state.dirty_bytes += grown
        self._dirty.add(inode)
        inode.pending.written()
        attr = inode.attr
        if attr is not None:
            attr.size = max(attr.size, offset + len(data))
            attr.mtime_ns = attr.ctime_ns = inode.dirty.mtime_ns
            inode.changed()
        if (offset + len(data)) % limits.BLOCK_BYTES == 0:
            full = inode.dirty.full_blocks()
            if full:
                self._state.spawn(self._send_full, inode, full)

    def change(self, inode: Inode, change: pb.SetAttr) -> None:
        """Take an attribute change into memory; the caller has checked that it may wait there."""
        clock = self._state.clock
        now_ns = clock.wall_ns()
        inode.pending.add(change, clock.monotonic(), now_ns)
        self._dirty.add(inode)
        if inode.attr is not None:
            overlay(inode.attr, inode.pending.unsent)
            inode.changed()

    async def throttle(self, inode: Inode) -> None:
        """Wait while too many bytes are unsent.

        Raises what keeps those of `inode` from being sent, or NO_SPACE when a full cluster keeps any.
        """
        if self._state.dirty_bytes <= self._state.policy.dirty_max_bytes:
            return
        self._push()
        while self._state.dirty_bytes > self._state.policy.dirty_max_bytes:
            if inode.error is not None:
                raise inode.error
            if self._refusal is not None:
                raise CairnError(self._refusal.code, self._refusal.detail)
            await self._state.dirty_freed.park()

    async def flush(self, inode: Inode) -> None:
        """Return when everything written or changed so far is committed; raises what made that fail."""
        self._retry_at_s.pop(inode.ino, None)
        while inode.unsaved:
            blocks = [block for block in inode.dirty.unsent if block not in inode.dirty.sending]
            if blocks:
                await self._send(inode, blocks)
            elif inode.pending.unsent is not None and not (inode.pending.sending or inode.dirty):
                await self._send_attributes(inode)
            else:  # another task is sending; it ends with a notification
                await self._state.dirty_freed.park()
        self._dirty.discard(inode)
        if inode.journaled:
            await self._state.journal.settle((inode,))

    async def flush_all(self) -> None:
        """Send everything; raises the first error after trying all files."""
        self.take_absorbed()
        first: CairnError | None = None
        for inode in list(self._dirty):
            try:
                await self.flush(inode)
            except CairnError as error:
                first = first or error
        await self._state.journal.settle_all()
        if first is not None:
            raise first

    async def flush_present(self) -> None:
        """Return when everything written or changed before this call is committed, whatever comes meanwhile.

        Raises the first error after trying all files.
        """
        self.take_absorbed()
        saves = [partial(self._save_group, list(group)) for group in _grouped(list(self._dirty))]
        await run_all([self._state.journal.settle_all, *saves])

    async def _save_group(self, group: list[Inode]) -> None:
        present = [(inode, _present(inode), _changes(inode)) for inode in group]
        wanted = [(inode, list(inode.dirty.unsent)) for inode, _, _ in present]
        await self._job([(inode, blocks) for inode, blocks in wanted if blocks])
        await run_all(partial(self._save, *one) for one in present)

    async def _save(self, inode: Inode, blocks: dict[int, list[Runs]], changes: list[pb.SetAttr]) -> None:
        """Send blocks until these bytes of them are committed, then attributes until these changes are."""
        dirty, pending = inode.dirty, inode.pending
        for block, runs in blocks.items():
            while any(dirty.sending.get(block) is one or dirty.unsent.get(block) is one for one in runs):
                if block in dirty.sending:
                    await self._state.dirty_freed.park()
                else:
                    await self._send(inode, [block])
        while any(pending.sending is one or pending.unsent is one for one in changes):
            if pending.sending is not None:
                await self._state.dirty_freed.park()
            else:
                await self._send_attributes(inode)

    def discard(self, inode: Inode, end: int = 0) -> None:
        """Forget unsent bytes from offset `end` on: they were truncated away or have no name any more."""
        self._freed(inode.dirty.cut(end) if end else inode.dirty.discard())

    def abandon(self, inode: Inode, error: CairnError) -> None:
        """Unsent bytes cannot be saved: forget them, and let the file's next call report it."""
        inode.error = error
        inode.pending.clear()
        self._freed(inode.dirty.abandon())

    def forget(self, inode: Inode) -> None:
        """The file is gone: nothing of it is to be sent."""
        inode.pending.clear()
        self.discard(inode)
        self._dirty.discard(inode)

    async def run(self) -> None:
        """Send files that have waited long enough; runs as long as the mount."""
        while True:
            await trio.sleep(TICK_S)
            self.take_absorbed()
            self._state.journal.push_old()
            self._push()

    # ------------------------------------------------------------------ sending

    def _push(self) -> None:
        """Start sending old files, or all when memory is short."""
        for group in _grouped(inode for inode in list(self._dirty) if self._is_due(inode)):
            self._queued.update(group)
            self._state.spawn(self._send_group, group)

    def _is_due(self, inode: Inode) -> bool:
        now = self._state.clock.monotonic()
        short = self._state.dirty_bytes > self._state.policy.dirty_max_bytes // 2
        if not inode.unsaved:
            self._dirty.discard(inode)
        elif inode in self._queued or self._retry_at_s.get(inode.ino, 0.0) > now:
            return False
        elif inode.dirty:
            return bool(inode.dirty.unsent) and (short or now - inode.dirty.since_s >= BACKGROUND_AGE_S)
        else:
            return now - inode.pending.since_s >= BACKGROUND_AGE_S
        return False

    async def _send_group(self, group: list[Inode]) -> None:
        """Send files in the background: a failure is kept for the next call on the file, and tried again."""
        try:
            if len(group) == 1:
                await self._attempt(group[0], partial(self._send, group[0], list(group[0].dirty.unsent)))
            else:
                errors = await self._job([(inode, list(inode.dirty.unsent)) for inode in group])
                for inode, error in errors.items():
                    self._failed(inode, error)
            await run_all(
                partial(self._attempt, inode, partial(self._send_attributes, inode))
                for inode in group
                if inode.pending and not inode.dirty
            )
        finally:
            self._queued.difference_update(group)

    async def _send_full(self, inode: Inode, blocks: list[int]) -> None:
        await self._attempt(inode, partial(self._send, inode, blocks))

    async def _attempt(self, inode: Inode, work: Work) -> None:
        try:
            await work()
        except CairnError as error:
            self._failed(inode, error)

    def _failed(self, inode: Inode, error: CairnError) -> None:
        if inode.error is None:
            log.warning("writing behind failed; it is tried again", ino=inode.ino, error=str(error))
        inode.error = error
        self._retry_at_s[inode.ino] = self._state.clock.monotonic() + RETRY_S

    async def _send(self, inode: Inode, blocks: list[int]) -> None:
        """Send blocks of one file, many bytes in several jobs at once; raises the first error."""

        async def send_some(some: list[int]) -> None:
            errors = await self._job([(inode, some)])
            if errors:
                raise errors[inode]

        await run_all(partial(send_some, some) for some in _shared_out(inode, blocks))

    async def _job(self, wanted: list[tuple[Inode, list[int]]]) -> dict[Inode, CairnError]:
        """Freeze, send and settle blocks of one or many files; returns who failed, and why."""
        try:
            self._jobs.acquire_nowait()  # without the task switch that waiting would bring
        except trio.WouldBlock:
            await self._jobs.acquire()
        try:
            return await self._send_taken(
                [(inode, got) for inode, blocks in wanted if (got := inode.dirty.take(blocks))]
            )
        finally:
            self._jobs.release()

    async def _send_taken(self, taken: Taken) -> dict[Inode, CairnError]:
        if not taken:
            return {}
        saved: set[Inode] = set()
        try:
            errors = await self._sender.send(taken)
            saved = {inode for inode, _ in taken if not self._is_unsaved(inode, errors)}
            self._refusal = next((e for e in errors.values() if e.code == common.ERROR_CODE_NO_SPACE), None)
        finally:
            for inode, blocks in taken:
                dirty = inode.dirty
                self._freed(dirty.sent(blocks) if inode in saved else dirty.failed(blocks))
            self._state.dirty_freed.unpark_all()
        return errors

    def _is_unsaved(self, inode: Inode, errors: dict[Inode, CairnError]) -> bool:
        """Whether bytes are left to save; of a file that was removed for good nothing is."""
        error = errors.get(inode)
        if error is None or error.code != common.ERROR_CODE_NOT_FOUND:
            return error is not None
        if not inode.handles:
            del errors[inode]  # nobody is left to be told
        return False

    async def _send_attributes(self, inode: Inode) -> None:
        try:
            await self._sender.send_attributes(inode)
        finally:
            self._state.dirty_freed.unpark_all()

    def _freed(self, freed_bytes: int) -> None:
        self._state.dirty_bytes -= freed_bytes
        self._tell_room()


def _present(inode: Inode) -> dict[int, list[Runs]]:
    """The unsaved bytes of each block, which stay the same objects until they are committed or dropped."""
    found: dict[int, list[Runs]] = {}
    for layer in (inode.dirty.sending, inode.dirty.unsent):
        for block, runs in layer.items():
            found.setdefault(block, []).append(runs)
    return found


def _changes(inode: Inode) -> list[pb.SetAttr]:
    return [one for one in (inode.pending.sending, inode.pending.unsent) if one is not None]


def _grouped(inodes: Iterable[Inode]) -> Iterator[list[Inode]]:
    """Small files many at a time, large ones each alone."""
    group: list[Inode] = []
    for inode in inodes:
        if inode.dirty.size_bytes > SMALL_FILE_BYTES:
            yield [inode]
            continue
        group.append(inode)
        if len(group) == FILES_PER_JOB:
            yield group
            group = []
    if group:
        yield group


def _shared_out(inode: Inode, blocks: Iterable[int]) -> list[list[int]]:
    """Neighbours together, about JOB_MAX_BYTES a time."""
    unsent = inode.dirty.unsent
    shares: list[list[int]] = [[]]
    size_bytes = 0
    for block in sorted(blocks):
        runs = unsent.get(block)
        more_bytes = 0 if runs is None else runs.size_bytes
        if size_bytes + more_bytes > JOB_MAX_BYTES and shares[-1]:
            shares.append([])
            size_bytes = 0
        shares[-1].append(block)
        size_bytes += more_bytes
    return shares
