"""The inode cache: what this mount knows of each inode, and how far a lease lets it be believed."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from cairnfs.vfs.dirty import DirtyFile
from cairnfs.vfs.extents import ExtentMap
from cairnfs.vfs.pending import PendingAttributes, overlay

NO_LEASE = pb.LEASE_KIND_NONE
READ_LEASE = pb.LEASE_KIND_READ
WRITE_LEASE = pb.LEASE_KIND_WRITE

Entries = dict[bytes, int | None]


@dataclass(slots=True, eq=False)
class Inode:
    """One inode. What is cached counts only while `lease` covers it (see internals/sessions-and-leases)."""

    ino: int
    attr: common_pb2.Attr | None = None
    attr_valid: bool = False  # an attributes-only recall clears it although the lease stays
    lease: int = NO_LEASE
    epoch: int = 0  # grows with every recall: an answer that began before one is not cached
    lookups: int = 0  # references that the kernel holds
    handles: int = 0
    writers: int = 0
    registered: bool = False  # the coordinator knows it to be open here: Release is owed
    mutations: int = 0  # of our own, under way in this directory: the kernel holds its lock
    entries: Entries = field(default_factory=Entries)  # None: known to be absent
    complete: bool = False  # `entries` are all there are
    target: bytes | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    extents: ExtentMap = field(default_factory=ExtentMap)
    dirty: DirtyFile = field(default_factory=DirtyFile)
    pending: PendingAttributes = field(default_factory=PendingAttributes)
    error: CairnError | None = None  # of a write that had already returned

    @property
    def idle(self) -> bool:
        """Whether nothing refers to this inode, so that it may be forgotten."""
        return not (self.lookups or self.handles or self.unsaved or self.mutations or self.error)

    @property
    def unsaved(self) -> bool:
        """Whether content or attributes have changes that are not committed."""
        return bool(self.dirty or self.pending)

    def learn(self, attr: common_pb2.Attr) -> None:
        """Take attributes from the coordinator unless newer ones are known; unsent changes stay visible."""
        known = self.attr
        if known is not None and attr.change < known.change:
            return
        self.attr = attr
        overlay(attr, self.pending.sending)
        if self.dirty:
            attr.size = max(attr.size, self.dirty.end)
            attr.mtime_ns = self.dirty.mtime_ns
            attr.ctime_ns = max(attr.ctime_ns, self.dirty.ctime_ns)
        overlay(attr, self.pending.unsent)

    def learn_leased(self, attr: common_pb2.Attr, lease: int) -> None:
        """Take attributes of a read that came with `lease`; with a lease they may be believed."""
        self.learn(attr)
        if lease != NO_LEASE:
            self.lease = max(self.lease, lease)
            self.attr_valid = True

    def forget_attributes(self) -> None:
        """Attributes, extended attributes and the symlink target are no longer known."""
        self.epoch += 1
        self.attr_valid = False
        self.xattrs.clear()

    def forget_entries(self) -> None:
        """No entry of this directory is known."""
        self.epoch += 1
        self.entries.clear()
        self.complete = False

    def drop_lease(self, keep: int = NO_LEASE) -> None:
        """The lease shrinks to `keep`; without one nothing cached may be used again."""
        self.lease = min(self.lease, keep)
        self.epoch += 1
        if self.lease == NO_LEASE:
            self.attr_valid = False
            self.target = None
            self.xattrs.clear()
            self.extents.clear()
            self.forget_entries()


class InodeTable:
    """All inodes this mount knows, by number."""

    def __init__(self, sweep_at: int = 200_000) -> None:
        """`sweep_at`: number of inodes at which unreferenced ones are forgotten."""
        self._inodes: dict[int, Inode] = {}
        self._sweep_at = sweep_at

    def __len__(self) -> int:
        return len(self._inodes)

    def __iter__(self) -> Iterator[Inode]:
        return iter(list(self._inodes.values()))

    def find(self, ino: int) -> Inode | None:
        """The inode, if known."""
        return self._inodes.get(ino)

    def get(self, ino: int) -> Inode:
        """The inode, made without knowledge when it is new."""
        inode = self._inodes.get(ino)
        if inode is None:
            if len(self._inodes) >= self._sweep_at:
                self._sweep()
            inode = self._inodes[ino] = Inode(ino)
        return inode

    def forget(self, ino: int, count: int) -> None:
        """The kernel gave up `count` references; an inode that nothing else needs goes."""
        inode = self._inodes.get(ino)
        if inode is None:
            return
        inode.lookups = max(0, inode.lookups - count)
        if inode.idle and inode.lease != WRITE_LEASE:
            del self._inodes[ino]

    def _sweep(self) -> None:
        idle = [ino for ino, inode in self._inodes.items() if inode.idle]
        for ino in idle:
            del self._inodes[ino]
        self._sweep_at = max(self._sweep_at, 2 * len(self._inodes))
