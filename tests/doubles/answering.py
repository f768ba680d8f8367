"""The file system core below that part of the FUSE layer that answers for it: `vfs.answers`, no kernel."""

import inspect
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.answers import Absorbed, Content, Name, NoAnswers
from cairnfs.vfs.attributes import XATTR_NAMESPACES
from cairnfs.vfs.core import VFS
from cairnfs.vfs.interface import FileSystem, Listed, Node, Opened
from cairnfs.vfs.state import KERNEL_TIMEOUT_S

HANDLES_FROM = 1 << 62

_REQUESTS = {
    name
    for name, member in vars(FileSystem).items()
    if inspect.iscoroutinefunction(member) and name != "write"
}


@dataclass
class Listing:
    """What an open directory goes through. `whole`: it was published for all who list the directory."""

    directory: int
    names: list[Name]
    ended: bool
    whole: bool = False


class MemoryAnswers(NoAnswers):
    """Faithful to fuse/lowlevel/answers.c, listings.c and contents.c, without bounds.

    `trusted` is asked at every answer. Descriptors are numbers of `files`.
    """

    def __init__(self, trusted: Callable[[], bool], files: Sequence[bytes], fs: VFS) -> None:
        self.trusted = trusted
        self.fs = fs
        self.files = files
        self.contents: dict[int, dict[int, Content]] = {}
        self.handles = HANDLES_FROM
        self.untold: list[tuple[Any, ...]] = []  # methods of the file system, and with what to call them
        self.listings: dict[int, Sequence[Name]] = {}  # of whole directories
        self.opened: dict[int, Listing] = {}  # by handle
        self.attrs: dict[int, common.Attr] = {}
        self.without_xattrs: set[int] = set()
        self.entries: dict[int, dict[bytes, int | None]] = {}
        self.complete: set[int] = set()
        self.lookups: Counter[int] = Counter()
        self.quiet: set[int] = set()
        self.writers: dict[int, int] = {}
        self.written: list[Absorbed] = []
        self.room_bytes = 0
        self.answered: Counter[str] = Counter()

    # ------------------------------------------------------------------ Answers

    def publish_inode(self, attr: common.Attr, *, changing: bool = False) -> None:
        known = self.attrs.get(attr.ino)
        if known is None or (known.size, known.mtime_ns) != (attr.size, attr.mtime_ns):
            self.contents.pop(attr.ino, None)
        self.attrs[attr.ino] = copy = common.Attr()
        copy.CopyFrom(attr)
        if changing:
            del self.attrs[attr.ino]
        (self.without_xattrs.discard if attr.has_xattrs else self.without_xattrs.add)(attr.ino)

    def publish_entry(self, parent: int, name: bytes, ino: int | None) -> None:
        entries = self.entries.setdefault(parent, {})
        if entries.get(name) != ino:
            self.listings.pop(parent, None)
        entries[name] = ino

    def publish_complete(self, directory: int) -> None:
        self.entries.setdefault(directory, {})
        self.complete.add(directory)

    def withdraw_inode(self, ino: int) -> int:
        self.withdraw_attributes(ino)
        self.without_xattrs.discard(ino)
        return self.take_lookups(ino)

    def publish_listing(self, directory: int, above: int, listing: Sequence[Name]) -> None:
        if directory in self.entries:
            self.listings[directory] = listing

    def continue_listing(
        self, handle: int, position: int, directory: int, above: int, page: Sequence[Name], *, ended: bool
    ) -> bool:
        if position == 0:
            self.opened[handle] = Listing(directory, [], ended=False)
        opened = self.opened.get(handle)
        if opened is None or opened.whole or len(opened.names) != position:
            return False
        opened.names += page
        opened.ended = ended
        return True

    def take_listing(self, handle: int, position: int) -> bytes | None:
        opened = self.opened.get(handle)
        if opened is None or not (opened.whole or position == 0):
            return None
        del self.opened[handle]
        found = opened.whole and 0 < position <= len(opened.names)
        return opened.names[position - 1].name if found else None

    def withdraw_attributes(self, ino: int) -> None:
        self.attrs.pop(ino, None)
        self.listings.pop(ino, None)
        self.contents.pop(ino, None)

    def withdraw_entry(self, parent: int, name: bytes) -> None:
        self.entries.get(parent, {}).pop(name, None)
        self.complete.discard(parent)
        self.listings.pop(parent, None)

    def withdraw_directory(self, ino: int) -> None:
        self.entries.pop(ino, None)
        self.complete.discard(ino)
        self.listings.pop(ino, None)

    def take_lookups(self, ino: int) -> int:
        return self.lookups.pop(ino, 0)

    def publish_handle(self, handle: int) -> None:
        self.quiet.add(handle)

    def withdraw_handle(self, handle: int) -> None:
        self.quiet.discard(handle)

    def lend(self, descriptor: int) -> int:
        return descriptor + 1

    def publish_content(self, ino: int, content: Content) -> bool:
        if ino in self.attrs:
            self.contents.setdefault(ino, {})[content.start] = content
        return ino in self.attrs

    def catch_up(self) -> None:
        while self.untold:
            tell, *about = self.untold.pop(0)
            tell(*about)

    def publish_writer(self, handle: int, ino: int) -> None:
        self.writers[handle] = ino

    def withdraw_writer(self, handle: int) -> None:
        self.writers.pop(handle, None)

    def room_for_writes(self, size_bytes: int) -> None:
        self.room_bytes = size_bytes

    def take_writes(self) -> list[Absorbed]:
        taken, self.written = self.written, []
        return taken

    # ------------------------------------------------------------------ what the kernel is told

    def absorb(self, handle: int, offset: int, data: bytes, now_ns: int) -> bool:
        ino = self.writers.get(handle)
        if ino is None or len(data) > self.room_bytes or not self.trusted():
            return False
        self.room_bytes -= len(data)
        self.attrs.pop(ino, None)
        self.written.append(Absorbed(ino, offset, data, now_ns))
        self.answered["write"] += 1
        return True

    def open(self, ino: int, flags: int) -> Opened | None:
        attr = self.attrs.get(ino) if self.trusted() else None
        if (
            attr is None
            or flags & (os.O_ACCMODE | os.O_TRUNC)
            or not (attr.nlink and stat.S_ISREG(attr.mode))
        ):
            return None
        self.handles += 1
        self.quiet.add(self.handles)
        self.untold.append((self.fs.opened, ino, self.handles))
        self.answered["open"] += 1
        return Opened(self.handles, direct_io=False, keep_cache=True)

    def opendir(self, ino: int) -> int | None:
        attr = self.attrs.get(ino) if self.trusted() else None
        if attr is None or not attr.nlink or ino not in self.listings:
            return None
        self.handles += 1
        self.untold.append((self.fs.opened_directory, ino, self.handles))
        self.answered["opendir"] += 1
        return self.handles

    def readdir(self, ino: int, handle: int, offset: int, limit: int) -> list[Listed] | None:
        if offset == 0:
            self.opened.pop(handle, None)
            if handle > HANDLES_FROM and ino in self.listings and self.trusted():
                self.opened[handle] = Listing(ino, list(self.listings[ino]), ended=True, whole=True)
        opened = self.opened.get(handle) if self.trusted() else None
        if opened is None or offset > len(opened.names):
            return None
        listed: list[Listed] = []
        known = self.entries.get(ino, {})
        for place, (name, child, _) in enumerate(opened.names[offset:], offset + 1):
            if len(listed) == limit or (child and name not in known):
                break
            if child == 0 or known[name] != child:
                continue
            if child not in self.attrs:
                break
            self.lookups[child] += 1
            listed.append(Listed(name, Node(self.attrs[child], KERNEL_TIMEOUT_S, KERNEL_TIMEOUT_S), place))
        else:
            if not listed and not opened.ended:
                return None
            self.answered["readdir"] += 1
            return listed
        self.answered["readdir"] += bool(listed)
        return listed or None

    def read(self, ino: int, offset: int, size: int) -> bytes | None:
        attr = self.attrs.get(ino) if self.trusted() else None
        if attr is None or offset >= attr.size:
            return None
        end = min(offset + size, attr.size)
        for content in self.contents.get(ino, {}).values():
            if content.start <= offset and end <= content.start + content.length:
                at = content.position + content.chunk_offset + offset - content.start
                self.answered["read"] += 1
                return self.files[content.loan - 1][at : at + end - offset]
        return None

    def lookup(self, parent: int, name: bytes) -> Node | None:
        entries = self.entries.get(parent)
        if entries is None or not self.trusted():
            return None
        ino = entries.get(name, 0)
        if ino == 0:
            return self._answer("absent", Node(None, 0.0, 0.0)) if parent in self.complete else None
        if ino is None:
            return self._answer("absent", Node(None, KERNEL_TIMEOUT_S, 0.0))
        if ino not in self.attrs:
            return None
        self.lookups[ino] += 1
        return self._answer("lookup", Node(self.attrs[ino], KERNEL_TIMEOUT_S, KERNEL_TIMEOUT_S))

    def getattr(self, ino: int) -> Node | None:
        attr = self.attrs.get(ino) if self.trusted() else None
        return None if attr is None else self._answer("getattr", Node(attr, 0.0, KERNEL_TIMEOUT_S))

    def has_no_xattrs(self, ino: int) -> bool:
        return ino in self.without_xattrs and self.trusted()

    def _answer(self, kind: str, node: Node) -> Node:
        self.answered[kind] += 1
        return node


class AnsweringVFS(VFS):
    """What the kernel meets: a request reaches the file system only when it is not answered before."""

    book: MemoryAnswers
    told = False  # the last page of a listing came from the book

    def __getattribute__(self, name: str) -> Any:
        """What was written is taken over before another request is handled, as in lowlevel/workers.py."""
        found = super().__getattribute__(name)
        if name in _REQUESTS:
            super().__getattribute__("flusher").take_absorbed()
        return found

    def answer_while(self, trusted: Callable[[], bool], files: Sequence[bytes]) -> None:
        """Begin to publish, and to answer."""
        self.state.answers = self.book = MemoryAnswers(trusted, files, self)

    async def lookup(self, parent: int, name: bytes, caller: pb.Caller) -> Node:
        """See `FileSystem`."""
        return self.book.lookup(parent, name) or await super().lookup(parent, name, caller)

    async def getattr(self, ino: int, caller: pb.Caller) -> Node:
        """See `FileSystem`."""
        return self.book.getattr(ino) or await super().getattr(ino, caller)

    async def getxattr(self, ino: int, name: bytes, caller: pb.Caller) -> bytes:
        """See `FileSystem`."""
        if name.startswith(XATTR_NAMESPACES) and self.book.has_no_xattrs(ino):
            raise CairnError(common.ERROR_CODE_NO_DATA)
        return await super().getxattr(ino, name, caller)

    async def open(self, ino: int, flags: int, caller: pb.Caller) -> Opened:
        """See `FileSystem`."""
        return self.book.open(ino, flags) or await super().open(ino, flags, caller)

    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview:
        """See `FileSystem`."""
        data = self.book.read(self.state.file(handle).inode.ino, offset, size)
        return data if data is not None else await super().read(handle, offset, size)

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        """See `FileSystem`."""
        if self.book.absorb(handle, offset, data, self.state.clock.wall_ns()):
            return len(data)
        self.flusher.take_absorbed()
        return await super().write(handle, offset, data)

    async def flush(self, handle: int, lock_owner: int) -> None:
        """See `FileSystem`."""
        if handle not in self.book.quiet or self.state.locks.holds(
            self.state.file(handle).inode.ino, lock_owner, flock=False
        ):
            await super().flush(handle, lock_owner)

    async def release(self, handle: int, lock_owner: int | None) -> None:
        """See `FileSystem`."""
        self.book.quiet.discard(handle)
        if handle > HANDLES_FROM and lock_owner is None:
            self.book.untold.append((super().closed, handle))
        else:
            await super().release(handle, lock_owner)

    async def opendir(self, ino: int, caller: pb.Caller) -> int:
        """See `FileSystem`."""
        return self.book.opendir(ino) or await super().opendir(ino, caller)

    async def readdir(self, handle: int, offset: int, limit: int) -> Sequence[Listed]:
        """See `FileSystem`."""
        found = self.book.readdir(self._directory(handle).inode.ino, handle, offset, limit)
        if found is None:
            found = list(await super().readdir(handle, offset, limit))
            self.told = False
        else:
            self.told = True  # its references are counted
        return found

    def listed(self, entry: Listed) -> None:
        """See `FileSystem`."""
        if not self.told:
            super().listed(entry)

    async def releasedir(self, handle: int) -> None:
        """See `FileSystem`."""
        self.book.opened.pop(handle, None)
        if handle > HANDLES_FROM:
            self.book.untold.append((super().closed_directory, handle))
        else:
            await super().releasedir(handle)
