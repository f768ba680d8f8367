"""Handlers of the requests that reach us through the supplement: locks, fallocate, lseek, copy_file_range."""

import fcntl
import math
from collections import defaultdict

from cairnfs.base.limits import FILE_SIZE_MAX_BYTES, FUSE_FLUSH_DEADLINE_S
from cairnfs.fuse.attributes import Presentation
from cairnfs.fuse.boundary import guarded_task
from cairnfs.fuse.lowlevel.requests import flock_parts
from cairnfs.rpc.v1 import metadata_pb2 as pb
from cairnfs.vfs.interface import FileSystem

_TO_LOCK_TYPE = {
    fcntl.F_UNLCK: pb.LOCK_TYPE_UNLOCK,
    fcntl.F_RDLCK: pb.LOCK_TYPE_READ,
    fcntl.F_WRLCK: pb.LOCK_TYPE_WRITE,
}
_FROM_LOCK_TYPE = {ours: theirs for theirs, ours in _TO_LOCK_TYPE.items()}
_FLOCK_TYPE = {
    fcntl.LOCK_UN: pb.LOCK_TYPE_UNLOCK,
    fcntl.LOCK_SH: pb.LOCK_TYPE_READ,
    fcntl.LOCK_EX: pb.LOCK_TYPE_WRITE,
}


class LockHandlers:
    """`lowlevel.requests.ExtraOperations` over a file system.

    The kernel tells of a closed descriptor (flush) with the process's lock owner only. Locks of open file
    descriptions (F_OFD_SETLK) have the description as owner and would outlive it, so the owners seen at each
    handle are remembered, and those left at its release are unlocked then.
    """

    def __init__(self, fs: FileSystem, presentation: Presentation) -> None:
        self._fs = fs
        self._from_kernel = presentation.from_kernel
        self._owners: defaultdict[int, dict[int, int]] = defaultdict(dict)  # handle -> {owner: ino}

    @guarded_task()
    async def getlk(
        self, ino: int, owner: int, kind: int, start: int, end: int, pid: int
    ) -> tuple[int, int, int, int]:
        asked = pb.LockRange(type=_TO_LOCK_TYPE[kind], start=start, end=end, pid=max(pid, 0))
        found = await self._fs.getlk(self._from_kernel(ino), owner, asked)
        return _FROM_LOCK_TYPE[found.type], found.start, found.end, found.pid

    @guarded_task(math.inf)
    async def setlk(
        self, ino: int, fh: int, owner: int, kind: int, start: int, end: int, pid: int, wait: bool
    ) -> None:
        lock = pb.LockRange(type=_TO_LOCK_TYPE[kind], start=start, end=end, pid=max(pid, 0))
        if kind != fcntl.F_UNLCK:
            self._owners[fh][owner] = self._from_kernel(ino)
        await self._fs.setlk(self._from_kernel(ino), owner, lock, wait)

    @guarded_task(math.inf)
    async def flock(self, ino: int, owner: int, operation: int) -> None:
        kind, wait = flock_parts(operation)
        await self._fs.flock(self._from_kernel(ino), owner, _FLOCK_TYPE[kind], wait)

    def flushed(self, fh: int, owner: int) -> None:
        """The file system itself releases the locks of `owner` when it flushes the handle."""
        owners = self._owners.get(fh)
        if owners is not None:
            owners.pop(owner, None)

    def any_at(self, fh: int) -> bool:
        """Whether `released` has something to do."""
        return fh in self._owners

    async def released(self, fh: int) -> None:
        """Unlock what open file descriptions still hold at the end of handle `fh`."""
        for owner, ino in self._owners.pop(fh, {}).items():
            everything = pb.LockRange(type=pb.LOCK_TYPE_UNLOCK, start=0, end=FILE_SIZE_MAX_BYTES)
            await self._fs.setlk(ino, owner, everything, wait=False)

    @guarded_task(FUSE_FLUSH_DEADLINE_S)
    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        await self._fs.fallocate(fh, mode, offset, length)

    @guarded_task()
    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        return await self._fs.lseek(fh, offset, whence)

    @guarded_task(FUSE_FLUSH_DEADLINE_S)
    async def copy_file_range(
        self, source_fh: int, source_offset: int, target_fh: int, target_offset: int, length: int
    ) -> int:
        return await self._fs.copy_file_range(source_fh, source_offset, target_fh, target_offset, length)
