"""The inode cache: what this mount knows of each inode, and how far a lease lets it be believed."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from cairnfs.vfs.answers import Answers
from cairnfs.vfs.dirty import DirtyFile
from cairnfs.vfs.extents import Extent, ExtentMap
from cairnfs.vfs.pending import PendingAttributes, overlay

NO_LEASE = pb.LEASE_KIND_NONE
READ_LEASE = pb.LEASE_KIND_READ
WRITE_LEASE = pb.LEASE_KIND_WRITE

Entries = dict[bytes, int | None]

_NEVER_S: Final = float("-inf")
_EPOCHS: Final = count(1)


class Inode:
    """One inode. What is cached counts only while `lease` covers it (see internals/sessions-and-leases).

    A mount may know a million of them, so what only few have is made when it is first used.
    """

    __slots__ = (
        "_dirty",
        "_entries",
        "_error",
        "_extents",
        "_handles",
        "_pending",
        "_xattrs",
        "absorbing",
        "attr",
        "attr_valid",
        "changed_s",
        "changing",
        "complete",
        "epoch",
        "exposed",
        "ino",
        "journaled",
        "last_entry",
        "lease",
        "lookups",
        "mutations",
        "published",
        "published_epoch",
        "quiet",
        "registered",
        "target",
        "upgrade_at_s",
        "upgrade_pause_s",
        "writers",
    )

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.attr: common_pb2.Attr | None = None
        self.attr_valid = False  # an attributes-only recall clears it although the lease stays
        self.lease: int = NO_LEASE
        # Another one with every recall, and never that of an inode of this number that was forgotten: an
        # answer that began before is not cached.
        self.epoch = next(_EPOCHS)
        self.lookups = 0  # references that the kernel holds
        self._handles = 0
        self.writers = 0
        self.registered = False  # the coordinator knows it to be open here: Release is owed
        self.mutations = 0  # of our own, under way in this directory: the kernel holds its lock
        self.changing = 0  # requests under way that change it at the coordinator: no local change meanwhile
        self.journaled = 0  # unsettled entries of the journal that touch it
        self.last_entry = 0  # the newest of them
        self.changed_s = _NEVER_S  # when its last entry was changed at the coordinator
        self.upgrade_at_s = 0.0  # not before then is its WRITE lease asked for (again)
        self.upgrade_pause_s = 0.0
        self.complete = False  # `entries` are all there are
        self.target: bytes | None = None
        self.published: Answers | None = None  # where something of it may be published; else nothing is
        self.published_epoch = -1  # in which the directory was published as a whole
        self.absorbing: list[int] | None = None  # handles whose small writes are answered without Python
        self.quiet: list[int] | None = None  # handles that have nothing to report when they are closed
        self.exposed = True  # others may have it open: only of what is made here they cannot know yet
        self._error: CairnError | None = None
        self._entries: Entries | None = None
        self._xattrs: dict[bytes, bytes] | None = None
        self._extents: ExtentMap | None = None
        self._dirty: DirtyFile | None = None
        self._pending: PendingAttributes | None = None

    @property
    def handles(self) -> int:
        """How often it is open, also without this program.

        While attributes are published it may be opened at any time: withdraw them before that matters.
        """
        if self.published is not None:
            self.published.catch_up()
        return self._handles

    @handles.setter
    def handles(self, handles: int) -> None:
        self._handles = handles

    @property
    def entries(self) -> Entries:
        """Known entries of a directory; None for a name known to be absent."""
        if self._entries is None:
            self._entries = {}
        return self._entries

    @property
    def entries_known(self) -> int:
        """How many entries are known, absent ones included."""
        return len(self._entries) if self._entries else 0

    @property
    def xattrs(self) -> dict[bytes, bytes]:
        """Known extended attributes."""
        if self._xattrs is None:
            self._xattrs = {}
        return self._xattrs

    @property
    def extents(self) -> ExtentMap:
        """Where committed bytes are, as far as known."""
        if self._extents is None:
            self._extents = ExtentMap()
        return self._extents

    @property
    def dirty(self) -> DirtyFile:
        """Bytes that are not committed."""
        if self._dirty is None:
            self._dirty = DirtyFile()
        return self._dirty

    @property
    def pending(self) -> PendingAttributes:
        """Attribute changes that are not sent or not answered."""
        if self._pending is None:
            self._pending = PendingAttributes()
        return self._pending

    @property
    def error(self) -> CairnError | None:
        """What befell a change that had already returned; the next write, fsync or close reports it."""
        return self._error

    @error.setter
    def error(self, error: CairnError | None) -> None:
        self._error = error
        if error is not None:
            self.not_quiet()
            self.absorb_no_more()

    @property
    def idle(self) -> bool:
        """Whether nothing refers to this inode, so that it may be forgotten."""
        return not (
            self.lookups
            or self._handles
            or self.unsaved
            or self.mutations
            or self.changing
            or self.journaled
            or self._error
        )

    @property
    def is_dirty(self) -> bool:
        """Whether content has changes that are not committed."""
        return bool(self._dirty)

    @property
    def unsaved(self) -> bool:
        """Whether content or attributes have changes that are not committed."""
        return bool(self._dirty or self._pending)

    def learn(self, attr: common_pb2.Attr) -> None:
        """Take attributes from the coordinator unless newer ones are known; unsent changes stay visible."""
        known = self.attr
        if known is not None and (self.journaled or attr.change < known.change):
            return  # what the journal holds is newer than whatever the coordinator knows
        self.attr = attr
        if self.published is not None and (known is None or attr.change != known.change):
            self.withdraw_attributes()
        if not self.unsaved:
            return
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

    def doubt(self) -> None:
        """What was asked for before now does not tell all that there is."""
        self.epoch = next(_EPOCHS)
        self.complete = False

    def forget_attributes(self) -> None:
        """Attributes, extended attributes and the symlink target are no longer known."""
        self.absorb_no_more()
        self.epoch = next(_EPOCHS)
        self.attr_valid = False
        self.withdraw_attributes()
        if self._xattrs:
            self._xattrs.clear()

    def forget_entries(self) -> None:
        """No entry of this directory is known."""
        self.epoch = next(_EPOCHS)
        if self.published is not None:
            self.published.withdraw_directory(self.ino)
        if self._entries:
            self._entries.clear()
        self.complete = False

    def drop_lease(self, keep: int = NO_LEASE) -> None:
        """The lease shrinks to `keep`; without one nothing cached may be used again."""
        self.absorb_no_more()
        self.lease = min(self.lease, keep)
        self.exposed = True
        self.epoch = next(_EPOCHS)
        if self.lease == NO_LEASE:
            self.attr_valid = False
            self.withdraw_attributes()
            self.target = None
            if self._xattrs:
                self._xattrs.clear()
            if self._extents is not None:
                self._extents.clear()
            self.forget_entries()

    # ----------------------------------------------------------------- entries, and where they are published

    def set_entry(self, name: bytes, ino: int | None) -> None:
        """`name` in this directory stands for `ino`, or is absent."""
        self.entries[name] = ino
        if self.published is not None:
            self.published.publish_entry(self.ino, name, ino)

    def forget_entry(self, name: bytes) -> None:
        """Whether the name exists is not known any more."""
        self.complete = False
        self.entries.pop(name, None)
        if self.published is not None:
            self.published.withdraw_entry(self.ino, name)

    # ------------------------------------------------------------------ what is published (vfs/answers.py)

    def changed(self) -> None:
        """Attributes were changed here."""
        if self.published is not None:
            self.published.withdraw_attributes(self.ino)

    def withdraw_attributes(self) -> None:
        """Attributes, extended ones included, may be different now."""
        if self.published is not None:
            self.lookups += self.published.withdraw_inode(self.ino)

    def withdraw(self) -> None:
        """Nothing of this inode is published any more."""
        if self.published is not None:
            self.withdraw_attributes()
            self.published.withdraw_directory(self.ino)
            self.published = None

    def count_lookups(self) -> int:
        """References that the kernel holds, with those it was given without this program."""
        if self.published is not None:
            self.lookups += self.published.take_lookups(self.ino)
        return self.lookups

    def absorb_no_more(self) -> None:
        """Every write reaches Python; `Flusher.take_absorbed` has yet to take those that did not."""
        if self.absorbing and self.published is not None:
            for handle in self.absorbing:
                self.published.withdraw_writer(handle)
        self.absorbing = None

    def not_quiet(self) -> None:
        """Closing a file handle of this inode has something to report, or to wait for."""
        if self.quiet and self.published is not None:
            for handle in self.quiet:
                self.published.withdraw_handle(handle)
        self.quiet = None


def lay_committed(inode: Inode, op: pb.CommitWrite | pb.ReplaceExtents) -> None:
    """Remember where a commit or a compaction of our own has put the file's bytes."""
    lengths = {chunk.chunk_id: (chunk.length, tuple(chunk.nodes)) for chunk in op.chunks}
    for item in op.slices:
        length, nodes = lengths[item.chunk_id]
        if nodes:
            inode.extents.overlay(
                Extent(item.offset, item.length, item.chunk_id, item.chunk_offset, length, nodes)
            )
        else:  # stored before, by somebody: where is known to the coordinator only
            inode.extents.forget(item.offset, item.offset + item.length)


class InodeTable:
    """All inodes this mount knows, by number."""

    def __init__(self) -> None:
        self._inodes: dict[int, Inode] = {}
        self._sweep_at = limits.INODES_KNOWN_MAX
        self.full: Callable[[], None] = lambda: None  # called when there are many

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
        inode.lookups = max(0, inode.count_lookups() - count)
        if inode.idle and inode.lease != WRITE_LEASE:
            self._drop(inode)

    def _drop(self, inode: Inode) -> None:
        """Nobody would withdraw what is published of an inode that is not known."""
        inode.withdraw()
        if not inode.lookups:
            del self._inodes[inode.ino]

    def _sweep(self) -> None:
        """Drop what nobody needs, but nothing that was learned lately: it was fetched to be used soon."""
        most = limits.INODES_KNOWN_MAX
        older = islice(self._inodes.values(), len(self._inodes) * 3 // 4)
        for inode in [inode for inode in older if inode.idle]:
            self._drop(inode)
        self._sweep_at = max(most, len(self._inodes) + most // 16)
        self.full()
