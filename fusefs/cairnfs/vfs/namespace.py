"""Names: lookup, making, removing, linking and renaming entries."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.base import Part
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.interface import Node
from cairnfs.vfs.state import KERNEL_TIMEOUT_S

log = get_logger(__name__)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
NEGATIVE_ENTRIES_MAX = 100_000  # of a directory with more entries, the kernel remembers no absent names


class NamespaceOps(Part):
    """The part of the file system that works on directory entries."""

    async def lookup(self, parent: int, name: bytes, caller: pb.Caller) -> Node:
        """The inode that `name` stands for, or a negative answer."""
        if len(name) > limits.NAME_MAX_BYTES:
            raise CairnError(common.ERROR_CODE_NAME_TOO_LONG)
        state = self.state
        directory = state.inodes.get(parent)
        known = self._look_up_here(directory, name)
        if known is None:
            self.prefetcher.missed(directory, name)
            if await self.prefetcher.listed_ahead(directory):
                known = self._look_up_here(directory, name)
        if known is not None:
            return known
        try:
            reply: pb.EntryReply = await state.session.call(pb.Lookup(parent=parent, name=name), caller)
        except CairnError as error:
            if error.code != common.ERROR_CODE_NOT_FOUND:
                raise
            cached = state.entries_leased(directory) and directory.entries.get(name, 0) is None
            return Node(None, KERNEL_TIMEOUT_S if cached else 0.0, 0.0)
        return self._referenced(state.inodes.get(reply.attr.ino), directory, name)

    def _look_up_here(self, directory: Inode, name: bytes) -> Node | None:
        """The answer as far as a lease covers it."""
        state = self.state
        if not state.entries_leased(directory):
            return None
        ino = directory.entries.get(name, 0)
        if ino is None or (ino == 0 and directory.complete):
            state.publish_absence(directory)
            return self._absent(directory, name)
        inode = state.inodes.find(ino) if ino else None
        if inode is None or not state.leased(inode):
            return None
        return self._referenced(inode, directory, name)

    def _absent(self, directory: Inode, name: bytes) -> Node:
        """A negative answer. What the kernel keeps must be known here, so that a recall can take it back."""
        if name not in directory.entries and len(directory.entries) >= NEGATIVE_ENTRIES_MAX:
            return Node(None, 0.0, 0.0)
        directory.set_entry(name, None)
        return Node(None, KERNEL_TIMEOUT_S, 0.0)

    def _referenced(self, inode: Inode, parent: Inode, name: bytes) -> Node:
        inode.lookups += 1
        return self.state.node(inode, parent, name)

    def forget(self, counts: Sequence[tuple[int, int]]) -> None:
        """The kernel gave up references: (ino, count) pairs."""
        for ino, count in counts:
            if ino != self.state.root_ino:
                self.state.inodes.forget(ino, count)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: pb.Caller) -> Node:
        """Make a regular or special file."""
        directory = self.state.inodes.get(parent)
        async with self._mutating(directory):
            await self.upgrades.before_change(directory)
            inode = self.local.mknod(directory, name, mode, rdev, caller)
            if inode is not None:
                return self._referenced(inode, directory, name)
            op = pb.MkNod(parent=parent, name=name, mode=mode, rdev=rdev, exclusive=True)
            return await self._make(directory, op, caller)

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: pb.Caller) -> Node:
        """Make a directory."""
        directory = self.state.inodes.get(parent)
        async with self._mutating(directory):
            await self.upgrades.before_change(directory)
            inode = self.local.mkdir(directory, name, mode, caller)
            if inode is not None:
                return self._referenced(inode, directory, name)
            node = await self._make(directory, pb.MkDir(parent=parent, name=name, mode=mode), caller)
        if node.attr is not None and node.attr_timeout_s:
            self.state.inodes.get(node.attr.ino).complete = True  # new, leased, and empty
        return node

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: pb.Caller) -> Node:
        """Make a symbolic link."""
        directory = self.state.inodes.get(parent)
        async with self._mutating(directory):
            await self.upgrades.before_change(directory)
            inode = self.local.symlink(directory, name, target, caller)
            if inode is not None:
                return self._referenced(inode, directory, name)
            return await self._make(directory, pb.Symlink(parent=parent, name=name, target=target), caller)

    async def link(self, ino: int, new_parent: int, new_name: bytes, caller: pb.Caller) -> Node:
        """Give an inode another name."""
        directory, inode = self.state.inodes.get(new_parent), self.state.inodes.get(ino)
        async with self._mutating(directory):
            await self.upgrades.before_change(directory, inode)
            if self.local.link(inode, directory, new_name, caller):
                return self._referenced(inode, directory, new_name)
            return await self._make(directory, pb.Link(ino=ino, parent=new_parent, name=new_name), caller)

    async def _make(self, directory: Inode, op: Any, caller: pb.Caller) -> Node:
        reply: pb.EntryReply = await self.state.session.call(op, caller)
        return self._referenced(self.state.inodes.get(reply.attr.ino), directory, op.name)

    @asynccontextmanager
    async def _mutating(self, *directories: Inode) -> AsyncIterator[None]:
        """Mark that a request of ours holds these directories' locks in the kernel."""
        for directory in directories:
            directory.mutations += 1
        try:
            yield
        finally:
            for directory in directories:
                directory.mutations -= 1

    async def unlink(self, parent: int, name: bytes, caller: pb.Caller) -> None:
        """Remove a name that is not a directory's."""
        directory = self.state.inodes.get(parent)
        async with self._mutating(directory):
            known = self._known(directory, name)
            await self.upgrades.before_change(directory, known)
            await self._save_for_others(known)
            removed = self.local.unlink(directory, name, caller)
            if removed is None:
                inode = await self._resolve(directory, name, caller)
                await self._save_for_others(inode)
                op = pb.Unlink(parent=parent, name=name, keep_open=bool(inode and inode.handles))
                reply: pb.RemoveReply = await self.state.session.call(op, caller)
                removed = self.state.inodes.get(reply.attr.ino)
        self._maybe_gone(removed)

    async def rmdir(self, parent: int, name: bytes, caller: pb.Caller) -> None:
        """Remove an empty directory."""
        directory = self.state.inodes.get(parent)
        async with self._mutating(directory):
            await self.upgrades.before_change(directory, self._known(directory, name))
            if self.local.rmdir(directory, name, caller) is not None:
                return
            inode = await self._resolve(directory, name, caller)
            op = pb.RmDir(parent=parent, name=name, keep_open=bool(inode and inode.handles))
            await self.state.session.call(op, caller)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: pb.Caller
    ) -> None:
        """Rename as renameat2(2) does; a file whose bytes are unsent never replaces another."""
        source, target = self.state.inodes.get(parent), self.state.inodes.get(new_parent)
        async with self._mutating(source, target):
            known, other = self._known(source, name), self._known(target, new_name)
            await self.upgrades.before_change(source, known)
            if target is not source:
                await self.upgrades.before_change(target, other)
            if known is not None and known.unsaved and other is not None and not flags & RENAME_EXCHANGE:
                await self.flusher.flush(known)
            await self._save_for_others(other)
            if self.local.rename(source, name, target, new_name, flags, caller):
                replaced = other
            else:
                replaced = await self._rename_remote(source, name, target, new_name, flags, caller)
        if replaced is not None:
            self._maybe_gone(replaced)

    async def _rename_remote(
        self, source: Inode, name: bytes, target: Inode, new_name: bytes, flags: int, caller: pb.Caller
    ) -> Inode | None:
        """Have the coordinator rename; returns what was replaced."""
        replaced = await self._resolve(target, new_name, caller)
        if replaced is not None and not flags & RENAME_EXCHANGE:
            # A name that had content must not come to stand for a file whose bytes are still on their way.
            moved = await self._resolve(source, name, caller)
            if moved is not None and moved.unsaved:
                await self.flusher.flush(moved)
            await self._save_for_others(replaced)
        op = pb.Rename(
            parent=source.ino,
            name=name,
            new_parent=target.ino,
            new_name=new_name,
            flags=flags,
            keep_open=bool(replaced and replaced.handles),
        )
        await self.state.session.call(op, caller)
        return replaced

    def _known(self, directory: Inode, name: bytes) -> Inode | None:
        """The inode behind a name, if this mount knows it."""
        ino = directory.entries.get(name) if self.state.entries_leased(directory) else None
        return self.state.inodes.find(ino) if ino else None

    async def _resolve(self, directory: Inode, name: bytes, caller: pb.Caller) -> Inode | None:
        """The inode behind a name, asked for when it is not known; None when there is none."""
        if self.state.entries_leased(directory):
            ino = directory.entries.get(name, 0)
            if ino is None or (ino == 0 and directory.complete):
                return None
            if ino:
                return self.state.inodes.get(ino)
        try:
            reply: pb.EntryReply = await self.state.session.call(
                pb.Lookup(parent=directory.ino, name=name), caller
            )
        except CairnError as error:
            if error.code == common.ERROR_CODE_NOT_FOUND:
                return None
            raise
        return self.state.inodes.get(reply.attr.ino)

    async def _save_for_others(self, inode: Inode | None) -> None:
        """Before a file loses a name: who has it open on another mount must find what was written here.

        With its last name our lease on it ends, and nobody will ask us any more.
        """
        if inode is None or not (inode.unsaved and inode.exposed) or inode.handles:
            return
        try:
            await self.flusher.flush(inode)
        except CairnError as error:
            log.warning("unsent writes of a file that is removed are lost", ino=inode.ino, error=str(error))

    def _maybe_gone(self, inode: Inode) -> None:
        """After its last name went: nothing of a file that nobody has open needs to be sent."""
        if inode.attr is not None and inode.attr.nlink == 0 and not inode.handles:
            self.flusher.forget(inode)

    async def readlink(self, ino: int, caller: pb.Caller) -> bytes:
        """The target of a symbolic link."""
        inode = self.state.inodes.get(ino)
        if inode.target is not None and self.state.trusted:
            return inode.target
        reply: pb.ReadLinkReply = await self.state.session.call(pb.ReadLink(ino=ino), caller)
        return reply.target
