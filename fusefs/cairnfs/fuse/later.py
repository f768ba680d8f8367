"""What the supplement did by itself and the file system has to hear of, from writes to forgets."""

from collections.abc import Sequence
from struct import Struct

import trio

from cairnfs.fuse.handlers import Handlers
from cairnfs.fuse.lowlevel import ffi, lib
from cairnfs.vfs.interface import FileSystem

_ROOM = 1024
_KEPT = Struct("=QQQQ")  # cairn_later: kind, id, detail, length


class Later:
    """Passes on what was kept, in order.

    A release or forget that is told late only keeps something a little longer. Writes are told of before any
    other request is handled. Opens are told before anybody counts the handles of an inode: that is what
    `catch_up` is for.
    """

    def __init__(self, handlers: Handlers, fs: FileSystem, nursery: trio.Nursery) -> None:
        self._fs = fs
        self._handlers = handlers
        self._nursery = nursery
        self._kept = ffi.new("cairn_later[]", _ROOM)
        self._bytes = ffi.buffer(self._kept, _ROOM * _KEPT.size)
        self._draining = False

    def drain(self) -> None:
        """Tell at once, apart from what takes a task; call it on the trio thread."""
        released = self._take()
        if released:
            self._nursery.start_soon(self._release, released)

    async def finish(self) -> None:
        """The same at the end of a mount, waiting for that, too."""
        await self._release(self._take())

    def _take(self) -> list[int]:
        """Returns open files with locks that are released."""
        self._fs.take_absorbed()
        released: list[int] = []
        if self._draining:
            return released  # whoever is told of one thing may want to know of all
        self._draining = True
        handlers = self._handlers
        try:
            while count := lib.cairn_take_later(self._kept, _ROOM):
                forgotten: list[tuple[int, int]] = []
                for kind, number, detail, length in _KEPT.iter_unpack(self._bytes[: count * _KEPT.size]):
                    if kind == lib.CAIRN_FORGET:
                        forgotten.append((number, detail))
                    elif kind == lib.CAIRN_OPEN:
                        handlers.opened(detail, number)
                    elif kind == lib.CAIRN_READ:
                        handlers.was_read(number, detail, length)
                    elif kind == lib.CAIRN_OPENDIR:
                        handlers.opened_directory(detail, number)
                    elif kind == lib.CAIRN_LISTED:
                        handlers.was_listed(number, detail)
                    elif kind == lib.CAIRN_RELEASEDIR:
                        handlers.closed_directory(number)
                    elif not handlers.closed(number):
                        released.append(number)
                if forgotten:
                    handlers.forget(forgotten)
        finally:
            self._draining = False
        return released

    async def _release(self, released: Sequence[int]) -> None:
        for handle in released:
            await self._handlers.release_answered(handle)


_later: Later | None = None


def install(later: Later | None) -> None:
    """Make `later` the one of this process (pyfuse3 allows one mount)."""
    global _later
    _later = later


def catch_up() -> None:
    """Pass on what was kept, if a mount is being served."""
    if _later is not None:
        _later.drain()
