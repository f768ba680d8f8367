"""Open files: create, open, read, write, close."""

import os
from collections.abc import Iterator

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.base import Part
from cairnfs.vfs.inodes import NO_LEASE, WRITE_LEASE, Inode
from cairnfs.vfs.interface import Node, Opened
from cairnfs.vfs.locking import LockOps
from cairnfs.vfs.state import FileHandle

APPEND_ATTEMPTS = 50
SYNC_FLAGS = os.O_SYNC | os.O_DSYNC
WRITES_OF_PYTHON = SYNC_FLAGS | os.O_APPEND | os.O_DIRECT


def writes(flags: int) -> bool:
    """Whether open(2) flags ask for writing."""
    return flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


class FileOps(LockOps, Part):
    """The part of the file system that opens, reads, writes and closes files."""

    # ------------------------------------------------------------------ open and close

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: pb.Caller
    ) -> tuple[Opened, Node]:
        """Make and open a regular file; without O_EXCL an existing one is opened."""
        state = self.state
        directory = state.inodes.get(parent)
        directory.mutations += 1
        try:
            await self.upgrades.before_change(directory)
            made = self.local.mknod(directory, name, mode, 0, caller)
            if made is not None:
                made.lookups += 1
                return self._new_file(made, flags, shared=False), state.node(made, directory, name)
            reply = await self._create_remote(parent, name, mode, flags, caller)
        finally:
            directory.mutations -= 1
        inode = state.inodes.get(reply.attr.ino)
        inode.lookups += 1
        if reply.lease == WRITE_LEASE and not (flags & os.O_TRUNC and reply.attr.size):
            opened = self._new_file(inode, flags, shared=False)
        else:
            opened = await self.open(inode.ino, flags & ~(os.O_CREAT | os.O_EXCL), caller)
        return opened, state.node(inode, directory, name)

    async def _create_remote(
        self, parent: int, name: bytes, mode: int, flags: int, caller: pb.Caller
    ) -> pb.EntryReply:
        exclusive = bool(flags & os.O_EXCL)
        op = pb.MkNod(parent=parent, name=name, mode=mode, open=True, exclusive=exclusive)
        try:
            reply: pb.EntryReply = await self.state.session.call(op, caller)
        except CairnError as error:
            if error.code == common.ERROR_CODE_EXISTS and not exclusive:
                # Somebody has just made a link or a directory of that name: the kernel shall look again.
                raise CairnError(common.ERROR_CODE_STALE, error.detail) from error
            raise
        return reply

    async def open(self, ino: int, flags: int, caller: pb.Caller) -> Opened:
        """Open an existing file."""
        state = self.state
        inode = state.inodes.get(ino)
        write, truncate = writes(flags), bool(flags & os.O_TRUNC)
        inode.handles += 1  # from here on a recall says that the file is open
        try:
            shared = False
            if truncate:
                self.flusher.discard(inode)
                await self.flusher.flush(inode)
            known = state.leased(inode) and (not write or inode.lease == WRITE_LEASE)
            if truncate or not known:
                shared = await self._open_remote(inode, write, truncate, caller)
        finally:
            inode.handles -= 1
        return self._new_file(inode, flags, shared=shared)

    async def _open_remote(self, inode: Inode, write: bool, truncate: bool, caller: pb.Caller) -> bool:
        op = pb.Open(ino=inode.ino, write=write, truncate=truncate, want_extents=not truncate)
        try:
            reply: pb.OpenReply = await self.state.session.call(op, caller)
        except CairnError as error:
            if error.code == common.ERROR_CODE_NOT_FOUND:
                raise CairnError(common.ERROR_CODE_STALE, error.detail) from error
            raise
        if reply.shared or reply.lease == NO_LEASE:
            inode.registered = True
        return reply.shared

    def _new_file(self, inode: Inode, flags: int, *, shared: bool) -> Opened:
        writable = writes(flags)
        handle = self.state.new_handle()
        self.state.files[handle] = file = FileHandle(inode, flags, direct=shared, writable=writable)
        if inode.error is not None and any(other.told is inode.error for other in self._open_files(inode)):
            file.told = inode.error  # it is older than this open file, and no secret
        inode.handles += 1
        inode.writers += writable
        if writable and inode.error is None and not self._waits_at_close(file):
            inode.published = self.state.answers
            inode.quiet = [*(inode.quiet or ()), handle]
            inode.published.publish_handle(handle)
        return Opened(handle, direct_io=shared, keep_cache=not shared and self.state.leased(inode))

    async def flush(self, handle: int, lock_owner: int) -> None:
        """One descriptor is closed: report errors of writes that had returned, release record locks."""
        file = self.state.file(handle)
        try:
            if file.writable and self._waits_at_close(file):
                await self._save(file)
            elif file.writable:
                self._report(file)
        finally:
            await self.release_locks(file.inode.ino, lock_owner, flock=False)

    def _waits_at_close(self, file: FileHandle) -> bool:
        return self.state.policy.sync_on_close or self.state.low_space or bool(file.flags & SYNC_FLAGS)

    async def release(self, handle: int, lock_owner: int | None) -> None:
        """The open file is gone."""
        file = self.state.files.pop(handle, None)
        if file is None:
            return
        file.inode.writers -= file.writable
        if file.inode.absorbing and handle in file.inode.absorbing:
            file.inode.absorbing.remove(handle)
            self.state.answers.withdraw_writer(handle)
            self.flusher.take_absorbed()
        if file.inode.quiet and handle in file.inode.quiet:
            file.inode.quiet.remove(handle)
        try:
            if lock_owner is not None:
                await self.release_locks(file.inode.ino, lock_owner, flock=True)
        finally:
            self.handle_gone(file.inode)

    def opened(self, ino: int, handle: int) -> None:
        """See `FileSystem.opened`."""
        inode = self.state.inodes.get(ino)
        self.state.files[handle] = FileHandle(inode, os.O_RDONLY, direct=False, writable=False)
        inode.handles += 1
        self.prefetcher.opened(inode)

    def was_read(self, handle: int, offset: int, size: int) -> None:
        """See `FileSystem.was_read`."""
        file = self.state.files.get(handle)
        if file is not None:
            self.reader.was_read(file, offset, size)

    def closed(self, handle: int) -> None:
        """See `FileSystem.closed`."""
        file = self.state.files.pop(handle, None)
        if file is not None:
            self.handle_gone(file.inode)

    def handle_gone(self, inode: Inode) -> None:
        """One handle of the inode is gone; the last one may owe the coordinator a Release."""
        inode.handles -= 1
        if inode.handles:
            return
        nameless = inode.attr is not None and inode.attr.nlink == 0
        if nameless and not inode.exposed:
            self.flusher.forget(inode)
        if inode.registered or (nameless and inode.unsaved):
            inode.registered = False
            self.state.spawn(self._release_inode, inode)

    async def _release_inode(self, inode: Inode) -> None:
        try:
            await self.flusher.flush(inode)
        except CairnError as error:
            inode.error = error
        if inode.handles:
            inode.registered = True  # opened again meanwhile
            return
        inode.registered = False  # the journal may just have told of it
        try:
            await self.state.session.call(pb.Release(ino=inode.ino))
        except CairnError as error:
            if error.code != common.ERROR_CODE_SESSION_FENCED:
                inode.registered = True  # the next reconnection or close settles it

    def _report(self, file: FileHandle) -> None:
        """Raise, once for each open file, what befell an earlier write."""
        error = file.inode.error
        if error is not None and error is not file.told:
            self._told(file)
            raise error

    def _told(self, file: FileHandle) -> None:
        """The program behind this open file knows of the inode's error; it ends when all writers do."""
        inode = file.inode
        file.told = inode.error
        if all(other.told is inode.error for other in self._open_files(inode) if other.writable):
            inode.error = None

    def _open_files(self, inode: Inode) -> Iterator[FileHandle]:
        return (file for file in self.state.files.values() if file.inode is inode)

    # ------------------------------------------------------------------ read and write

    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes at `offset`."""
        file = self.state.file(handle)
        data = await self.reader.read(file, offset, size)
        return data

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write `data` at `offset` (at the end with O_APPEND); returns its length."""
        file = self.state.file(handle)
        inode = file.inode
        if inode.error is not None:
            self._report(file)
        if offset + len(data) > limits.FILE_SIZE_MAX_BYTES:
            raise CairnError(common.ERROR_CODE_FILE_TOO_LARGE)
        await self.flusher.throttle(inode)
        if not (file.direct or self.state.may_buffer(inode)):
            await self._open_remote(inode, write=True, truncate=False, caller=pb.Caller())
        if self.state.may_buffer(inode):
            at = self._position(file, offset)
            self.flusher.write(inode, at, data)
            if file.flags & SYNC_FLAGS:
                await self._save(file)
            if at != offset:
                self.state.spawn(self._pages_moved, inode)
            elif not (file.direct or file.flags & WRITES_OF_PYTHON) and inode.error is None:
                self._let_absorb(handle, inode)
        elif file.flags & os.O_APPEND:
            await self._append_through(inode, data)
        else:
            await self.sender.write_through(inode, offset, data)
        return len(data)

    def _let_absorb(self, handle: int, inode: Inode) -> None:
        """Small writes that follow need not come here, as long as the lease lasts and no error is met."""
        if self.state.may_buffer(inode):  # it may have waited for SYNC_FLAGS
            inode.published = self.state.answers
            if inode.absorbing is None or handle not in inode.absorbing:
                inode.absorbing = [*(inode.absorbing or ()), handle]
            inode.changed()
            inode.published.publish_writer(handle, inode.ino)

    def take_absorbed(self) -> None:
        """See `FileSystem`."""
        self.flusher.take_absorbed()

    def _position(self, file: FileHandle, offset: int) -> int:
        """Where O_APPEND writes go: the kernel may not know yet how long the file has become."""
        if file.flags & os.O_APPEND and file.inode.attr is not None:
            return file.inode.attr.size
        return offset

    async def _pages_moved(self, inode: Inode) -> None:
        await self.state.notifier.invalidate_inode(inode.ino, data=True)

    async def _append_through(self, inode: Inode, data: bytes) -> None:
        """Append while others do too: commit on the condition that the end is still where it was."""
        for _ in range(APPEND_ATTEMPTS):
            reply: pb.AttrReply = await self.state.session.call(pb.GetAttr(ino=inode.ino))
            try:
                await self.sender.write_through(inode, reply.attr.size, data, if_size=reply.attr.size)
            except CairnError as error:
                if error.code != common.ERROR_CODE_CONFLICT:
                    raise
            else:
                return
        raise CairnError(common.ERROR_CODE_OVERLOADED, "too many others append to this file")

    async def fsync(self, handle: int, data_only: bool) -> None:
        """Everything written to the file so far is durable, or the error says that it is not."""
        await self._save(self.state.file(handle))

    async def _save(self, file: FileHandle) -> None:
        try:
            await self.flusher.flush(file.inode)
        except CairnError:
            self._told(file)
            raise
        self._report(file)
