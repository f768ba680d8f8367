"""Carries out operations on simulated mounts, as Linux turns system calls into requests.

`SimProcess` walks paths and checks what the kernel checks itself, with the kernel's cached entries, so that
what is stale there shows in results as it would on a real mount.
"""

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.interface import SetAttributes
from tests.doubles.sim_kernel import SimFile, SimKernel
from tests.torture.model import EXCHANGE, KEEP_SIZE, NOREPLACE
from tests.torture.operations import MODE_MASK, Op, Result, Stat, pattern

CALLER = pb.Caller(uid=0, gid=0, umask=0)
LINKS_MAX = 40
_KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l"}
_LOCKS = {"r": pb.LOCK_TYPE_READ, "w": pb.LOCK_TYPE_WRITE, "u": pb.LOCK_TYPE_UNLOCK}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: a name in a directory (with the directories above), its inode or 0."""

    parent: int
    name: bytes
    ino: int
    above: tuple[int, ...]


@dataclass(slots=True)
class Descriptor:
    """An open file or directory of a process."""

    file: SimFile
    flags: int
    directory: bool = False
    flocked: bool = False

    @property
    def readable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


def _refuse(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class SimProcess:
    """All actors of one mount, as threads of one process."""

    def __init__(self, kernel: SimKernel, mount: int) -> None:
        self.kernel = kernel
        self.files: dict[tuple[int, int], Descriptor] = {}
        self.active = 0
        self._owner = 1_000 + mount
        self._sizes: dict[int, int] = {}  # i_size: the kernel uses it for appends, however old it is

    async def run(self, op: Op) -> Result:
        """The result of one call."""
        call: Callable[..., Awaitable[Any]] = getattr(self, f"_{op.call}")
        self.active += 1
        try:
            try:
                return Result(await call(op, *op.args))
            except CairnError as error:
                if error.errno != errno.ESTALE or op.call.startswith("p"):
                    raise
                return Result(await self._again(call, op))
        except CairnError as error:
            return Result(error=errno.errorcode[error.errno])
        except OSError as error:
            return Result(error=errno.errorcode[error.errno or errno.EIO])
        finally:
            self.active -= 1

    async def _again(self, call: Callable[..., Awaitable[Any]], op: Op) -> Any:
        """As the kernel does after ESTALE: once more, trusting no entry."""
        self.kernel.doubtful = True
        try:
            return await call(op, *op.args)
        finally:
            self.kernel.doubtful = False

    # ------------------------------------------------------------------ paths

    async def _walk(self, path: str, *, follow: bool = True, fresh: bool = False) -> Place:
        """`fresh`: the last entry is asked for again, as the kernel does for a name that it is to make."""
        kernel = self.kernel
        pending = [part.encode() for part in reversed(path.split("/")) if part]
        here, links = kernel.fs.root_ino, 0
        above: tuple[int, ...] = (here,)
        place = Place(here, b"", here, above)
        while pending:
            name = pending.pop()
            if kernel.kinds.get(here, stat.S_IFDIR) != stat.S_IFDIR:
                raise _refuse(errno.ENOTDIR)
            found = await kernel.step(here, name, fresh=fresh and not pending)
            place = Place(here, name, found, above)
            if not found:
                if pending:
                    raise _refuse(errno.ENOENT)
                return place
            if kernel.kinds[found] == stat.S_IFLNK and (pending or follow):
                links += 1
                if links > LINKS_MAX:
                    raise _refuse(errno.ELOOP)
                target = await kernel.fs.readlink(found, CALLER)
                pending.extend(part for part in reversed(target.split(b"/")) if part)
                continue
            here, above = found, (*above, found)
        return place

    async def _find(self, path: str, *, follow: bool = True) -> int:
        place = await self._walk(path, follow=follow)
        if not place.ino:
            raise _refuse(errno.ENOENT)
        return place.ino

    async def _parent(self, path: str) -> tuple[int, bytes, tuple[int, ...]]:
        head, _, name = path.rpartition("/")
        place = await self._walk(head)
        if not place.ino:
            raise _refuse(errno.ENOENT)
        if not self._is(place.ino, stat.S_IFDIR):
            raise _refuse(errno.ENOTDIR)
        above = place.above if place.above[-1] == place.ino else (*place.above, place.ino)
        return place.ino, name.encode(), above

    def _is(self, ino: int, kind: int) -> bool:
        return self.kernel.kinds.get(ino, stat.S_IFDIR) == kind

    # ------------------------------------------------------------------ names

    async def _make(self, path: str, make: Callable[[int, bytes], Awaitable[Any]]) -> None:
        parent, name, _ = await self._parent(path)
        kernel = self.kernel
        async with kernel.directory_locks[parent]:
            if await kernel.step_locked(parent, name, fresh=True):
                raise _refuse(errno.EEXIST)
            epoch = kernel.epoch
            kernel.learn(parent, name, await make(parent, name), epoch)
            kernel.attrs.pop(parent, None)

    async def _mkdir(self, _op: Op, path: str, mode: int) -> None:
        await self._make(path, lambda parent, name: self.kernel.fs.mkdir(parent, name, mode, CALLER))

    async def _symlink(self, _op: Op, target: str, path: str) -> None:
        text = target.encode()
        await self._make(path, lambda parent, name: self.kernel.fs.symlink(parent, name, text, CALLER))

    async def _link(self, _op: Op, source: str, path: str) -> None:
        ino = await self._find(source, follow=False)

        async def make(parent: int, name: bytes) -> Any:
            if self._is(ino, stat.S_IFDIR):
                raise _refuse(errno.EPERM)
            return await self.kernel.fs.link(ino, parent, name, CALLER)

        await self._make(path, make)

    async def _unlink(self, _op: Op, path: str) -> None:
        await self._remove(path, directory=False)

    async def _rmdir(self, _op: Op, path: str) -> None:
        await self._remove(path, directory=True)

    async def _remove(self, path: str, *, directory: bool) -> None:
        parent, name, _ = await self._parent(path)
        kernel = self.kernel
        async with kernel.directory_locks[parent]:
            ino = await kernel.step_locked(parent, name)
            self._check_removable(ino, directory)
            await (kernel.fs.rmdir if directory else kernel.fs.unlink)(parent, name, CALLER)
            kernel.unlinked(parent, name, ino)

    def _check_removable(self, ino: int, directory: bool) -> None:
        if not ino:
            raise _refuse(errno.ENOENT)
        if self._is(ino, stat.S_IFDIR) != directory:
            raise _refuse(errno.ENOTDIR if directory else errno.EISDIR)

    async def _rename(self, _op: Op, old: str, new: str, flags: int) -> None:
        kernel = self.kernel
        parent, name, above = await self._parent(old)
        new_parent, new_name, new_above = await self._parent(new)
        async with AsyncExitStack() as held:
            for directory in sorted({parent, new_parent}):
                await held.enter_async_context(kernel.directory_locks[directory])
            ino = await kernel.step_locked(parent, name)
            if not ino:
                raise _refuse(errno.ENOENT)
            replaced = await kernel.step_locked(new_parent, new_name, fresh=True)
            self._check_rename(ino, replaced, above, new_above, flags)
            if ino == replaced:
                return
            await kernel.fs.rename(parent, name, new_parent, new_name, flags, CALLER)
            kernel.unlinked(parent, name, ino)
            kernel.unlinked(new_parent, new_name, replaced)

    def _check_rename(
        self, ino: int, replaced: int, above: tuple[int, ...], new_above: tuple[int, ...], flags: int
    ) -> None:
        if flags & NOREPLACE and replaced:
            raise _refuse(errno.EEXIST)
        if flags & EXCHANGE and not replaced:
            raise _refuse(errno.ENOENT)
        if ino in new_above:
            raise _refuse(errno.EINVAL)
        if replaced in above:
            raise _refuse(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY)
        if replaced and ino != replaced and not flags & EXCHANGE:
            self._check_removable(replaced, self._is(ino, stat.S_IFDIR))

    # ------------------------------------------------------------------ attributes

    async def _set(self, path: str, changes: SetAttributes) -> None:
        ino = await self._find(path)
        if changes.size is not None and self._is(ino, stat.S_IFDIR):
            raise _refuse(errno.EISDIR)
        await self._set_inode(ino, changes, None)

    async def _set_inode(self, ino: int, changes: SetAttributes, handle: int | None) -> None:
        self.kernel.learn_attr(await self.kernel.fs.setattr(ino, changes, handle, CALLER))
        if changes.size is not None:
            self._sizes[ino] = changes.size
            self.kernel.truncated(ino, changes.size)

    async def _chmod(self, _op: Op, path: str, mode: int) -> None:
        await self._set(path, SetAttributes(mode=mode))

    async def _chown(self, _op: Op, path: str, uid: int, gid: int) -> None:
        await self._set(path, SetAttributes(uid=uid, gid=gid))

    async def _utimens(self, _op: Op, path: str, mtime_ns: int) -> None:
        await self._set(path, SetAttributes(atime_ns=mtime_ns, mtime_ns=mtime_ns))

    async def _truncate(self, _op: Op, path: str, size: int) -> None:
        await self._set(path, SetAttributes(size=size))

    async def _attr(self, ino: int) -> common.Attr:
        kernel = self.kernel
        known = kernel.attrs.get(ino)
        if known is not None and not kernel.doubtful:
            return known
        kernel.requests += 1
        node = await kernel.fs.getattr(ino, CALLER)
        kernel.learn_attr(node)
        assert node.attr is not None
        return node.attr

    async def _stat_inode(self, ino: int) -> Stat:
        attr = await self._attr(ino)
        kind = _KINDS[stat.S_IFMT(attr.mode)]
        size = -1 if kind == "d" else attr.size
        mode = attr.mode & MODE_MASK
        self._sizes[ino] = attr.size
        owner = (attr.uid, attr.gid)
        return Stat(kind, mode, attr.nlink, *owner, size, attr.ino, attr.mtime_ns, attr.ctime_ns)

    async def _stat(self, _op: Op, path: str) -> Stat:
        return await self._stat_inode(await self._find(path))

    async def _lstat(self, _op: Op, path: str) -> Stat:
        return await self._stat_inode(await self._find(path, follow=False))

    async def _readlink(self, _op: Op, path: str) -> str:
        ino = await self._find(path, follow=False)
        if not self._is(ino, stat.S_IFLNK):
            raise _refuse(errno.EINVAL)
        return (await self.kernel.fs.readlink(ino, CALLER)).decode()

    async def _setxattr(self, _op: Op, path: str, name: str, value: str, flags: int) -> None:
        ino = await self._find(path)
        await self.kernel.fs.setxattr(ino, name.encode(), value.encode(), flags, CALLER)
        self.kernel.attrs.pop(ino, None)

    async def _getxattr(self, _op: Op, path: str, name: str) -> str:
        return (await self.kernel.fs.getxattr(await self._find(path), name.encode(), CALLER)).decode()

    async def _listxattr(self, _op: Op, path: str) -> list[str]:
        names = await self.kernel.fs.listxattr(await self._find(path), CALLER)
        return sorted(name.decode() for name in names)

    async def _removexattr(self, _op: Op, path: str, name: str) -> None:
        ino = await self._find(path)
        await self.kernel.fs.removexattr(ino, name.encode(), CALLER)
        self.kernel.attrs.pop(ino, None)

    # ------------------------------------------------------------------ listing

    async def _list(self, handle: int, ino: int) -> list[str]:
        kernel = self.kernel
        names, offset, epoch = [], 0, kernel.epoch
        while listed := await kernel.fs.readdir(handle, offset, 7):
            for entry in listed:
                if not entry.bare:
                    kernel.fs.listed(entry)
                    kernel.learn(ino, entry.name, entry.node, epoch)
                names.append(entry.name.decode())
                offset = entry.next_offset
            epoch = kernel.epoch
        return sorted(names)

    async def _readdir(self, _op: Op, path: str) -> list[str]:
        ino = await self._find(path)
        if not self._is(ino, stat.S_IFDIR):
            raise _refuse(errno.ENOTDIR)
        handle = await self.kernel.fs.opendir(ino, CALLER)
        try:
            async with self.kernel.directory_locks[ino]:
                return await self._list(handle, ino)
        finally:
            await self.kernel.fs.releasedir(handle)

    async def _freaddir(self, op: Op, slot: int) -> list[str]:
        opened = self._opened(op, slot)
        if not opened.directory:
            raise _refuse(errno.ENOTDIR)
        try:
            return await self._list(opened.file.handle, opened.file.ino)
        except CairnError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return []  # a directory that was removed
            raise

    # ------------------------------------------------------------------ open files

    def _opened(self, op: Op, slot: int) -> Descriptor:
        found = self.files.get((op.actor, slot))
        if found is None:
            raise _refuse(errno.EBADF)
        return found

    def _writable(self, op: Op, slot: int, refusal: int) -> Descriptor:
        found = self._opened(op, slot)
        if not found.writable:
            raise _refuse(refusal)
        return found

    async def _open(self, op: Op, slot: int, path: str, flags: int, mode: int) -> None:
        if (op.actor, slot) in self.files:
            raise _refuse(errno.EBUSY)
        exclusive = bool(flags & os.O_CREAT and flags & os.O_EXCL)
        follow = not (exclusive or flags & os.O_NOFOLLOW)
        place = await self._walk(path, follow=follow, fresh=exclusive)
        if place.ino:
            self._check_open(place.ino, flags, exclusive)
            made = await self._open_inode(place.ino, flags)
        elif flags & os.O_CREAT:
            made = await self._create(place, flags, mode)
        else:
            raise _refuse(errno.ENOENT)
        self.files[op.actor, slot] = made

    def _check_open(self, ino: int, flags: int, exclusive: bool) -> None:
        if exclusive:
            raise _refuse(errno.EEXIST)
        if self._is(ino, stat.S_IFLNK):
            raise _refuse(errno.ELOOP)
        if self._is(ino, stat.S_IFDIR) and flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC):
            raise _refuse(errno.EISDIR)

    async def _create(self, place: Place, flags: int, mode: int) -> Descriptor:
        kernel = self.kernel
        async with kernel.directory_locks[place.parent]:
            known = kernel.dentries.get((place.parent, place.name), 0)
            if not known:
                epoch = kernel.epoch
                opened, node = await kernel.fs.create(
                    place.parent, place.name, stat.S_IFREG | mode, flags, CALLER
                )
                ino = kernel.learn(place.parent, place.name, node, epoch)
                kernel.attrs.pop(place.parent, None)
                return self._descriptor(ino, opened, flags)
        self._check_open(known, flags, bool(flags & os.O_EXCL))  # made meanwhile by another of our threads
        return await self._open_inode(known, flags)

    async def _open_inode(self, ino: int, flags: int) -> Descriptor:
        kernel = self.kernel
        if self._is(ino, stat.S_IFDIR):
            handle = await kernel.fs.opendir(ino, CALLER)
            return Descriptor(SimFile(kernel, ino, handle, direct=False), flags, directory=True)
        opened = await kernel.fs.open(ino, flags & ~(os.O_CREAT | os.O_EXCL), CALLER)
        return self._descriptor(ino, opened, flags)

    def _descriptor(self, ino: int, opened: Any, flags: int) -> Descriptor:
        kernel = self.kernel
        if flags & os.O_TRUNC:
            kernel.pages.pop(ino, None)
            kernel.attrs.pop(ino, None)
            self._sizes[ino] = 0
        if not opened.keep_cache:
            kernel.pages.pop(ino, None)
        return Descriptor(SimFile(kernel, ino, opened.handle, opened.direct_io), flags)

    async def _close(self, op: Op, slot: int) -> None:
        opened = self._opened(op, slot)
        fs, handle = self.kernel.fs, opened.file.handle
        if opened.flocked:
            # The kernel does not wait until others know of a BSD lock's end by close(2): internals/posix.md.
            await self._flock(op, slot, "u")
        del self.files[op.actor, slot]
        if opened.directory:
            await fs.releasedir(handle)
            return
        try:
            await fs.flush(handle, self._owner)
        finally:
            await fs.release(handle, None)

    async def _pwrite(self, op: Op, slot: int, offset: int, length: int) -> int:
        opened = self._writable(op, slot, errno.EBADF)
        if opened.flags & os.O_APPEND:
            offset = self._sizes.get(opened.file.ino, 0)
        await opened.file.write(offset, pattern(op.number, length))
        self._sizes[opened.file.ino] = max(self._sizes.get(opened.file.ino, 0), offset + length)
        return length

    async def _pread(self, op: Op, slot: int, offset: int, length: int) -> bytes:
        opened = self._opened(op, slot)
        if not opened.readable:
            raise _refuse(errno.EBADF)
        if opened.directory:
            raise _refuse(errno.EISDIR)
        return await opened.file.read(offset, length)

    async def _ftruncate(self, op: Op, slot: int, size: int) -> None:
        opened = self._writable(op, slot, errno.EINVAL)
        await self._set_inode(opened.file.ino, SetAttributes(size=size), opened.file.handle)

    async def _fallocate(self, op: Op, slot: int, mode: int, offset: int, length: int) -> None:
        file = self._writable(op, slot, errno.EBADF).file
        await self.kernel.fs.fallocate(file.handle, mode, offset, length)
        if not mode & KEEP_SIZE:
            self._sizes[file.ino] = max(self._sizes.get(file.ino, 0), offset + length)
        self.kernel.pages.pop(file.ino, None)
        self.kernel.attrs.pop(file.ino, None)

    async def _fstat(self, op: Op, slot: int) -> Stat:
        return await self._stat_inode(self._opened(op, slot).file.ino)

    async def _fsync(self, op: Op, slot: int) -> None:
        opened = self._opened(op, slot)
        fs = self.kernel.fs
        await (fs.fsyncdir if opened.directory else fs.fsync)(opened.file.handle, False)

    async def _flock(self, op: Op, slot: int, kind: str) -> None:
        opened = self._opened(op, slot)
        file = opened.file
        await self.kernel.fs.flock(file.ino, 1_000_000 + file.handle, _LOCKS[kind], False)
        opened.flocked = kind != "u"

    async def _lockf(self, op: Op, slot: int, kind: str, start: int, length: int) -> None:
        opened = self._opened(op, slot)
        if (kind == "w" and not opened.writable) or (kind == "r" and not opened.readable):
            raise _refuse(errno.EBADF)
        lock = pb.LockRange(type=_LOCKS[kind], start=start, end=start + length - 1, pid=1)
        await self.kernel.fs.setlk(opened.file.ino, self._owner, lock, False)

    # ------------------------------------------------------------------ besides

    async def _forget(self, _op: Op) -> None:
        if self.active == 1:  # the kernel keeps what calls under way refer to
            self.kernel.forget_all([opened.file.ino for opened in self.files.values()])
