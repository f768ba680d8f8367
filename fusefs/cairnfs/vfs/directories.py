"""Open directories and their listings.

A listing is read from the coordinator in pages, by name, into the handle. An offset is a position in the
handle's list, so it stays right while entries come and go; offset 0 starts anew, as rewinddir(3) wants.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.base import Part
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.interface import Listed

log = get_logger(__name__)

PAGE_ENTRIES = limits.READDIR_LIMIT_MAX


@dataclass(slots=True, eq=False)
class DirectoryHandle:
    """One open directory and what it has listed so far."""

    inode: Inode
    caller: pb.Caller
    listing: list[tuple[bytes, int]] = field(default_factory=list[tuple[bytes, int]])
    end: bool = False
    arriving: trio.Event | None = None  # the next page is on its way
    epoch: int = -1  # of the inode when the listing began; still the same: the listing is complete


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

    def _directory(self, handle: int) -> DirectoryHandle:
        found = self.directories.get(handle)
        if found is None:
            raise CairnError(common.ERROR_CODE_INVALID, f"no open directory {handle}")
        return found

    async def readdir(self, handle: int, offset: int, limit: int) -> Sequence[Listed]:
        """Up to `limit` entries from position `offset` on; empty at the end."""
        directory = self._directory(handle)
        if offset == 0:
            self._begin(directory)
            self.prefetcher.visited(directory.inode, cold=not directory.end)
        while offset >= len(directory.listing) and not directory.end:
            await self._next_page(directory)
        if not directory.end and directory.listing and directory.arriving is None:
            self.state.spawn(self._page_ahead, directory)
        state = self.state
        listed: list[Listed] = []
        for index in range(offset, min(offset + limit, len(directory.listing))):
            name, ino = directory.listing[index]
            inode = state.inodes.find(ino)
            if inode is None or inode.attr is None:
                continue
            if state.entries_leased(directory.inode) and directory.inode.entries.get(name, ino) != ino:
                continue  # removed or replaced since it was listed
            listed.append(Listed(name, state.node(inode, directory.inode, name), index + 1))
        if not listed and offset < len(directory.listing):
            return await self.readdir(handle, len(directory.listing), limit)
        return listed

    def _begin(self, directory: DirectoryHandle) -> None:
        directory.listing = []
        directory.end = False
        inode = directory.inode
        directory.epoch = inode.epoch
        if not (self.state.entries_leased(inode) and inode.complete):
            return
        known = [(name, ino) for name, ino in inode.entries.items() if ino is not None]
        children = [self.state.inodes.find(ino) for _, ino in known]
        if all(child is not None and self.state.leased(child) for child in children):
            directory.listing = sorted(known)
            directory.end = True

    async def _next_page(self, directory: DirectoryHandle) -> None:
        """Have the next page in the listing; wait for it if it has been asked for."""
        if directory.arriving is not None:
            await directory.arriving.wait()
            return
        arrived = directory.arriving = trio.Event()
        try:
            await self._ask_for_page(directory)
        finally:
            directory.arriving = None
            arrived.set()

    async def _page_ahead(self, directory: DirectoryHandle) -> None:
        try:
            await self._next_page(directory)
        except CairnError as error:
            log.debug("listing ahead failed", ino=directory.inode.ino, error=str(error))

    async def _ask_for_page(self, directory: DirectoryHandle) -> None:
        listing, inode, epoch = directory.listing, directory.inode, directory.epoch
        after = listing[-1][0] if listing else b""
        op = pb.ReadDir(
            ino=inode.ino,
            after=after,
            limit=PAGE_ENTRIES,
            small_file_bytes=self.prefetcher.located_bytes,
        )
        reply: pb.ReadDirReply = await self.state.session.call(op, directory.caller)
        if directory.listing is not listing:
            return  # rewound meanwhile
        listing.extend((entry.name, entry.attr.ino) for entry in reply.entries)
        directory.end = reply.end
        if not reply.leased or epoch != inode.epoch:
            directory.epoch = -1
        if reply.end and directory.epoch == inode.epoch and self.state.entries_leased(inode):
            inode.complete = True
        self.prefetcher.listed(inode, after, reply, directory.epoch)

    def listed(self, entry: Listed) -> None:
        """The kernel took this entry, which counts as one lookup."""
        if entry.node.attr is not None:
            self.state.inodes.get(entry.node.attr.ino).lookups += 1

    async def releasedir(self, handle: int) -> None:
        """Close a directory."""
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
