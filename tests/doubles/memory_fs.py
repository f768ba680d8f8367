"""A small POSIX file system in memory: `vfs.interface.FileSystem` without a cluster."""

import errno
import stat
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import trio

from cairnfs.base.errors import TRAITS, CairnError
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from cairnfs.vfs.answers import Answers, NoAnswers
from cairnfs.vfs.interface import Listed, Node, Opened, SetAttributes, Space
from tests.doubles.memory_locks import Lock, carved, conflict

_BY_ERRNO: dict[int, "common_pb2.ErrorCode.ValueType"] = {}
for _code, _traits in TRAITS.items():
    _BY_ERRNO.setdefault(_traits.errno, _code)  # type: ignore[arg-type] # keys of TRAITS are codes

SEEK_DATA, SEEK_HOLE = 3, 4
PUNCH_HOLE, KEEP_SIZE, ZERO_RANGE = 2, 1, 16
TIMEOUT_S = 3600.0


def fail(number: int) -> NoReturn:
    """Raise the CairnError that answers with this errno."""
    raise CairnError(_BY_ERRNO[number])


@dataclass
class Inode:
    """One file of any type."""

    attr: common_pb2.Attr
    data: bytearray = field(default_factory=bytearray)
    holes: set[int] = field(default_factory=set[int])  # 4 KiB pages never written
    entries: dict[bytes, int] = field(default_factory=dict[bytes, int])
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])


class MemoryFileSystem:
    """Faithful in results, not in speed. `calls` counts the methods called, `faults` raises in them once."""

    def __init__(self, root_ino: int = 1000) -> None:
        self.root_ino = root_ino
        self.inodes: dict[int, Inode] = {}
        self.handles: dict[int, int] = {}
        self.references: Counter[int] = Counter()
        self.answers: Answers = NoAnswers()
        self.calls: Counter[str] = Counter()
        self.faults: dict[str, BaseException] = {}
        self.stalls: dict[str, trio.Event] = {}
        self.locks: dict[int, list[Lock]] = {}
        self.flocks: dict[int, list[Lock]] = {}
        self.timeout_s = TIMEOUT_S
        self._changed = trio.Condition()
        self._next_ino = root_ino
        self._next_handle = 0
        self._new(stat.S_IFDIR | 0o755, pb.Caller(), parent=root_ino)

    async def _enter(self, name: str) -> None:
        self.calls[name] += 1
        stall = self.stalls.get(name)
        if stall is not None:
            await stall.wait()
        fault = self.faults.pop(name, None)
        if fault is not None:
            raise fault

    def _new(self, mode: int, caller: pb.Caller, parent: int = 0, rdev: int = 0) -> Inode:
        now = time.time_ns()
        attr = common_pb2.Attr(
            ino=self._next_ino, mode=mode, uid=caller.uid, gid=caller.gid, rdev=rdev, change=1, parent=parent
        )
        attr.nlink = 2 if stat.S_ISDIR(mode) else 1
        attr.atime_ns = attr.mtime_ns = attr.ctime_ns = now
        self._next_ino += 1
        inode = self.inodes[attr.ino] = Inode(attr)
        return inode

    def node(self, inode: Inode) -> Node:
        attr = common_pb2.Attr()
        attr.CopyFrom(inode.attr)
        attr.size = len(inode.data) if stat.S_ISREG(attr.mode) else len(inode.target)
        pages = -(-len(inode.data) // 4096) - len(inode.holes)
        attr.allocated_bytes = pages * 4096
        attr.has_xattrs = bool(inode.xattrs)
        return Node(attr, self.timeout_s, self.timeout_s)

    def _get(self, ino: int) -> Inode:
        if ino not in self.inodes:
            fail(errno.ENOENT)
        return self.inodes[ino]

    def _directory(self, ino: int) -> Inode:
        inode = self._get(ino)
        if not stat.S_ISDIR(inode.attr.mode):
            fail(errno.ENOTDIR)
        return inode

    def _child(self, parent: int, name: bytes) -> Inode:
        entries = self._directory(parent).entries
        if name not in entries:
            fail(errno.ENOENT)
        return self.inodes[entries[name]]

    def _of(self, handle: int) -> Inode:
        return self._get(self.handles[handle])

    def _touch(self, inode: Inode, *, content: bool = False) -> None:
        now = time.time_ns()
        inode.attr.ctime_ns = now
        inode.attr.change += 1
        if content:
            inode.attr.mtime_ns = now

    def _open(self, inode: Inode) -> Opened:
        self._next_handle += 1
        self.handles[self._next_handle] = inode.attr.ino
        return Opened(self._next_handle, direct_io=False, keep_cache=True)

    def _add(self, parent: int, name: bytes, mode: int, caller: pb.Caller, rdev: int = 0) -> Inode:
        directory = self._directory(parent)
        if len(name) > 255:
            fail(errno.ENAMETOOLONG)
        if name in directory.entries:
            fail(errno.EEXIST)
        kind, bits = stat.S_IFMT(mode), mode & 0o7777 & ~caller.umask
        inode = self._new(kind | bits, caller, parent if kind == stat.S_IFDIR else 0, rdev)
        if directory.attr.mode & stat.S_ISGID:
            inode.attr.gid = directory.attr.gid
            if kind == stat.S_IFDIR:
                inode.attr.mode |= stat.S_ISGID
        directory.entries[name] = inode.attr.ino
        directory.attr.nlink += kind == stat.S_IFDIR
        self._touch(directory, content=True)
        return inode

    def _remove(self, parent: int, name: bytes) -> None:
        directory, inode = self._directory(parent), self._child(parent, name)
        del directory.entries[name]
        if stat.S_ISDIR(inode.attr.mode):
            directory.attr.nlink -= 1
            inode.attr.nlink = 0
        else:
            inode.attr.nlink -= 1
        self._touch(directory, content=True)
        self._touch(inode)
        self._drop(inode)

    def _drop(self, inode: Inode) -> None:
        ino = inode.attr.ino
        if inode.attr.nlink == 0 and not self.references[ino] and ino not in self.handles.values():
            self.inodes.pop(ino, None)

    def _resize(self, inode: Inode, size: int) -> None:
        old = len(inode.data)
        if size < old:
            del inode.data[size:]
            inode.holes = {page for page in inode.holes if page * 4096 < size}
        else:
            inode.data.extend(bytes(size - old))
            inode.holes |= set(range(-(-old // 4096), -(-size // 4096)))

    def _store(self, inode: Inode, offset: int, data: bytes) -> None:
        if offset + len(data) > len(inode.data):
            self._resize(inode, offset + len(data))
        inode.data[offset : offset + len(data)] = data
        inode.holes -= set(range(offset // 4096, -(-(offset + len(data)) // 4096)))
        self._touch(inode, content=True)

    async def lookup(self, parent: int, name: bytes, caller: pb.Caller) -> Node:
        await self._enter("lookup")
        if name not in self._directory(parent).entries:
            return Node(None, self.timeout_s, 0)
        inode = self._child(parent, name)
        self.references[inode.attr.ino] += 1
        return self.node(inode)

    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        self.calls["forget"] += 1
        for ino, count in counts:
            self.references[ino] += self.answers.take_lookups(ino) - count
            assert self.references[ino] >= 0, f"inode {ino} forgotten too often"
            if ino in self.inodes:
                self._drop(self.inodes[ino])

    def _entered(self, inode: Inode) -> Node:
        self.references[inode.attr.ino] += 1
        return self.node(inode)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: pb.Caller) -> Node:
        await self._enter("mknod")
        return self._entered(self._add(parent, name, mode, caller, rdev))

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: pb.Caller) -> Node:
        await self._enter("mkdir")
        return self._entered(self._add(parent, name, stat.S_IFDIR | mode, caller))

    async def unlink(self, parent: int, name: bytes, caller: pb.Caller) -> None:
        await self._enter("unlink")
        if stat.S_ISDIR(self._child(parent, name).attr.mode):
            fail(errno.EISDIR)
        self._remove(parent, name)

    async def rmdir(self, parent: int, name: bytes, caller: pb.Caller) -> None:
        await self._enter("rmdir")
        if self._directory(self._child(parent, name).attr.ino).entries:
            fail(errno.ENOTEMPTY)
        self._remove(parent, name)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: pb.Caller) -> Node:
        await self._enter("symlink")
        inode = self._add(parent, name, stat.S_IFLNK | 0o777, pb.Caller(uid=caller.uid, gid=caller.gid))
        inode.target = target
        return self._entered(inode)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: pb.Caller
    ) -> None:
        await self._enter("rename")
        moved = self._child(parent, name)
        source, target = self._directory(parent), self._directory(new_parent)
        exchange = flags & 2
        if new_name in target.entries:
            if flags & 1:
                fail(errno.EEXIST)
            replaced = self._child(new_parent, new_name)
            if replaced is moved:
                return
            if replaced.entries and not exchange:
                fail(errno.ENOTEMPTY)
            if exchange:
                source.entries[name] = replaced.attr.ino
            else:
                self._remove(new_parent, new_name)
        elif exchange:
            fail(errno.ENOENT)
        if not exchange:
            del source.entries[name]
        target.entries[new_name] = moved.attr.ino
        if stat.S_ISDIR(moved.attr.mode):
            moved.attr.parent = new_parent
            source.attr.nlink -= 1
            target.attr.nlink += 1
        for inode in (source, target, moved):
            self._touch(inode)

    async def link(self, ino: int, new_parent: int, new_name: bytes, caller: pb.Caller) -> Node:
        await self._enter("link")
        if new_name in self._directory(new_parent).entries:
            fail(errno.EEXIST)
        inode = self._get(ino)
        self._directory(new_parent).entries[new_name] = ino
        inode.attr.nlink += 1
        self._touch(inode)
        return self._entered(inode)

    # ------------------------------------------------------------ attributes

    async def getattr(self, ino: int, caller: pb.Caller) -> Node:
        await self._enter("getattr")
        return self.node(self._get(ino))

    async def setattr(self, ino: int, changes: SetAttributes, handle: int | None, caller: pb.Caller) -> Node:
        await self._enter("setattr")
        inode = self._get(ino)
        attr = inode.attr
        if changes.mode is not None:
            attr.mode = stat.S_IFMT(attr.mode) | changes.mode
        for name in ("uid", "gid", "atime_ns", "mtime_ns"):
            value = getattr(changes, name)
            if value is not None:
                setattr(attr, name, value)
        if changes.size is not None:
            self._resize(inode, changes.size)
        self._touch(inode, content=changes.size is not None and changes.mtime_ns is None)
        return self.node(inode)

    async def readlink(self, ino: int, caller: pb.Caller) -> bytes:
        await self._enter("readlink")
        return self._get(ino).target

    async def statfs(self) -> Space:
        await self._enter("statfs")
        return Space(1 << 40, 1 << 39, len(self.inodes), 1 << 20)

    async def access(self, ino: int, mask: int, caller: pb.Caller) -> bool:
        await self._enter("access")
        return True

    async def getxattr(self, ino: int, name: bytes, caller: pb.Caller) -> bytes:
        await self._enter("getxattr")
        xattrs = self._get(ino).xattrs
        if name not in xattrs:
            fail(errno.ENODATA)
        return xattrs[name]

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: pb.Caller) -> None:
        await self._enter("setxattr")
        xattrs = self._get(ino).xattrs
        if flags & 1 and name in xattrs:
            fail(errno.EEXIST)
        if flags & 2 and name not in xattrs:
            fail(errno.ENODATA)
        xattrs[name] = value
        if name == b"system.posix_acl_access":
            self._apply_acl(self._get(ino).attr, value)

    def _apply_acl(self, attr: common_pb2.Attr, acl: bytes) -> None:
        """The mode's bits follow the ACL: owner, mask (as group) and others."""
        bits = {1: 0, 16: 0, 32: 0}
        for at in range(4, len(acl), 8):
            bits[int.from_bytes(acl[at : at + 2], "little")] = acl[at + 2]
        attr.mode = attr.mode & ~0o777 | bits[1] << 6 | bits[16] << 3 | bits[32]

    async def listxattr(self, ino: int, caller: pb.Caller) -> Sequence[bytes]:
        await self._enter("listxattr")
        return list(self._get(ino).xattrs)

    async def removexattr(self, ino: int, name: bytes, caller: pb.Caller) -> None:
        await self._enter("removexattr")
        if self._get(ino).xattrs.pop(name, None) is None:
            fail(errno.ENODATA)

    # ------------------------------------------------------------ files

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: pb.Caller
    ) -> tuple[Opened, Node]:
        await self._enter("create")
        inode = self._add(parent, name, mode, caller)
        node = self._entered(inode)
        return self._open(inode), node

    async def open(self, ino: int, flags: int, caller: pb.Caller) -> Opened:
        await self._enter("open")
        inode = self._get(ino)
        if flags & 0o1000:
            self._resize(inode, 0)
            self._touch(inode, content=True)
        return self._open(inode)

    def was_read(self, *read: int) -> None:
        self.calls[f"read {read[1:]}"] += 1

    def opened(self, ino: int, handle: int) -> None:
        self.handles[handle] = ino

    def closed(self, handle: int) -> None:
        self.calls["release"] += 1
        self._drop(self._get(self.handles.pop(handle)))

    async def read(self, handle: int, offset: int, size: int) -> bytes:
        await self._enter("read")
        return bytes(self._of(handle).data[offset : offset + size])

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        await self._enter("write")
        self._store(self._of(handle), offset, data)
        return len(data)

    async def flush(self, handle: int, lock_owner: int) -> None:
        await self._enter("flush")
        await self._unlock(self.locks, self.handles[handle], lock_owner)

    async def release(self, handle: int, lock_owner: int | None) -> None:
        await self._enter("release")
        if lock_owner is not None:
            await self._unlock(self.flocks, self.handles[handle], lock_owner)
        self._drop(self._get(self.handles.pop(handle)))

    async def fsync(self, handle: int, data_only: bool) -> None:
        await self._enter("fsync")

    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        await self._enter("fallocate")
        inode, end = self._of(handle), offset + length
        if mode & ~(PUNCH_HOLE | KEEP_SIZE | ZERO_RANGE):
            fail(errno.EOPNOTSUPP)
        if not mode & KEEP_SIZE and end > len(inode.data):
            self._resize(inode, end)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            end = min(end, len(inode.data))
            inode.data[offset:end] = bytes(max(end - offset, 0))
            inode.holes |= set(range(-(-offset // 4096), end // 4096))
        self._touch(inode, content=True)

    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        await self._enter("lseek")
        inode = self._of(handle)
        if offset >= len(inode.data):
            fail(errno.ENXIO)
        while offset < len(inode.data):
            if (offset // 4096 in inode.holes) == (whence == SEEK_HOLE):
                return offset
            offset = (offset // 4096 + 1) * 4096
        if whence == SEEK_DATA:
            fail(errno.ENXIO)
        return len(inode.data)

    async def copy_file_range(
        self, source_handle: int, source_offset: int, target_handle: int, target_offset: int, length: int
    ) -> int:
        await self._enter("copy_file_range")
        data = bytes(self._of(source_handle).data[source_offset : source_offset + length])
        self._store(self._of(target_handle), target_offset, data)
        return len(data)

    # ------------------------------------------------------------ directories

    async def opendir(self, ino: int, caller: pb.Caller) -> int:
        await self._enter("opendir")
        return self._open(self._directory(ino)).handle

    opened_directory = opened

    def was_listed(self, handle: int, offset: int) -> None: ...

    async def parent_of(self, handle: int) -> tuple[int, int]:
        attr = self._of(handle).attr
        return attr.ino, attr.parent or attr.ino

    async def readdir(self, handle: int, offset: int, limit: int) -> Sequence[Listed]:
        await self._enter("readdir")
        self.answers.take_listing(handle, offset)
        names = sorted(self._of(handle).entries.items())
        return [
            Listed(name, self.node(self.inodes[ino]), number)
            for number, (name, ino) in enumerate(names[offset : offset + limit], offset + 1)
        ]

    def listed(self, entry: Listed) -> None:
        assert entry.node.attr is not None
        self.references[entry.node.attr.ino] += 1

    async def releasedir(self, handle: int) -> None:
        self.closed_directory(handle)

    def closed_directory(self, handle: int) -> None:
        self.calls["releasedir"] += 1
        del self.handles[handle]

    async def fsyncdir(self, handle: int, data_only: bool) -> None:
        await self._enter("fsyncdir")

    # ------------------------------------------------------------ locks

    async def _lock(self, table: dict[int, list[Lock]], ino: int, wanted: Lock, wait: bool) -> None:
        async with self._changed:
            if wanted.range.type != pb.LOCK_TYPE_UNLOCK:
                while conflict(table.get(ino, ()), wanted):
                    if not wait:
                        fail(errno.EAGAIN)
                    self.calls["lock waits"] += 1
                    await self._changed.wait()
            table[ino] = carved(table.get(ino, ()), wanted)
            self._changed.notify_all()

    async def _unlock(self, table: dict[int, list[Lock]], ino: int, owner: int) -> None:
        everything = pb.LockRange(type=pb.LOCK_TYPE_UNLOCK, start=0, end=(1 << 63) - 1)
        await self._lock(table, ino, Lock(owner, everything), wait=False)

    async def getlk(self, ino: int, owner: int, lock: pb.LockRange) -> pb.LockRange:
        await self._enter("getlk")
        found = conflict(self.locks.get(ino, ()), Lock(owner, lock))
        return found.range if found else pb.LockRange(type=pb.LOCK_TYPE_UNLOCK)

    async def setlk(self, ino: int, owner: int, lock: pb.LockRange, wait: bool) -> None:
        await self._enter("setlk")
        await self._lock(self.locks, ino, Lock(owner, lock), wait)

    async def flock(self, ino: int, owner: int, lock_type: "pb.LockType.ValueType", wait: bool) -> None:
        await self._enter("flock")
        everything = pb.LockRange(type=lock_type, start=0, end=(1 << 63) - 1)
        await self._lock(self.flocks, ino, Lock(owner, everything), wait)
