"""What all parts of one mounted file system share."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.kept import is_worth_keeping
from cairnfs.base.logs import get_logger
from cairnfs.base.reserved import is_hidden
from cairnfs.client.interface import ChunkIO, MetadataSession
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.answers import Answers, Name, NoAnswers
from cairnfs.vfs.chunk_cache import ChunkCache
from cairnfs.vfs.inodes import NO_LEASE, WRITE_LEASE, Inode, InodeTable
from cairnfs.vfs.interface import KernelNotifier, Node
from cairnfs.vfs.journal import Entry
from cairnfs.vfs.journaling import Journaling
from cairnfs.vfs.lock_table import LockTable
from cairnfs.vfs.readahead import ReadPattern
from cairnfs.vfs.remote import Remote

log = get_logger(__name__)

KERNEL_TIMEOUT_S = 3600.0  # leases, not time, end what the kernel caches
NO_CALLER = pb.Caller()
PUBLISHED_ENTRIES_MAX = 4_096  # of a directory with more, absence is not published


@dataclass(slots=True)
class MountPolicy:
    """Choices made by mount options."""

    dirty_max_bytes: int = limits.DIRTY_MAX_BYTES
    read_cache_max_bytes: int = limits.READ_CACHE_MAX_BYTES
    sync_on_close: bool = False


@dataclass(slots=True, eq=False)
class FileHandle:
    """One open file."""

    inode: Inode
    flags: int
    direct: bool
    writable: bool
    pattern: ReadPattern = field(default_factory=ReadPattern)
    told: CairnError | None = None  # the error of the inode that a call on this open file has returned


@dataclass(slots=True)
class State:
    """The parts of one mounted file system, and the few rules all of them follow."""

    session: MetadataSession
    chunks: ChunkIO
    notifier: KernelNotifier
    clock: Clock
    nursery: trio.Nursery
    policy: MountPolicy
    inodes: InodeTable = field(default_factory=InodeTable)
    locks: LockTable = field(default_factory=LockTable)
    files: dict[int, FileHandle] = field(default_factory=dict[int, FileHandle])
    low_space: bool = False
    sessions_lost: int = 0  # sessions of this mount that the coordinator has ended
    trash_realms: frozenset[int] = frozenset()  # what is removed there goes into the trash
    root_ino: int = limits.ROOT_INO
    dirty_bytes: int = 0
    dirty_freed: trio.lowlevel.ParkingLot = field(  # whoever waits for memory, or for the end of a sending
        default_factory=trio.lowlevel.ParkingLot
    )
    chunk_cache: ChunkCache = field(init=False)
    journal: Journaling = field(init=False)
    answers: Answers = field(default_factory=NoAnswers)
    _next_handle: int = 1

    def __post_init__(self) -> None:
        self.journal = Journaling(self.session, self.clock, self.spawn, self._refuted)
        self.session = Remote(self.session, self.journal, self.inodes)
        self.chunk_cache = ChunkCache(self.policy.read_cache_max_bytes)

    @property
    def trusted(self) -> bool:
        """Whether the coordinator was heard recently enough for caches to be used."""
        return self.session.trusted

    def new_handle(self) -> int:
        """A number for an open file or directory, unique in this mount."""
        self._next_handle += 1
        return self._next_handle

    def leased(self, inode: Inode) -> bool:
        """Whether the attributes of `inode` may be answered from memory."""
        return self.trusted and inode.lease != NO_LEASE and inode.attr_valid

    def entries_leased(self, inode: Inode) -> bool:
        """Whether the known entries of a directory may be answered from memory."""
        return self.trusted and inode.lease != NO_LEASE

    def goes_into_trash(self, inode: Inode, name: bytes) -> bool:
        """Whether the inode, whose last name this is, goes into the trash when it is removed."""
        attr = inode.attr
        return attr is not None and attr.realm in self.trash_realms and is_worth_keeping(name, attr.mode)

    def may_buffer(self, inode: Inode) -> bool:
        """Whether writes of `inode` may stay in memory for a while."""
        return self.trusted and inode.lease == WRITE_LEASE and inode.attr_valid

    def node(self, inode: Inode, parent: Inode | None = None, name: bytes = b"") -> Node:
        """The answer for a known inode, as entry `name` of `parent`; cacheable as far as leases go.

        A lease on the directory is not enough: the answer may be older than a change that is being made,
        whose recall has taken only this name.
        """
        known = (
            parent is not None and self.entries_leased(parent) and parent.entries.get(name, 0) == inode.ino
        )
        entry_s = KERNEL_TIMEOUT_S if known else 0.0
        attr_s = KERNEL_TIMEOUT_S if self.leased(inode) else 0.0
        return Node(self.attributes(inode), entry_s, attr_s)

    def publish(self, inode: Inode) -> None:
        """Let the kernel be told of the attributes of `inode` without asking here, as far as a lease goes."""
        if inode.lease == NO_LEASE or not inode.attr_valid or inode.attr is None:
            return
        if self.inodes.find(inode.ino) is not inode:
            return  # forgotten meanwhile: nobody would withdraw it
        inode.published = self.answers
        # While there is something unsent, only that it has no extended attributes is certain.
        self.answers.publish_inode(inode.attr, changing=inode.unsaved or bool(inode.absorbing))

    def publish_entries(self, directory: Inode, entries: Iterable[pb.DirEntry]) -> None:
        """The same for entries that a listing has just told of, and what they lead to."""
        if self.inodes.find(directory.ino) is not directory:
            return  # forgotten meanwhile: nobody would withdraw them
        for entry in entries:
            inode = self.inodes.find(entry.attr.ino)
            if inode is not None and directory.entries.get(entry.name) == inode.ino:
                self.publish(inode)
                self.answers.publish_entry(directory.ino, entry.name, inode.ino)
        directory.published = self.answers

    def publish_listing(self, directory: Inode) -> bool:
        """The same for all entries of a directory, in their order; False: it is not known as a whole."""
        if not (self.entries_leased(directory) and self._may_publish_whole(directory)):
            return False
        listing: list[Name] = []
        for name, ino in directory.entries.items():
            if ino is None:
                continue
            inode = self.inodes.find(ino)
            if inode is None or inode.attr is None:
                return False
            self.publish(inode)
            listing.append(Name(name, 0 if is_hidden(directory.ino, name) else ino, inode.attr.mode))
        listing.sort()
        self.publish(directory)  # it is opened while its attributes are published
        self._publish_whole(directory)
        self.answers.publish_listing(directory.ino, self.above(directory), listing)
        return True

    def publish_absence(self, directory: Inode) -> None:
        """The same for names that a directory which is known as a whole does not have."""
        if directory.lease == NO_LEASE or directory.published_epoch == directory.epoch:
            return
        if self._may_publish_whole(directory):
            self._publish_whole(directory)

    def _may_publish_whole(self, directory: Inode) -> bool:
        if not directory.complete or len(directory.entries) > PUBLISHED_ENTRIES_MAX:
            return False
        return self.inodes.find(directory.ino) is directory  # else nobody would withdraw it

    def _publish_whole(self, directory: Inode) -> None:
        directory.published = self.answers
        directory.published_epoch = directory.epoch
        for name, ino in directory.entries.items():
            self.answers.publish_entry(directory.ino, name, ino)
        self.answers.publish_complete(directory.ino)

    def above(self, directory: Inode) -> int:
        """The inode that ".." leads to, as far as this mount shows it."""
        if directory.ino == self.root_ino or directory.attr is None:
            return directory.ino
        return directory.attr.parent or directory.ino

    def attributes(self, inode: Inode) -> common.Attr:
        """Attributes with unsent writes in them."""
        if inode.attr is None:
            raise CairnError(common.ERROR_CODE_STALE, f"inode {inode.ino} is not known")
        if not inode.is_dirty:
            return inode.attr
        attr = common.Attr()
        attr.CopyFrom(inode.attr)
        attr.allocated_bytes += inode.dirty.size_bytes
        return attr

    def file(self, handle: int) -> FileHandle:
        """The open file with this number; raises CairnError INVALID for an unknown one."""
        found = self.files.get(handle)
        if found is None:
            self.answers.catch_up()
            found = self.files.get(handle)
        if found is None:
            raise CairnError(common.ERROR_CODE_INVALID, f"no open file {handle}")
        return found

    def _refuted(self, entry: Entry, error: CairnError) -> None:
        """A change that had returned to its caller was not made: believe the coordinator, and say so."""
        log.error(
            "a change could not be made after it had been reported done",
            change=entry.message.WhichOneof("op"),
            inodes=[inode.ino for inode in entry.inodes],
            error=str(error),
        )
        for inode in entry.inodes:
            inode.error = error
            names = list(inode.entries)
            inode.forget_attributes()
            inode.forget_entries()
            self.spawn(self._forget_in_kernel, inode, names)

    async def _forget_in_kernel(self, inode: Inode, names: list[bytes]) -> None:
        if names:
            await self.notifier.invalidate_entries(inode.ino, names)
        await self.notifier.invalidate_inode(inode.ino, data=True)

    def spawn(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function in the background; a bug in it is logged and does not end the mount."""
        self.nursery.start_soon(_guarded, task, *args)


async def _guarded(task: Callable[..., Awaitable[None]], *args: object) -> None:
    try:
        await task(*args)
    except Exception:
        log.exception("bug in background work", task=getattr(task, "__qualname__", "unknown"))
