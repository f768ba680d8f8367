"""Tells the kernel what to forget, from threads of its own: the kernel may make us wait for a lock."""

import errno
import math
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from cairnfs.base.limits import NOTIFIER_QUEUE_MAX, NOTIFIER_THREADS
from cairnfs.base.logs import get_logger
from cairnfs.fuse.attributes import Presentation
from cairnfs.fuse.lowlevel import lib, pyfuse3

_log = get_logger(__name__)

# The kernel does not know the inode, cannot be told on this mount, or the mount is over.
_NOTHING_TO_FORGET = {errno.ENOENT, errno.ENOTDIR, errno.ENOSYS, errno.ENODEV, errno.ENOTCONN, errno.EBADF}


@dataclass(slots=True)
class _Batch:
    """Invalidations of one directory or inode that have not been begun; others may still join."""

    names: set[bytes] = field(default_factory=set[bytes])
    data: bool = False
    waiters: int = 0
    done: trio.Event = field(default_factory=trio.Event)


class Notifier:
    """`vfs.interface.KernelNotifier` for a mount of this process.

    At most `NOTIFIER_THREADS` directories or inodes are worked on at a time, and at most
    `NOTIFIER_QUEUE_MAX` callers wait; further callers wait to be let in. What is asked twice before it was
    begun is done once. `serve` must be running. Never await these methods inside a handler.
    """

    def __init__(self) -> None:
        self._to_kernel: Callable[[int], int] = int
        self._threads = trio.CapacityLimiter(NOTIFIER_THREADS)
        self._unlimited = trio.CapacityLimiter(math.inf)  # trio's own would make us wait for others' threads
        self._places = trio.CapacityLimiter(NOTIFIER_QUEUE_MAX)
        self._waiting: dict[Hashable, _Batch] = {}
        self._nursery: trio.Nursery | None = None

    async def serve(
        self, presentation: Presentation, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until cancelled; callers that still wait are let go then."""
        self._to_kernel = presentation.to_kernel
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for batch in self._waiting.values():
                batch.done.set()
            self._waiting.clear()

    def expire_entries(self) -> bool:
        """Have every entry looked up again before it is used; false before Linux 6.16. Waits for nothing."""
        return bool(lib.cairn_expire_entries() == 0)

    async def invalidate_entries(self, parent: int, names: Sequence[bytes]) -> None:
        """Forget directory entries, positive and negative; returns when the kernel has."""
        if names:
            await self._join(("entries", parent), names, data=False)

    async def invalidate_inode(self, ino: int, *, data: bool) -> None:
        """Forget attributes (and pages, when `data`); returns when the kernel has."""
        await self._join(("inode", ino), (), data=data)

    async def _join(self, key: tuple[str, int], names: Sequence[bytes], *, data: bool) -> None:
        async with self._places:
            batch = self._waiting.get(key)
            if batch is None:
                if self._nursery is None:
                    return  # not mounted: the kernel knows nothing
                batch = self._waiting[key] = _Batch()
                self._nursery.start_soon(self._work, key, batch)
            batch.names.update(names)
            batch.data |= data
            await batch.done.wait()

    async def _work(self, key: tuple[str, int], batch: _Batch) -> None:
        kind, ino = key
        try:
            async with self._threads:
                # From here on nobody may join: the kernel could have passed the point already.
                if self._waiting.get(key) is batch:
                    del self._waiting[key]
                target = self._to_kernel(ino)
                call = (
                    partial(_forget_entries, target, sorted(batch.names))
                    if kind == "entries"
                    else partial(_forget_inode, target, batch.data)
                )
                await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._unlimited)
        finally:
            batch.done.set()


def _forget_entries(parent: int, names: Sequence[bytes]) -> None:
    joined = b"".join(name + b"\0" for name in names)
    if refused := lib.cairn_forget_entries(parent, joined, len(joined)):
        _log.warning("the kernel refused an invalidation", error=os.strerror(refused))


def _forget_inode(ino: int, data: bool) -> None:
    try:
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only=not data)
    except OSError as error:
        if error.errno not in _NOTHING_TO_FORGET:
            _log.warning("the kernel refused an invalidation", error=str(error))
