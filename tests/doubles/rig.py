"""A whole CairnFS in one trio loop: real cores of client and coordinator, no network, disk or thread.

`Rig` holds the coordinator (conductor, namespace, memory engine) and a store of chunks. `SimKernel` is a
mount as a process meets it: a file system core with the caches that the Linux kernel keeps above it.
"""

import os
import stat
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from cairnfs.base.checksums import chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.coordinator.conductor import Conductor
from cairnfs.coordinator.conductor.context import Config, Effects
from cairnfs.coordinator.namespace.ids import IdAllocator
from cairnfs.coordinator.namespace.mkfs import format_file_system
from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.engine.interface import Operation
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from cairnfs.vfs.interface import Node, SetAttributes
from cairnfs.vfs.state import MountPolicy
from tests.unit.client.memory import MemoryStream

ROOT = pb.Caller(uid=0, gid=0, umask=0o022)
PAGE = 4096
Stream = MemoryStream[pb.ClientMessage, pb.ServerMessage]


class TrioClock:
    """The coordinator's and clients' clock: trio's, which tests may drive."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(trio.current_time() * 1e9)


@dataclass
class MemoryChunks:
    """Chunk I/O without datanodes."""

    chunks: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    failure: CairnError | None = None
    stored: int = 0

    async def store(self, chunks: Sequence[bytes]) -> list[pb.StoredChunk]:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        made = []
        for chunk in chunks:
            name = chunk_id(chunk)
            self.chunks[name] = chunk
            self.stored += 1
            made.append(pb.StoredChunk(chunk_id=name, length=len(chunk), nodes=[1, 2]))
        return made

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        await trio.lowlevel.checkpoint()
        chunk = self.chunks[chunk_id]
        assert len(chunk) == chunk_length
        assert nodes
        return chunk[offset : offset + length]


class Rig:
    """The coordinator and what its clients share."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.engine = MemoryEngine()
        self.clock = TrioClock()
        self.chunks = MemoryChunks()
        self._nursery = nursery
        self._streams: dict[int, Stream] = {}
        self._greeted: set[int] = set()
        [made] = self.engine.commit([Operation(lambda txn: format_file_system(txn, "cluster", 1))])
        assert made.error is None
        self.conductor = self._start(1)
        nursery.start_soon(self._tick)

    def _start(self, incarnation: int) -> Conductor:
        numbers = IdAllocator()
        conductor = Conductor(
            Config("cluster", incarnation),
            self.clock,
            OPERATIONS,
            self.engine.read,
            numbers,
            lambda: common.ClusterMap(version=1),
        )
        self.conductor = conductor
        self._apply(conductor.start())
        return conductor

    def connect(self, _address: str) -> Stream:
        """MetadataTransport: a stream to the coordinator."""
        number = len(self._streams) + 1
        stream = Stream(lambda _stream, message: self._receive(number, message), reachable=True)
        self._streams[number] = stream
        return stream

    def _receive(self, number: int, message: pb.ClientMessage) -> None:
        if number not in self._greeted:
            self._greeted.add(number)
            self._apply(self.conductor.connect(number, message.hello))
        else:
            self._apply(self.conductor.message(number, message))

    def _apply(self, effects: Effects) -> None:
        for number, events in effects.sends.items():
            self._streams[number].deliver(pb.ServerMessage(events=events))
        for number in effects.closes:
            self._streams[number].break_off("closed by the coordinator")
        if effects.commits:
            self._nursery.start_soon(self._commit, effects)

    async def _commit(self, effects: Effects) -> None:
        await trio.lowlevel.checkpoint()
        outcomes = self.engine.commit([commit.operation for commit in effects.commits])
        tokens = [commit.token for commit in effects.commits]
        await trio.lowlevel.checkpoint()
        self._apply(self.conductor.committed(zip(tokens, outcomes, strict=True)))

    async def _tick(self) -> None:
        while True:
            await trio.sleep(0.25)
            self._apply(self.conductor.tick())

    def cut(self) -> None:
        """Break every stream; clients reconnect."""
        for number, stream in self._streams.items():
            if stream.alive:
                stream.break_off("cut by the test")
                self._apply(self.conductor.disconnect(number))

    def restart(self) -> None:
        """A new coordinator process over the same engine: leases, opens and locks are forgotten."""
        for stream in self._streams.values():
            stream.break_off("the coordinator died")
        self._start(self.conductor.context.config.incarnation + 1)

    @asynccontextmanager
    async def mount(self, policy: MountPolicy | None = None) -> AsyncIterator["SimKernel"]:
        """A client with a simulated kernel on top."""
        async with trio.open_nursery() as nursery:
            session = Session(self, ["memory"], Identity("host"), clock=trio.current_time)
            kernel = SimKernel()
            kernel.fs = VFS(session, self.chunks, kernel, nursery, policy or MountPolicy(), clock=self.clock)
            await nursery.start(session.run, kernel.fs.events)
            try:
                yield kernel
            finally:
                with trio.CancelScope(shield=True):
                    await kernel.fs.close(10)
                    await session.close()
                nursery.cancel_scope.cancel()


class SimKernel:
    """Dentries, attributes and pages, cached for as long as the answers allow.

    As in Linux, a request on a directory's entries holds the directory's lock and one on a file's cached
    pages holds theirs until it is answered, and an invalidation waits for these locks.
    """

    fs: VFS

    def __init__(self) -> None:
        self._directory_locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)
        self.page_locks: defaultdict[int, trio.Lock] = defaultdict(trio.Lock)
        self.dentries: dict[tuple[int, bytes], int] = {}  # 0: negative
        self.attrs: dict[int, common.Attr] = {}
        self.pages: dict[int, dict[int, bytes]] = {}
        self.requests = 0

    # ------------------------------------------------------------------ KernelNotifier

    async def invalidate_entries(self, parent: int, names: Sequence[bytes]) -> None:
        async with self._directory_locks[parent]:
            for name in names:
                self.dentries.pop((parent, name), None)

    async def invalidate_inode(self, ino: int, *, data: bool) -> None:
        self.attrs.pop(ino, None)
        if data:
            async with self.page_locks[ino]:
                self.pages.pop(ino, None)
                self.attrs.pop(ino, None)

    # ------------------------------------------------------------------ paths

    def _learn(self, parent: int, name: bytes, node: Node) -> int:
        ino = node.attr.ino if node.attr is not None else 0
        if node.entry_timeout_s:
            self.dentries[parent, name] = ino
        self.learn_attr(node)
        return ino

    def learn_attr(self, node: Node) -> None:
        if node.attr is None:
            return
        copy = common.Attr()
        copy.CopyFrom(node.attr)
        if node.attr_timeout_s:
            self.attrs[copy.ino] = copy
        else:
            self.attrs.pop(copy.ino, None)

    async def resolve(self, path: str) -> int:
        """The inode of a path; raises CairnError NOT_FOUND."""
        ino = self.fs.root_ino
        for part in [p.encode() for p in path.split("/") if p]:
            ino = await self._step(ino, part)
            if not ino:
                raise CairnError(common.ERROR_CODE_NOT_FOUND)
        return ino

    async def _step(self, parent: int, name: bytes) -> int:
        known = self.dentries.get((parent, name))
        if known is not None:
            return known
        async with self._directory_locks[parent]:
            return await self._lookup(parent, name)

    async def _lookup(self, parent: int, name: bytes) -> int:
        self.requests += 1
        return self._learn(parent, name, await self.fs.lookup(parent, name, ROOT))

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
        async with self._directory_locks[parent]:
            self._learn(parent, name, await self.fs.mkdir(parent, name, 0o755, ROOT))
            self.attrs.pop(parent, None)

    async def symlink(self, target: str, path: str) -> None:
        parent, name = await self._parent(path)
        async with self._directory_locks[parent]:
            self._learn(parent, name, await self.fs.symlink(parent, name, target.encode(), ROOT))
            self.attrs.pop(parent, None)

    async def readlink(self, path: str) -> str:
        return (await self.fs.readlink(await self.resolve(path), ROOT)).decode()

    async def unlink(self, path: str) -> None:
        parent, name = await self._parent(path)
        ino = await self._step(parent, name)
        async with self._directory_locks[parent]:
            await self.fs.unlink(parent, name, ROOT)
            self.dentries.pop((parent, name), None)
            self.attrs.pop(ino, None)
            self.attrs.pop(parent, None)

    async def rmdir(self, path: str) -> None:
        parent, name = await self._parent(path)
        async with self._directory_locks[parent]:
            await self.fs.rmdir(parent, name, ROOT)
            self.dentries.pop((parent, name), None)
            self.attrs.pop(parent, None)

    async def rename(self, old: str, new: str) -> None:
        parent, name = await self._parent(old)
        new_parent, new_name = await self._parent(new)
        ino = await self._step(parent, name)
        async with AsyncExitStack() as held:
            for directory in sorted({parent, new_parent}):
                await held.enter_async_context(self._directory_locks[directory])
            await self.fs.rename(parent, name, new_parent, new_name, 0, ROOT)
            self.dentries.pop((parent, name), None)
            self.dentries.pop((new_parent, new_name), None)
            for changed in (parent, new_parent, ino):
                self.attrs.pop(changed, None)

    async def link(self, old: str, new: str) -> None:
        ino = await self.resolve(old)
        parent, name = await self._parent(new)
        async with self._directory_locks[parent]:
            self._learn(parent, name, await self.fs.link(ino, parent, name, ROOT))
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
        names, offset = [], 0
        while listed := await self.fs.readdir(handle, offset, 7):
            for entry in listed:
                self._learn(ino, entry.name, entry.node)
                self.fs.listed(entry)
                names.append(entry.name.decode())
                offset = entry.next_offset
        await self.fs.releasedir(handle)
        return names

    async def open(self, path: str, flags: int = os.O_RDONLY) -> "SimFile":
        """open(2), creating the file with O_CREAT."""
        parent, name = await self._parent(path)
        ino = await self._step(parent, name)
        if not ino and flags & os.O_CREAT:
            async with self._directory_locks[parent]:
                opened, node = await self.fs.create(parent, name, stat.S_IFREG | 0o644, flags, ROOT)
                ino = self._learn(parent, name, node)
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
