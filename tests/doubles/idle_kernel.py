"""A kernel that caches nothing: what the file system core tells it to forget, it never knew."""

from collections.abc import Sequence

import trio


class IdleKernel:
    """`vfs.interface.KernelNotifier` with nothing to invalidate."""

    def expire_entries(self) -> bool:
        return True

    async def invalidate_entries(self, parent: int, names: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()

    async def invalidate_inode(self, ino: int, *, data: bool) -> None:
        await trio.lowlevel.checkpoint()
