"""A mount as a process meets it: the caches that the Linux kernel keeps above the file system core."""

import os
import stat
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

import trio

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from cairnfs.vfs.interface import Node, SetAttributes

ROOT = pb.Caller(uid=0, gid=0, umask=0o022)
PAGE = 4096


class Connection(Protocol):
    """The way to the coordinator."""

    def cut(self) -> None: ...
    async def partition(self, seconds: float) -> None: ...


class SimKernel:
    """Dentries, attributes and pages, cached for as long as the answers allow.

    As in Linux, a request on a directory's entries holds the directory's lock and one on a file's cached
    pages holds theirs until it is answered, and an invalidation waits for these locks.
    """

    fs: VFS
    connection: "Connection"

    def __init__(self) -> None:
        self.directory_locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)
        self.page_locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)
        self.dentries: dict[tuple[int, bytes], int] = {}  # 0: negative
        self.attrs: dict[int, common.Attr] = {}
        self.pages: dict[int, dict[int, bytes]] = {}
        self.kinds: dict[int, int] = {}  # S_IFMT of every inode that was ever seen
        self.references: Counter[int] = Counter()  # that forget owes to the file system
        self.doubtful = False  # every entry must be looked up, as after ESTALE
        self.requests = 0
        self.crashed = False  # the process is gone without a goodbye
        self.gives_references_back = False  # of inodes whose entries it has to forget, as Linux does
        self.epoch = 0  # of entries; those of an earlier one are not used
        self.expires = True  # FUSE_NOTIFY_INC_EPOCH: since Linux 6.16

    # ------------------------------------------------------------------ KernelNotifier

    def expire_entries(self) -> bool:
        if self.expires:
            self.epoch += 1
            self.dentries.clear()
        return self.expires

    async def invalidate_entries(self, parent: int, names: Sequence[bytes]) -> None:
        async with self.directory_locks[parent]:
            self._forget_entries(parent, names)

    def _forget_entries(self, parent: int, names: Sequence[bytes]) -> None:
        for name in names:
            ino = self.dentries.pop((parent, name), 0)
            if ino and self.gives_references_back:
                self._give_back(ino)

    def _give_back(self, ino: int) -> None:
        """Nothing but an open file or another name may keep an inode."""
        self._forget_entries(ino, [name for parent, name in self.dentries if parent == ino])
        inode = self.fs.state.inodes.find(ino)
        if inode is not None and not inode.handles and ino not in self.dentries.values():
            self.attrs.pop(ino, None)
            self.pages.pop(ino, None)
            self.fs.forget([(ino, self.references.pop(ino, 0))])

    async def invalidate_inode(self, ino: int, *, data: bool) -> None:
        self.attrs.pop(ino, None)
        if data:
            async with self.page_locks[ino]:
                self.pages.pop(ino, None)
                self.attrs.pop(ino, None)

    # ------------------------------------------------------------------ paths

    def learn(self, parent: int, name: bytes, node: Node, epoch: int) -> int:
        """Take in the answer to a request that was sent in `epoch`; returns the inode, 0 without one."""
        ino = node.attr.ino if node.attr is not None else 0
        self.references[ino] += 1
        self.dentries.pop((parent, name), None)
        if node.entry_timeout_s and epoch == self.epoch:
            self.dentries[parent, name] = ino
        self.learn_attr(node)
        return ino

    def learn_attr(self, node: Node) -> None:
        if node.attr is None:
            return
        copy = common.Attr()
        copy.CopyFrom(node.attr)
        self.kinds[copy.ino] = stat.S_IFMT(copy.mode)
        if node.attr_timeout_s:
            self.attrs[copy.ino] = copy
        else:
            self.attrs.pop(copy.ino, None)

    async def resolve(self, path: str) -> int:
        """The inode of a path; raises CairnError NOT_FOUND."""
        ino = self.fs.root_ino
        for part in [p.encode() for p in path.split("/") if p]:
            ino = await self.step(ino, part)
            if not ino:
                raise CairnError(common.ERROR_CODE_NOT_FOUND)
        return ino

    async def step(self, parent: int, name: bytes, *, fresh: bool = False) -> int:
        """The inode of one entry, 0 without one; with `fresh` the file system is asked whatever is known."""
        known = self._known(parent, name, fresh)
        if known is not None:
            return known
        async with self.directory_locks[parent]:
            return await self.step_locked(parent, name, fresh=fresh)

    def _known(self, parent: int, name: bytes, fresh: bool) -> int | None:
        return None if fresh or self.doubtful else self.dentries.get((parent, name))

    async def step_locked(self, parent: int, name: bytes, *, fresh: bool = False) -> int:
        """The same for who holds the directory's lock."""
        known = self._known(parent, name, fresh)
        if known is not None:
            return known
        self.requests += 1
        epoch = self.epoch
        return self.learn(parent, name, await self.fs.lookup(parent, name, ROOT), epoch)

    def unlinked(self, parent: int, name: bytes, ino: int) -> None:
        """An entry of ours is gone."""
        self.dentries.pop((parent, name), None)
        for changed in (parent, ino):
            self.attrs.pop(changed, None)

    def truncated(self, ino: int, size: int) -> None:
        """Pages behind the new end go, and what is left of the last one is zeroed."""
        pages = self.pages.get(ino, {})
        for page in [page for page in pages if page * PAGE >= size]:
            del pages[page]
        last = size // PAGE
        if last in pages:
            pages[last] = pages[last][: size % PAGE].ljust(PAGE, b"\0")

    def forget_all(self, keep: Sequence[int]) -> None:
        """Memory is short: drop every cache, and every inode that is not open (in `keep`)."""
        self.dentries.clear()
        self.attrs.clear()
        self.pages.clear()
        kept = {0, self.fs.root_ino, *keep}
        self.fs.forget([(ino, count) for ino, count in self.references.items() if ino not in kept])
        self.references = Counter({ino: count for ino, count in self.references.items() if ino in kept})

    async def _parent(self, path: str) -> tuple[int, bytes]:
        head, _, name = path.rpartition("/")
        return await self.resolve(head), name.encode()

    # ------------------------------------------------------------------ calls

    async def stat(self, path: str) -> common.Attr:
        """lstat(2)."""
        ino = await self.resolve(path)
        known = self.attrs.get(ino)
        if known is not None:
            return known
        self.requests += 1
        node = await self.fs.getattr(ino, ROOT)
        self.learn_attr(node)
        assert node.attr is not None
        return node.attr

    async def exists(self, path: str) -> bool:
        """Whether the path resolves."""
        try:
            await self.resolve(path)
        except CairnError as error:
            if error.code in (common.ERROR_CODE_NOT_FOUND, common.ERROR_CODE_NOT_DIRECTORY):
                return False
            raise
        return True

    async def mkdir(self, path: str) -> None:
        parent, name = await self._parent(path)
        async with self.directory_locks[parent]:
            epoch = self.epoch
            self.learn(parent, name, await self.fs.mkdir(parent, name, 0o755, ROOT), epoch)
            self.attrs.pop(parent, None)

    async def symlink(self, target: str, path: str) -> None:
        parent, name = await self._parent(path)
        async with self.directory_locks[parent]:
            epoch = self.epoch
            self.learn(parent, name, await self.fs.symlink(parent, name, target.encode(), ROOT), epoch)
            self.attrs.pop(parent, None)

    async def readlink(self, path: str) -> str:
        return (await self.fs.readlink(await self.resolve(path), ROOT)).decode()

    async def unlink(self, path: str) -> None:
        parent, name = await self._parent(path)
        ino = await self.step(parent, name)
        async with self.directory_locks[parent]:
            await self.fs.unlink(parent, name, ROOT)
            self.dentries.pop((parent, name), None)
            self.attrs.pop(ino, None)
            self.attrs.pop(parent, None)

    async def rmdir(self, path: str) -> None:
        parent, name = await self._parent(path)
        async with self.directory_locks[parent]:
            await self.fs.rmdir(parent, name, ROOT)
            self.dentries.pop((parent, name), None)
            self.attrs.pop(parent, None)

    async def rename(self, old: str, new: str) -> None:
        parent, name = await self._parent(old)
        new_parent, new_name = await self._parent(new)
        ino = await self.step(parent, name)
        async with AsyncExitStack() as held:
            for directory in sorted({parent, new_parent}):
                await held.enter_async_context(self.directory_locks[directory])
            await self.fs.rename(parent, name, new_parent, new_name, 0, ROOT)
            self.dentries.pop((parent, name), None)
            self.dentries.pop((new_parent, new_name), None)
            for changed in (parent, new_parent, ino):
                self.attrs.pop(changed, None)

    async def link(self, old: str, new: str) -> None:
        ino = await self.resolve(old)
        parent, name = await self._parent(new)
        async with self.directory_locks[parent]:
            epoch = self.epoch
            self.learn(parent, name, await self.fs.link(ino, parent, name, ROOT), epoch)
            self.attrs.pop(parent, None)

    async def chmod(self, path: str, mode: int) -> None:
        ino = await self.resolve(path)
        self.learn_attr(await self.fs.setattr(ino, SetAttributes(mode=mode), None, ROOT))

    async def truncate(self, path: str, size: int) -> None:
        ino = await self.resolve(path)
        self.pages.pop(ino, None)
        self.learn_attr(await self.fs.setattr(ino, SetAttributes(size=size), None, ROOT))

    async def setxattr(self, path: str, name: str, value: bytes) -> None:
        ino = await self.resolve(path)
        await self.fs.setxattr(ino, name.encode(), value, 0, ROOT)
        self.attrs.pop(ino, None)

    async def getxattr(self, path: str, name: str) -> bytes | None:
        try:
            return await self.fs.getxattr(await self.resolve(path), name.encode(), ROOT)
        except CairnError as error:
            if error.code == common.ERROR_CODE_NO_DATA:
                return None
            raise

    async def listdir(self, path: str) -> list[str]:
        ino = await self.resolve(path)
        handle = await self.fs.opendir(ino, ROOT)
        names, offset, epoch = [], 0, self.epoch
        while listed := await self.fs.readdir(handle, offset, 7):
            for entry in listed:
                if not entry.bare:
                    self.fs.listed(entry)
                    self.learn(ino, entry.name, entry.node, epoch)
                names.append(entry.name.decode())
                offset = entry.next_offset
            epoch = self.epoch
        await self.fs.releasedir(handle)
        return names

    async def open(self, path: str, flags: int = os.O_RDONLY) -> "SimFile":
        """open(2), creating the file with O_CREAT."""
        parent, name = await self._parent(path)
        ino = await self.step(parent, name)
        if not ino and flags & os.O_CREAT:
            async with self.directory_locks[parent]:
                epoch = self.epoch
                opened, node = await self.fs.create(parent, name, stat.S_IFREG | 0o644, flags, ROOT)
                ino = self.learn(parent, name, node, epoch)
                self.attrs.pop(parent, None)
        elif not ino:
            raise CairnError(common.ERROR_CODE_NOT_FOUND)
        else:
            opened = await self.fs.open(ino, flags & ~os.O_CREAT, ROOT)
            if flags & os.O_TRUNC:
                self.pages.pop(ino, None)
                self.attrs.pop(ino, None)
        if not opened.keep_cache:
            self.pages.pop(ino, None)
        return SimFile(self, ino, opened.handle, opened.direct_io)

    async def write(self, path: str, offset: int, data: bytes) -> None:
        """Open, write, close."""
        file = await self.open(path, os.O_CREAT | os.O_RDWR)
        await file.write(offset, data)
        await file.close()

    async def read(self, path: str) -> bytes:
        """The whole content, as cat(1) sees it."""
        file = await self.open(path)
        try:
            return await file.read(0, 1 << 30)
        finally:
            await file.close()


@dataclass
class SimFile:
    """An open file with the kernel's page cache in front, unless it is direct."""

    kernel: SimKernel
    ino: int
    handle: int
    direct: bool

    async def _size(self) -> int:
        known = self.kernel.attrs.get(self.ino)
        if known is not None:
            return known.size
        node = await self.kernel.fs.getattr(self.ino, ROOT)
        self.kernel.learn_attr(node)
        assert node.attr is not None
        return node.attr.size

    async def read(self, offset: int, size: int) -> bytes:
        fs = self.kernel.fs
        if self.direct:
            return bytes(await fs.read(self.handle, offset, size))
        end = min(offset + size, await self._size())
        content = bytearray()
        for page in range(offset // PAGE, -(-end // PAGE)):
            pages = self.kernel.pages.setdefault(self.ino, {})
            data = pages.get(page)
            if data is None:
                async with self.kernel.page_locks[self.ino]:
                    data = bytes(await fs.read(self.handle, page * PAGE, PAGE)).ljust(PAGE, b"\0")
                    self.kernel.pages.setdefault(self.ino, {})[page] = data
            content += data
        skip = offset % PAGE
        return bytes(content[skip : skip + max(0, end - offset)])

    async def write(self, offset: int, data: bytes) -> None:
        kernel = self.kernel
        if self.direct:
            pages = kernel.pages.get(self.ino, {})
            for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
                pages.pop(page, None)
            assert await kernel.fs.write(self.handle, offset, data) == len(data)
            kernel.attrs.pop(self.ino, None)
            return
        async with kernel.page_locks[self.ino]:
            assert await kernel.fs.write(self.handle, offset, data) == len(data)
            kernel.attrs.pop(self.ino, None)
            self._update_pages(offset, data)

    def _update_pages(self, offset: int, data: bytes) -> None:
        kernel = self.kernel
        pages = kernel.pages.get(self.ino, {})
        for page in range(offset // PAGE, -(-(offset + len(data)) // PAGE)):
            if page in pages:
                content = bytearray(pages[page])
                low, high = max(offset, page * PAGE), min(offset + len(data), (page + 1) * PAGE)
                content[low - page * PAGE : high - page * PAGE] = data[low - offset : high - offset]
                pages[page] = bytes(content)

    async def fsync(self) -> None:
        await self.kernel.fs.fsync(self.handle, False)

    async def close(self) -> None:
        await self.kernel.fs.flush(self.handle, 1)
        await self.kernel.fs.release(self.handle, None)
