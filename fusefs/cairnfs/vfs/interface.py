"""The file system as the FUSE handlers see it: no pyfuse3 and no gRPC below this line.

Inode numbers are those of the file system (the FUSE layer maps the kernel's root, 1, to `root_ino`).
Every method raises CairnError. `Caller` is the protocol's message. Time-outs are in seconds and 0 when
the kernel may not cache the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


@dataclass(frozen=True, slots=True)
class Node:
    """An inode with its attributes, as an answer to the kernel. `attr` is None for a negative entry."""

    attr: common_pb2.Attr | None
    entry_timeout_s: float
    attr_timeout_s: float


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file. `handle` is unique in this mount."""

    handle: int
    direct_io: bool
    keep_cache: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a directory listing; `next_offset` continues after it (never 0).

    One that is `bare` has only the number and type of its inode, to which the kernel gets no reference.
    """

    name: bytes
    node: Node
    next_offset: int
    bare: bool = False


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """What setattr changes; None leaves a field alone. Times in nanoseconds since the epoch."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Space:
    """What statfs reports, in bytes and inodes."""

    total_bytes: int
    free_bytes: int
    inodes_used: int
    inodes_free: int


class KernelNotifier(Protocol):
    """Drops what the kernel caches, waiting in a thread of its own; never call it inside a handler."""

    def expire_entries(self) -> bool:
        """Have every entry looked up before its next use, without waiting; false where the kernel cannot."""
        ...

    async def invalidate_entries(self, parent: int, names: Sequence[bytes]) -> None:
        """Forget directory entries, positive and negative; returns when the kernel has."""
        ...

    async def invalidate_inode(self, ino: int, *, data: bool) -> None:
        """Forget attributes (and pages, when `data`); returns when the kernel has."""
        ...


class FileSystem(Protocol):
    """One mounted CairnFS tree."""

    @property
    def root_ino(self) -> int: ...
    async def lookup(self, parent: int, name: bytes, caller: pb.Caller) -> Node: ...
    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        """The kernel dropped `count` references of each inode: (ino, count) pairs."""
        ...

    def take_absorbed(self) -> None:
        """Take over what `vfs.answers` has let be written, before any request that came later is handled."""
        ...

    async def getattr(self, ino: int, caller: pb.Caller) -> Node: ...
    async def setattr(
        self, ino: int, changes: SetAttributes, handle: int | None, caller: pb.Caller
    ) -> Node: ...
    async def readlink(self, ino: int, caller: pb.Caller) -> bytes: ...
    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: pb.Caller) -> Node: ...
    async def mkdir(self, parent: int, name: bytes, mode: int, caller: pb.Caller) -> Node: ...
    async def unlink(self, parent: int, name: bytes, caller: pb.Caller) -> None: ...
    async def rmdir(self, parent: int, name: bytes, caller: pb.Caller) -> None: ...
    async def symlink(self, parent: int, name: bytes, target: bytes, caller: pb.Caller) -> Node: ...
    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: pb.Caller
    ) -> None: ...
    async def link(self, ino: int, new_parent: int, new_name: bytes, caller: pb.Caller) -> Node: ...
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: pb.Caller
    ) -> tuple[Opened, Node]: ...
    async def open(self, ino: int, flags: int, caller: pb.Caller) -> Opened: ...
    def opened(self, ino: int, handle: int) -> None:
        """The FUSE layer has opened a file for reading, under this number of its own; see `vfs.answers`."""
        ...

    def was_read(self, handle: int, offset: int, size: int) -> None:
        """What comes before in an open file was read without this program; what follows may be next."""
        ...

    def closed(self, handle: int) -> None:
        """A file that was opened for reading, and has no locks, is closed."""
        ...

    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview: ...
    async def write(self, handle: int, offset: int, data: bytes) -> int: ...
    async def flush(self, handle: int, lock_owner: int) -> None:
        """close(2) of one descriptor: reports errors of earlier writes, releases the owner's POSIX locks."""
        ...

    async def release(self, handle: int, lock_owner: int | None) -> None:
        """The last descriptor is gone; `lock_owner` is set when a BSD lock must be released."""
        ...

    async def fsync(self, handle: int, data_only: bool) -> None: ...
    async def opendir(self, ino: int, caller: pb.Caller) -> int: ...
    def opened_directory(self, ino: int, handle: int) -> None:
        """The FUSE layer has opened a directory, under this number of its own; see `vfs.answers`."""
        ...

    def was_listed(self, handle: int, offset: int) -> None:
        """An open directory is listed without this program from `offset` on; it will soon need more."""
        ...

    async def parent_of(self, handle: int) -> tuple[int, int]:
        """The inode of an open directory and the one above it, for "." and ".."."""
        ...

    async def readdir(self, handle: int, offset: int, limit: int) -> Sequence[Listed]:
        """Up to `limit` entries after `offset` (0: from the start), without "." and ".."; empty at the end.

        Each entry given to the kernel counts as one lookup, unless it is bare: call `listed(node)` for those
        that fitted.
        """
        ...

    def listed(self, entry: Listed) -> None: ...
    async def releasedir(self, handle: int) -> None: ...
    def closed_directory(self, handle: int) -> None:
        """A directory was closed; the kernel has its answer."""
        ...

    async def fsyncdir(self, handle: int, data_only: bool) -> None: ...
    async def statfs(self) -> Space: ...
    async def getxattr(self, ino: int, name: bytes, caller: pb.Caller) -> bytes: ...
    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: pb.Caller) -> None: ...
    async def listxattr(self, ino: int, caller: pb.Caller) -> Sequence[bytes]: ...
    async def removexattr(self, ino: int, name: bytes, caller: pb.Caller) -> None: ...
    async def access(self, ino: int, mask: int, caller: pb.Caller) -> bool: ...
    async def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None: ...
    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE."""
        ...

    async def copy_file_range(
        self, source_handle: int, source_offset: int, target_handle: int, target_offset: int, length: int
    ) -> int: ...
    async def getlk(self, ino: int, owner: int, lock: pb.LockRange) -> pb.LockRange: ...
    async def setlk(self, ino: int, owner: int, lock: pb.LockRange, wait: bool) -> None:
        """Safe to cancel while it waits."""
        ...

    async def flock(self, ino: int, owner: int, lock_type: "pb.LockType.ValueType", wait: bool) -> None:
        """Safe to cancel while it waits."""
        ...
