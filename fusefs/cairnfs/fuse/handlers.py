"""The FUSE handlers: each translates numbers and attributes and calls the file system; nothing else."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from os import O_ACCMODE, O_RDONLY
from stat import S_IFDIR, S_IFREG

from cairnfs.base.limits import FUSE_FLUSH_DEADLINE_S, READDIR_LIMIT_MAX
from cairnfs.base.logs import get_logger
from cairnfs.fuse.attributes import Presentation, statvfs, wanted_changes
from cairnfs.fuse.boundary import guarded, guarded_task
from cairnfs.fuse.locks import LockHandlers
from cairnfs.fuse.lowlevel import lib, pyfuse3
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from cairnfs.vfs.interface import FileSystem, Listed, Node, Opened

_log = get_logger(__name__)

# Directory offsets: 0 starts, 1 follows ".", 2 follows ".." and the file system's own begin there.
_DOTS = 2
_DIRENT_MIN_BYTES = 160  # fuse_direntplus with the shortest name

Context = pyfuse3.RequestContext


def _caller(ctx: Context) -> pb.Caller:
    return pb.Caller(uid=ctx.uid, gid=ctx.gid, umask=ctx.umask, pid=max(ctx.pid, 0))


def _file_info(opened: Opened) -> pyfuse3.FileInfo:
    return pyfuse3.FileInfo(
        fh=pyfuse3.FileHandleT(opened.handle), direct_io=opened.direct_io, keep_cache=opened.keep_cache
    )


class Handlers(pyfuse3.Operations):
    """What pyfuse3 calls for one mounted file system. `on_init` is called when the kernel has connected."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = True

    def __init__(
        self, fs: FileSystem, presentation: Presentation, locks: LockHandlers, on_init: Callable[[], None]
    ) -> None:
        super().__init__()
        self._fs = fs
        self._presentation = presentation
        self._to_kernel = presentation.to_kernel
        self._from_kernel = presentation.from_kernel
        self._entry = presentation.entry
        self._locks = locks
        self._on_init = on_init

    def init(self) -> None:
        """The kernel and libfuse agreed on the protocol: requests come from now on."""
        self._on_init()

    # -------------------------------------------------------------- names

    @guarded()
    async def lookup(self, parent_inode: int, name: bytes, ctx: Context) -> pyfuse3.EntryAttributes:
        return self._entry(await self._fs.lookup(self._from_kernel(parent_inode), name, _caller(ctx)))

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:  # type: ignore[override] # pyfuse3 takes both
        """Not a coroutine: it never waits, and comes for every inode that the kernel drops."""
        try:
            self._fs.forget([(self._from_kernel(ino), count) for ino, count in inode_list])
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="forget")

    @guarded()
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self._fs.mknod(self._from_kernel(parent_inode), name, mode, rdev, _caller(ctx))
        )

    @guarded()
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Context) -> pyfuse3.EntryAttributes:
        parent = self._from_kernel(parent_inode)
        return self._entry(await self._fs.mkdir(parent, name, mode & 0o7777, _caller(ctx)))

    @guarded()
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        return self._entry(
            await self._fs.symlink(self._from_kernel(parent_inode), name, target, _caller(ctx))
        )

    @guarded()
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Context
    ) -> pyfuse3.EntryAttributes:
        parent = self._from_kernel(new_parent_inode)
        return self._entry(await self._fs.link(self._from_kernel(inode), parent, new_name, _caller(ctx)))

    @guarded()
    async def unlink(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        await self._fs.unlink(self._from_kernel(parent_inode), name, _caller(ctx))

    @guarded()
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Context) -> None:
        await self._fs.rmdir(self._from_kernel(parent_inode), name, _caller(ctx))

    @guarded()
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Context,
    ) -> None:
        old, new = self._from_kernel(parent_inode_old), self._from_kernel(parent_inode_new)
        await self._fs.rename(old, name_old, new, name_new, flags, _caller(ctx))

    # -------------------------------------------------------------- attributes

    @guarded()
    async def getattr(self, inode: int, ctx: Context) -> pyfuse3.EntryAttributes:
        return self._entry(await self._fs.getattr(self._from_kernel(inode), _caller(ctx)))

    @guarded()
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: Context,
    ) -> pyfuse3.EntryAttributes:
        changes = wanted_changes(attr, fields)
        return self._entry(await self._fs.setattr(self._from_kernel(inode), changes, fh, _caller(ctx)))

    @guarded()
    async def readlink(self, inode: int, ctx: Context) -> bytes:
        return await self._fs.readlink(self._from_kernel(inode), _caller(ctx))

    @guarded()
    async def access(self, inode: int, mode: int, ctx: Context) -> bool:
        return await self._fs.access(self._from_kernel(inode), mode, _caller(ctx))

    @guarded()
    async def statfs(self, ctx: Context) -> pyfuse3.StatvfsData:
        return statvfs(await self._fs.statfs())

    @guarded()
    async def getxattr(self, inode: int, name: bytes, ctx: Context) -> bytes:
        return await self._fs.getxattr(self._from_kernel(inode), name, _caller(ctx))

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Context) -> None:
        await self._setxattr(inode, name, value, lib.cairn_current.xattr_flags, ctx)

    @guarded()
    async def _setxattr(self, inode: int, name: bytes, value: bytes, flags: int, ctx: Context) -> None:
        await self._fs.setxattr(self._from_kernel(inode), name, value, flags, _caller(ctx))

    @guarded()
    async def listxattr(self, inode: int, ctx: Context) -> Sequence[bytes]:
        return await self._fs.listxattr(self._from_kernel(inode), _caller(ctx))

    @guarded()
    async def removexattr(self, inode: int, name: bytes, ctx: Context) -> None:
        await self._fs.removexattr(self._from_kernel(inode), name, _caller(ctx))

    # -------------------------------------------------------------- files

    @guarded()
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Context
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        parent = self._from_kernel(parent_inode)
        opened, node = await self._fs.create(parent, name, S_IFREG | mode & 0o7777, flags, _caller(ctx))
        return _file_info(opened), self._entry(node)

    @guarded()
    async def open(self, inode: int, flags: int, ctx: Context) -> pyfuse3.FileInfo:
        opened = await self._fs.open(self._from_kernel(inode), flags, _caller(ctx))
        if flags & O_ACCMODE == O_RDONLY:
            lib.cairn_publish_handle(opened.handle, 1)
        return _file_info(opened)

    @guarded()
    async def read(self, fh: int, off: int, size: int) -> bytes | memoryview:  # type: ignore[override]
        # pyfuse3 takes any buffer and does not copy it.
        return await self._fs.read(fh, off, size)

    @guarded()
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._fs.write(fh, off, buf)

    async def flush(self, fh: int) -> None:
        await self._flush(fh, lib.cairn_current.lock_owner)

    @guarded(FUSE_FLUSH_DEADLINE_S)
    async def _flush(self, fh: int, lock_owner: int) -> None:
        self._locks.flushed(fh, lock_owner)
        await self._fs.flush(fh, lock_owner)

    def opened(self, inode: int, fh: int) -> None:
        """The kernel opened a file for reading; it has its answer."""
        try:
            self._fs.opened(self._from_kernel(inode), fh)
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="opened")

    def opened_directory(self, inode: int, fh: int) -> None:
        """The kernel opened a directory; it has its answer."""
        try:
            self._fs.opened_directory(self._from_kernel(inode), fh)
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="opened_directory")

    def was_listed(self, fh: int, offset: int) -> None:
        """A directory is listed from `offset` on; the kernel has its answer."""
        try:
            self._fs.was_listed(fh, max(offset - _DOTS, 0))
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="was_listed")

    def was_read(self, fh: int, offset: int, size: int) -> None:
        """A large part of a file was read from its start or middle to its end; the kernel has its answers."""
        try:
            self._fs.was_read(fh, offset, size)
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="was_read")

    def closed(self, fh: int) -> bool:
        """A file that was opened for reading is closed; False: it has locks to be released in a task."""
        if self._locks.any_at(fh):
            return False
        try:
            self._fs.closed(fh)
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="closed")
        return True

    def closed_directory(self, fh: int) -> None:
        """A directory is closed; the kernel has its answer."""
        try:
            self._fs.closed_directory(fh)
        except Exception:  # noqa: BLE001 - a border, like boundary.guarded
            _log.exception("bug in a handler", operation="closed_directory")

    async def release_answered(self, fh: int) -> None:
        """A file with locks that was opened for reading is closed; the kernel has its answer."""
        with suppress(pyfuse3.FUSEError):
            await self._end_reading(fh)

    @guarded_task(FUSE_FLUSH_DEADLINE_S)
    async def _end_reading(self, fh: int) -> None:
        await self._end_handle(fh, None)

    async def release(self, fh: int) -> None:
        extra = lib.cairn_current
        await self._release(fh, extra.lock_owner if extra.flock_release else None)

    @guarded(FUSE_FLUSH_DEADLINE_S)
    async def _release(self, fh: int, lock_owner: int | None) -> None:
        await self._end_handle(fh, lock_owner)

    async def _end_handle(self, fh: int, lock_owner: int | None) -> None:
        try:
            await self._locks.released(fh)
        finally:
            await self._fs.release(fh, lock_owner)

    @guarded(FUSE_FLUSH_DEADLINE_S)
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._fs.fsync(fh, datasync)

    # -------------------------------------------------------------- directories

    @guarded()
    async def opendir(self, inode: int, ctx: Context) -> int:
        return await self._fs.opendir(self._from_kernel(inode), _caller(ctx))

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        await self._readdir(fh, start_id, token, lib.cairn_current.readdir_size)

    @guarded()
    async def _readdir(self, fh: int, start: int, token: pyfuse3.ReaddirToken, size: int) -> None:
        if start < _DOTS:
            await self._list_dots(fh, start, token)
        offset = max(start - _DOTS, 0)
        limit = min(size // _DIRENT_MIN_BYTES + 1, READDIR_LIMIT_MAX)
        for entry in await self._fs.readdir(fh, offset, limit):
            if not self._list(token, entry):
                return
            offset = entry.next_offset
        if not await self._fs.readdir(fh, offset, 1):
            lib.cairn_listing_ends(fh, offset + _DOTS)

    def _list(self, token: pyfuse3.ReaddirToken, entry: Listed) -> bool:
        offset = entry.next_offset + _DOTS
        attributes = self._entry(entry.node)
        if entry.bare:
            attributes.generation = lib.CAIRN_BARE
        if not pyfuse3.readdir_reply(token, entry.name, attributes, offset):
            return False
        self._fs.listed(entry)
        return True

    async def _list_dots(self, fh: int, start: int, token: pyfuse3.ReaddirToken) -> None:
        """The kernel takes no reference to "." and "..": only their numbers and type matter."""
        ino, above = await self._fs.parent_of(fh)
        for number, (name, target) in enumerate(((b".", ino), (b"..", above)), start=1):
            if number > start:
                dot = Node(common_pb2.Attr(ino=target, mode=S_IFDIR), 0, 0)
                pyfuse3.readdir_reply(token, name, self._entry(dot), number)

    @guarded()
    async def releasedir(self, fh: int) -> None:
        await self._fs.releasedir(fh)

    @guarded(FUSE_FLUSH_DEADLINE_S)
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._fs.fsyncdir(fh, datasync)
