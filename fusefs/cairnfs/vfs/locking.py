"""Advisory locks that hold across mounts: record locks (fcntl) and BSD locks (flock)."""

import math

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.base import Part

WHOLE_FILE_END = (1 << 63) - 1
RELEASE_DEADLINE_S = 30.0


class LockOps(Part):
    """The part of the file system that locks; the coordinator decides, this side remembers."""

    async def getlk(self, ino: int, owner: int, lock: pb.LockRange) -> pb.LockRange:
        """A lock that conflicts with `lock`, or one of type UNLOCK."""
        reply: pb.LockReply = await self.state.session.call(pb.GetLock(ino=ino, owner=owner, range=lock))
        return reply.conflict

    async def setlk(self, ino: int, owner: int, lock: pb.LockRange, wait: bool) -> None:
        """Set or release a record lock; cancelling gives up waiting."""
        await self._set(ino, owner, lock, wait=wait, flock=False)

    async def flock(self, ino: int, owner: int, lock_type: "pb.LockType.ValueType", wait: bool) -> None:
        """Set or release a BSD lock; cancelling gives up waiting."""
        await self._set(ino, owner, _whole(lock_type), wait=wait, flock=True)

    async def _set(self, ino: int, owner: int, lock: pb.LockRange, *, wait: bool, flock: bool) -> None:
        op = pb.SetLock(ino=ino, owner=owner, range=lock, wait=wait, flock=flock)
        # A wait that is cancelled is withdrawn by the session; if the lock was granted first, it is kept.
        await self.state.session.call(op, deadline_s=math.inf if wait else None)
        self.state.locks.apply(ino, owner, lock, flock=flock)

    async def _release(self, ino: int, owner: int, unlock: pb.LockRange, flock: bool) -> None:
        op = pb.SetLock(ino=ino, owner=owner, range=unlock, flock=flock)
        try:
            await self.state.session.call(op, deadline_s=RELEASE_DEADLINE_S)
        except CairnError as error:
            if error.code != common.ERROR_CODE_SESSION_FENCED:  # then they are gone anyway
                raise

    async def release_locks(self, ino: int, owner: int, *, flock: bool) -> None:
        """Everything that `owner` locked on the inode goes, as close(2) demands."""
        if self.state.locks.holds(ino, owner, flock=flock):
            self.state.locks.drop(ino, owner, flock=flock)
            await self._release(ino, owner, _whole(pb.LOCK_TYPE_UNLOCK), flock)


def _whole(lock_type: "pb.LockType.ValueType") -> pb.LockRange:
    return pb.LockRange(type=lock_type, start=0, end=WHOLE_FILE_END)
