"""Serves one file system at one mount point, from mounting to unmounting."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from cairnfs.base.limits import FUSE_TICK_S
from cairnfs.base.logs import get_logger
from cairnfs.fuse import mounts
from cairnfs.fuse.attributes import Presentation
from cairnfs.fuse.handlers import Handlers
from cairnfs.fuse.later import Later, install as install_later
from cairnfs.fuse.locks import LockHandlers
from cairnfs.fuse.lowlevel import lib, pyfuse3
from cairnfs.fuse.lowlevel.interrupts import end_overdue
from cairnfs.fuse.lowlevel.requests import Dispatcher, install
from cairnfs.fuse.lowlevel.workers import Workers
from cairnfs.fuse.notifier import Notifier
from cairnfs.vfs.interface import FileSystem

_log = get_logger(__name__)


class MountFailed(Exception):
    """The kernel or fusermount3 refused the mount; the reason is on stderr and in the text."""


@dataclass(frozen=True, slots=True)
class Mounting:
    """Where and how to mount. `options` are those of fuse(8): fsname=…, allow_other, ro, noatime …"""

    mountpoint: Path
    options: Collection[str]
    presentation: Presentation


async def serve(fs: FileSystem, mounting: Mounting, notifier: Notifier, on_ready: Callable[[], None]) -> None:
    """Mount, answer the kernel until somebody unmounts, and leave nothing mounted.

    `on_ready` is called when the kernel connects, in the step that answers it afterwards. When cancelled,
    pending calls get EINTR, the mount is taken away even while it is busy, and its open files answer
    ENOTCONN. Only one mount per process. Raises MountFailed.
    """
    locks = LockHandlers(fs, mounting.presentation)
    handlers = Handlers(fs, mounting.presentation, locks, on_ready)
    with _mounted(handlers, mounting):
        async with trio.open_nursery() as nursery:
            later = Later(handlers, fs, nursery)
            install(Dispatcher(locks, nursery))
            install_later(later)
            try:
                await nursery.start(notifier.serve, mounting.presentation)
                nursery.start_soon(_tick, later)
                await _main(Workers(later.drain))
                await later.finish()
            finally:
                install(None)
                install_later(None)
                nursery.cancel_scope.cancel()
    _log.debug("unmounted", mountpoint=str(mounting.mountpoint))


async def _main(workers: Workers) -> None:
    """pyfuse3's loop, with `workers` in the place where it looks for trio."""
    pyfuse3.trio = workers  # type: ignore[attr-defined] # as pyfuse3.asyncio does
    try:
        await pyfuse3.main(min_tasks=2)
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]


async def _tick(later: Later) -> None:
    while True:
        await trio.sleep(FUSE_TICK_S)
        end_overdue()
        later.drain()


@contextmanager
def _mounted(handlers: Handlers, mounting: Mounting) -> Iterator[None]:
    path = str(mounting.mountpoint)
    try:
        pyfuse3.init(handlers, path, set(mounting.options))
    except RuntimeError as error:
        raise MountFailed(f"cannot mount on {path}: {error}") from None
    entry = mounts.mount_at(mounting.mountpoint)
    try:
        yield
    finally:
        if entry is not None:
            # Aborting first frees whoever waits for an answer, also our own notifier threads, which the
            # kernel would otherwise never let end. libfuse would take the aborted mount for unmounted.
            mounts.abort(entry)
            mounts.lazy_unmount(entry)
        pyfuse3.close(unmount=False)


def connection() -> dict[str, int]:
    """What the kernel agreed to, for logs: protocol, capabilities, largest write in bytes."""
    agreed = lib.cairn_connection
    return {"minor": agreed.proto_minor, "capabilities": agreed.wanted, "max_write": agreed.max_write}
