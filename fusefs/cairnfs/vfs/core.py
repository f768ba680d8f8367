"""The file system core: assembles its parts and runs its background work."""

import trio

from cairnfs.base.clock import Clock, SystemClock
from cairnfs.base.errors import CairnError
from cairnfs.client.interface import ChunkIO, MetadataSession
from cairnfs.rpc.v1 import common_pb2 as common
from cairnfs.vfs.attributes import AttributeOps
from cairnfs.vfs.chunk_source import ChunkSource
from cairnfs.vfs.compactor import Compactor
from cairnfs.vfs.contents import Contents
from cairnfs.vfs.directories import DirectoryHandle, DirectoryOps
from cairnfs.vfs.disk_cache import DiskCache
from cairnfs.vfs.events import Events
from cairnfs.vfs.files import FileOps
from cairnfs.vfs.flusher import Flusher
from cairnfs.vfs.interface import KernelNotifier
from cairnfs.vfs.local import LocalChanges
from cairnfs.vfs.namespace import NamespaceOps
from cairnfs.vfs.prefetch import Prefetcher
from cairnfs.vfs.ranges import RangeOps
from cairnfs.vfs.reader import Reader
from cairnfs.vfs.recalls import Recalls
from cairnfs.vfs.sender import Sender
from cairnfs.vfs.state import MountPolicy, State
from cairnfs.vfs.trimmer import Trimmer
from cairnfs.vfs.upgrades import Upgrades


class VFS(NamespaceOps, AttributeOps, FileOps, RangeOps, DirectoryOps):
    """One mounted CairnFS tree; implements `cairnfs.vfs.interface.FileSystem`."""

    def __init__(
        self,
        session: MetadataSession,
        chunks: ChunkIO,
        notifier: KernelNotifier,
        nursery: trio.Nursery,
        policy: MountPolicy,
        *,
        clock: Clock | None = None,
        disk_cache: DiskCache | None = None,
    ) -> None:
        """`nursery` runs background work until it is cancelled; start the session with `self.events`."""
        self.state = state = State(session, chunks, notifier, clock or SystemClock(), nursery, policy)
        source = ChunkSource(chunks, state.chunk_cache, disk_cache)
        contents = Contents(state, chunks)
        self.prefetcher = Prefetcher(state, source, contents)
        self.reader = Reader(state, source, self.prefetcher, contents)
        compactor = Compactor(state, self.reader)
        self.sender = Sender(state, compactor)
        self.flusher = Flusher(state, self.sender)
        self.local = LocalChanges(state)
        self.upgrades = Upgrades(state)
        self.events = Events(state, Recalls(state, self.flusher, self.local))
        Trimmer(state)
        self.directories: dict[int, DirectoryHandle] = {}
        nursery.start_soon(self.flusher.run)
        nursery.start_soon(compactor.run)
        if disk_cache is not None:
            nursery.start_soon(disk_cache.run)

    @property
    def root_ino(self) -> int:
        """The inode that is the root of this mount."""
        return self.state.root_ino

    async def close(self, deadline_s: float) -> None:
        """Send everything unsent, for at most `deadline_s`; raises CairnError when something is left."""
        with trio.move_on_after(deadline_s) as scope:
            await self.flusher.flush_all()
        if scope.cancelled_caught:
            left = f"{self.state.dirty_bytes} bytes and {self.state.journal.unsettled} changes"
            raise CairnError(common.ERROR_CODE_TIMED_OUT, f"{left} could not be saved in time")
