"""Open directories and their listings.

A listing is read from the coordinator in pages, by name, into the handle. An offset is a position in the
listing, so it stays right while entries come and go; offset 0 starts anew, as rewinddir(3) wants. Of a large
directory the handle keeps a window of the listing, and the names at which pages began: what lies before the
window is read again from such a name on, and positions there count from that name.

The kernel keeps whatever inode it is told of, and we have to know as much. So after the first
LISTED_WITH_ATTRIBUTES_MAX entries of one listing it gets bare names.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.base.reserved import is_hidden
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.answers import Name
from cairnfs.vfs.base import Part
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.interface import Listed, Node
from cairnfs.vfs.state import NO_CALLER, PUBLISHED_ENTRIES_MAX

log = get_logger(__name__)

PAGE_ENTRIES = limits.READDIR_LIMIT_MAX
FIRST_PAGE_ENTRIES = 200  # soon there; the next ones come while these are told
AHEAD_ENTRIES = 2 * PAGE_ENTRIES  # a page is asked for before fewer are left


@dataclass(slots=True, eq=False)
class DirectoryHandle:
    """One open directory and what it has listed so far."""

    inode: Inode
    caller: pb.Caller
    listing: list[Name] = field(default_factory=list[Name])  # the window
    first: int = 0  # position of the window
    end: bool = False  # nothing follows the window
    behind: bytes = b""  # the name behind which the next page begins, if that is not the last of the window
    pages: list[tuple[int, bytes]] = field(
        default_factory=list[tuple[int, bytes]]
    )  # position; name before it
    fresh: bool = False  # what was read last is published, so there is no need to tell it here
    told: int = 0  # the position up to which it was asked for last
    arriving: trio.Event | None = None  # the next page is on its way
    epoch: int = -1  # of the inode when the listing began; still the same: the listing is complete

    @property
    def last(self) -> int:
        """The position behind the window."""
        return self.first + len(self.listing)

    def restart(self) -> None:
        """List from the start."""
        self.listing = []
        self.first = 0
        self.end = False
        self.behind = b""
        self.pages = []

    def seek(self, offset: int) -> None:
        """Begin the window at the page that holds `offset`, if it lies before the window."""
        if offset >= self.first:
            return
        place = bisect_right(self.pages, offset, key=itemgetter(0)) - 1
        if place < 0:  # what was before was listed by others, by whom it is forgotten
            self.restart()
            return
        del self.pages[place + 1 :]
        self.first = self.pages[place][0]
        self.listing = []
        self.end = False
        self.behind = b""

    def resume(self, offset: int, after: bytes) -> None:
        """Begin the window at a position whose name is known, of a listing that others began."""
        self.restart()
        self.first = offset
        self.pages = [(offset, after)]
        self.epoch = -1

    def append(self, page: Sequence[Name], *, behind: bytes, end: bool) -> None:
        """The next page has arrived; what lies far before it leaves the window."""
        self.listing += page
        self.behind = behind
        self.end = end
        excess = len(self.listing) - limits.LISTING_WINDOW_ENTRIES
        if excess > 0:
            del self.listing[:excess]
            self.first += excess

    def next_page(self) -> bytes:
        """The name behind which the next page begins; notes where that is."""
        known = self.listing[-1][0] if self.listing else self.pages[-1][1] if self.pages else b""
        after = self.behind or known
        if not self.pages or self.pages[-1][0] < self.last:
            self.pages.append((self.last, after))
        return after


class DirectoryOps(Part):
    """The part of the file system that lists directories."""

    directories: dict[int, DirectoryHandle]

    async def opendir(self, ino: int, caller: pb.Caller) -> int:
        """Open a directory for listing."""
        inode = self.state.inodes.get(ino)
        inode.handles += 1
        handle = self.state.new_handle()
        self.directories[handle] = DirectoryHandle(inode, caller)
        return handle

    def opened_directory(self, ino: int, handle: int) -> None:
        """See `FileSystem.opened_directory`."""
        inode = self.state.inodes.get(ino)
        inode.handles += 1
        self.directories[handle] = DirectoryHandle(inode, NO_CALLER)
        self.prefetcher.visited(inode, cold=False)

    def was_listed(self, handle: int, offset: int) -> None:
        """See `FileSystem.was_listed`."""
        directory = self.directories.get(handle)
        if directory is not None:
            self._read_ahead(handle, directory, offset)

    async def parent_of(self, handle: int) -> tuple[int, int]:
        """The inode of an open directory, and the one above it."""
        directory = self._directory(handle)
        if directory.inode.attr is None:
            await self.getattr(directory.inode.ino, directory.caller)
        return directory.inode.ino, self.state.above(directory.inode)

    async def getattr(self, ino: int, caller: pb.Caller) -> Node:
        """The attributes of an inode."""
        raise NotImplementedError

    def _directory(self, handle: int) -> DirectoryHandle:
        found = self.directories.get(handle)
        if found is None:
            self.state.answers.catch_up()
            found = self.directories.get(handle)
        if found is None:
            raise CairnError(common.ERROR_CODE_INVALID, f"no open directory {handle}")
        return found

    async def readdir(self, handle: int, offset: int, limit: int) -> Sequence[Listed]:
        """Up to `limit` entries from position `offset` on; empty at the end."""
        directory = self._directory(handle)
        before = self.state.answers.take_listing(handle, offset)
        if before is not None:
            directory.resume(offset, before)
        directory.fresh = False
        if offset == 0:
            self._begin(handle, directory)
            self.prefetcher.visited(directory.inode, cold=not directory.end)
        directory.seek(offset)
        while offset >= directory.last and not directory.end:
            await self._next_page(handle, directory)
        self._read_ahead(handle, directory, offset)
        # Of what is fresh the other entries are told without this program.
        behind = min(offset + (1 if directory.fresh else limit), directory.last)
        listed: list[Listed] = []
        for place in range(max(offset, directory.first), behind):
            entry = self._entry(directory.inode, directory.listing[place - directory.first], place + 1)
            if entry is not None:
                listed.append(entry)
        if not listed and offset < directory.last:
            return await self.readdir(handle, behind, limit)
        return listed

    def _read_ahead(self, handle: int, directory: DirectoryHandle, offset: int) -> None:
        directory.told = offset
        if directory.last - offset > 0 and directory.arriving is None and self._wants_page(directory):
            self.state.spawn(self._pages_ahead, handle, directory)

    def _wants_page(self, directory: DirectoryHandle) -> bool:
        return not directory.end and directory.last - directory.told < AHEAD_ENTRIES

    def _entry(self, directory: Inode, entry: Name, place: int) -> Listed | None:
        """What the kernel is told of an entry, if it still exists and is not hidden."""
        state = self.state
        name, ino, mode = entry
        if is_hidden(directory.ino, name):
            return None
        if state.entries_leased(directory) and directory.entries.get(name, ino) != ino:
            return None  # removed or replaced since it was listed
        inode = state.inodes.find(ino) if place <= limits.LISTED_WITH_ATTRIBUTES_MAX else None
        if inode is None or inode.attr is None:
            return Listed(name, Node(common.Attr(ino=ino, mode=mode), 0.0, 0.0), place, bare=True)
        return Listed(name, state.node(inode, directory, name), place)

    def _begin(self, handle: int, directory: DirectoryHandle) -> None:
        directory.restart()
        inode = directory.inode
        directory.epoch = inode.epoch
        if not (self.state.entries_leased(inode) and inode.complete):
            return
        known: list[Name] = []
        for name, ino in inode.entries.items():
            if ino is None:
                continue
            child = self.state.inodes.find(ino)
            if child is None or child.attr is None:
                return
            if not self.state.leased(child) and not is_hidden(inode.ino, name):
                return
            known.append(Name(name, ino, child.attr.mode))
        known.sort()
        directory.listing = known
        directory.end = True
        if len(known) <= PUBLISHED_ENTRIES_MAX:
            self.state.publish_listing(inode)
            self._publish(handle, directory, 0, known)

    async def _next_page(self, handle: int, directory: DirectoryHandle) -> None:
        """Have the next page in the listing; wait for it if it has been asked for."""
        if directory.arriving is not None:
            await directory.arriving.wait()
            return
        arrived = directory.arriving = trio.Event()
        try:
            await self._ask_for_page(handle, directory)
        finally:
            directory.arriving = None
            arrived.set()

    async def _pages_ahead(self, handle: int, directory: DirectoryHandle) -> None:
        try:
            while self._wants_page(directory) and handle in self.directories:
                await self._next_page(handle, directory)
        except CairnError as error:
            log.debug("listing ahead failed", ino=directory.inode.ino, error=str(error))

    async def _ask_for_page(self, handle: int, directory: DirectoryHandle) -> None:
        listing, inode, epoch = directory.listing, directory.inode, directory.epoch
        after = directory.next_page()
        bare = directory.last >= limits.LISTED_WITH_ATTRIBUTES_MAX
        op = pb.ReadDir(
            ino=inode.ino,
            after=after,
            limit=min(PAGE_ENTRIES, max(FIRST_PAGE_ENTRIES, 2 * directory.last)),
            small_file_bytes=0 if bare else self.prefetcher.located_bytes,
            names_only=bare,
        )
        reply: pb.ReadDirReply = await self.state.session.call(op, directory.caller)
        if directory.listing is not listing:
            return  # rewound meanwhile
        position, page = directory.last, [Name(e.name, e.attr.ino, e.attr.mode) for e in reply.entries]
        directory.append(page, behind=reply.behind, end=reply.end)
        if bare or not reply.leased or epoch != inode.epoch:
            directory.epoch = -1
        else:
            self.state.publish_entries(inode, reply.entries)
            self._publish(handle, directory, position, page)
        if reply.end and directory.epoch == inode.epoch and self.state.entries_leased(inode):
            inode.complete = True
        if not bare:
            self.prefetcher.listed(inode, after, reply, directory.epoch)

    def _publish(self, handle: int, directory: DirectoryHandle, position: int, page: Sequence[Name]) -> None:
        """Have a page told without this program, as far as its entries are published."""
        ino = directory.inode.ino
        shown = [Name(name, 0 if is_hidden(ino, name) else child, mode) for name, child, mode in page]
        above = self.state.above(directory.inode)
        directory.fresh = self.state.answers.continue_listing(
            handle, position, ino, above, shown, ended=directory.end
        )

    def listed(self, entry: Listed) -> None:
        """The kernel took this entry, which counts as one lookup."""
        if entry.node.attr is not None and not entry.bare:
            self.state.inodes.get(entry.node.attr.ino).lookups += 1

    async def releasedir(self, handle: int) -> None:
        """Close a directory."""
        if handle not in self.directories:
            self.state.answers.catch_up()
        self.closed_directory(handle)

    def closed_directory(self, handle: int) -> None:
        """The same, at once."""
        directory = self.directories.pop(handle, None)
        if directory is not None:
            self.handle_gone(directory.inode)

    def handle_gone(self, inode: Inode) -> None:
        """One handle of the inode is gone; the last one may owe the coordinator a Release."""
        raise NotImplementedError

    async def fsyncdir(self, handle: int, data_only: bool) -> None:
        """Return when every change of the directory's entries is durable; raises what keeps it from that."""
        inode = self._directory(handle).inode
        await self.state.journal.settle((inode,))
        error, inode.error = inode.error, None
        if error is not None:
            raise error
