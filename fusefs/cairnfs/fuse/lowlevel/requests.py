"""Turns the supplement's callbacks into trio tasks and their results into replies, one reply per request."""

import errno
import fcntl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Protocol

import trio

from cairnfs.base.logs import get_logger
from cairnfs.fuse.lowlevel import ffi, lib, pyfuse3
from cairnfs.fuse.lowlevel.interrupts import UnderWay, under_way

_log = get_logger(__name__)

_INTERRUPTIBLE = ("setlk", "flock")


class ExtraOperations(Protocol):
    """Handlers of the requests that pyfuse3 does not know. They raise FUSEError and nothing else.

    Lock types are F_RDLCK, F_WRLCK and F_UNLCK; `end` is the last byte, 2^63-1 for the end of the file.
    """

    async def getlk(
        self, ino: int, owner: int, kind: int, start: int, end: int, pid: int
    ) -> tuple[int, int, int, int]:
        """The conflicting lock (type, start, end, pid), of type F_UNLCK when there is none."""
        ...

    async def setlk(
        self, ino: int, fh: int, owner: int, kind: int, start: int, end: int, pid: int, wait: bool
    ) -> None: ...
    async def flock(self, ino: int, owner: int, operation: int) -> None: ...
    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None: ...
    async def lseek(self, fh: int, offset: int, whence: int) -> int: ...
    async def copy_file_range(
        self, source_fh: int, source_offset: int, target_fh: int, target_offset: int, length: int
    ) -> int: ...


class Dispatcher:
    """Runs each request in a task of `nursery`; a signal to the caller of a lock cancels it (EINTR).

    Other calls end for fatal signals only: programs do not expect EINTR of them on a disk.
    """

    def __init__(self, operations: ExtraOperations, nursery: trio.Nursery) -> None:
        self.operations = operations
        self._nursery = nursery

    def start(self, name: str, req: Any, work: Callable[[], Awaitable[Callable[[], int]]]) -> None:
        """Start `work` for `req`; it returns the function that replies."""
        under = UnderWay(trio.CancelScope(), any_signal=name in _INTERRUPTIBLE)
        request = int(ffi.cast("uintptr_t", req))
        under_way[request] = under  # first: the interrupt may have come already
        lib.cairn_watch(req)
        self._nursery.start_soon(self._answer, name, req, request, under.scope, work, name=f"fuse-{name}")

    async def _answer(
        self,
        name: str,
        req: Any,
        request: int,
        scope: trio.CancelScope,
        work: Callable[[], Awaitable[Callable[[], int]]],
    ) -> None:
        reply: Callable[[], int] = partial(lib.cairn_reply_error, req, errno.EINTR)
        try:
            with scope:
                reply = await work()
        except pyfuse3.FUSEError as refused:
            reply = partial(lib.cairn_reply_error, req, refused.errno)
        except Exception:  # noqa: BLE001 - a border: whatever it is, the kernel gets an answer
            _log.exception("request failed", operation=name)
            reply = partial(lib.cairn_reply_error, req, errno.EIO)
        finally:
            # Also when the mount ends and this task is cancelled: no request stays unanswered.
            del under_way[request]
            code = reply()
            if code != 0:
                _log.debug("reply not taken", operation=name, code=code)


_dispatcher: Dispatcher | None = None


def install(dispatcher: Dispatcher | None) -> None:
    """Make `dispatcher` receive this process's requests (pyfuse3 allows one mount); None: refuse them."""
    global _dispatcher
    _dispatcher = dispatcher


def _receiver() -> Dispatcher:
    if _dispatcher is None:
        raise RuntimeError("no mount is being served")
    return _dispatcher


@ffi.def_extern(error=-1)
def cairn_getlk(req: Any, ino: int, owner: int, kind: int, start: int, end: int, pid: int) -> int:
    receiver = _receiver()

    async def work() -> Callable[[], int]:
        lock = await receiver.operations.getlk(ino, owner, kind, start, end, pid)
        return partial(lib.cairn_reply_lock, req, *lock)

    receiver.start("getlk", req, work)
    return 0


@ffi.def_extern(error=-1)
def cairn_setlk(
    req: Any, ino: int, fh: int, owner: int, kind: int, start: int, end: int, pid: int, wait: int
) -> int:
    receiver = _receiver()

    async def work() -> Callable[[], int]:
        await receiver.operations.setlk(ino, fh, owner, kind, start, end, pid, bool(wait))
        return partial(lib.cairn_reply_error, req, 0)

    receiver.start("setlk", req, work)
    return 0


@ffi.def_extern(error=-1)
def cairn_flock(req: Any, ino: int, owner: int, operation: int) -> int:
    receiver = _receiver()

    async def work() -> Callable[[], int]:
        await receiver.operations.flock(ino, owner, operation)
        return partial(lib.cairn_reply_error, req, 0)

    receiver.start("flock", req, work)
    return 0


@ffi.def_extern(error=-1)
def cairn_fallocate(req: Any, fh: int, mode: int, offset: int, length: int) -> int:
    receiver = _receiver()

    async def work() -> Callable[[], int]:
        await receiver.operations.fallocate(fh, mode, offset, length)
        return partial(lib.cairn_reply_error, req, 0)

    receiver.start("fallocate", req, work)
    return 0


@ffi.def_extern(error=-1)
def cairn_lseek(req: Any, fh: int, offset: int, whence: int) -> int:
    receiver = _receiver()

    async def work() -> Callable[[], int]:
        found = await receiver.operations.lseek(fh, offset, whence)
        return partial(lib.cairn_reply_lseek, req, found)

    receiver.start("lseek", req, work)
    return 0


@ffi.def_extern(error=-1)
def cairn_copy_file_range(
    req: Any, source_fh: int, source_offset: int, target_fh: int, target_offset: int, length: int
) -> int:
    receiver = _receiver()

    async def work() -> Callable[[], int]:
        copied = await receiver.operations.copy_file_range(
            source_fh, source_offset, target_fh, target_offset, length
        )
        return partial(lib.cairn_reply_copied, req, copied)

    receiver.start("copy_file_range", req, work)
    return 0


def flock_parts(operation: int) -> tuple[int, bool]:
    """LOCK_SH, LOCK_EX or LOCK_UN, and whether to wait for it."""
    return operation & ~fcntl.LOCK_NB, not operation & fcntl.LOCK_NB
