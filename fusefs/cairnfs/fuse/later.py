"""What the supplement answered by itself and the file system still has to hear: forgets and releases."""

from collections.abc import Sequence

import trio

from cairnfs.fuse.handlers import Handlers
from cairnfs.fuse.lowlevel import ffi, lib

_ROOM = 1024


class Later:
    """Passes on what was kept.

    A release or forget that is told late only keeps something a little longer.
    """

    def __init__(self, handlers: Handlers, nursery: trio.Nursery) -> None:
        self._handlers = handlers
        self._nursery = nursery
        self._kept = ffi.new("cairn_later[]", _ROOM)

    def drain(self) -> None:
        """Tell of forgets at once and of releases in a task; call it on the trio thread."""
        released = self._take()
        if released:
            self._nursery.start_soon(self._release, released)

    async def finish(self) -> None:
        """The same at the end of a mount, waiting for the releases."""
        await self._release(self._take())

    def _take(self) -> list[tuple[bool, int]]:
        """Open files and (True) directories that are released."""
        released: list[tuple[bool, int]] = []
        while count := lib.cairn_take_later(self._kept, _ROOM):
            forgotten: list[tuple[int, int]] = []
            for kept in self._kept[0:count]:
                if kept.kind == lib.CAIRN_FORGET:
                    forgotten.append((kept.id, kept.count))
                else:
                    released.append((kept.kind == lib.CAIRN_RELEASEDIR, kept.id))
            if forgotten:
                self._handlers.forget(forgotten)
        return released

    async def _release(self, released: Sequence[tuple[bool, int]]) -> None:
        for is_directory, handle in released:
            await self._handlers.release_answered(handle, is_directory)
