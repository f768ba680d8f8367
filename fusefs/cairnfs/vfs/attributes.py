"""Attributes, extended attributes, access checks and space figures."""

import stat
from collections.abc import Sequence

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.base import Part
from cairnfs.vfs.inodes import Inode
from cairnfs.vfs.interface import Node, SetAttributes, Space

XATTR_NAMESPACES = (b"user.", b"trusted.", b"security.", b"system.posix_acl_")  # others are not supported


class AttributeOps(Part):
    """The part of the file system that works on inodes as such."""

    async def getattr(self, ino: int, caller: pb.Caller) -> Node:
        """The attributes of an inode, unsent writes included."""
        inode = self.state.inodes.get(ino)
        if not self.state.leased(inode):
            await self._refresh(inode, caller)
        return self.state.node(inode)

    async def _refresh(self, inode: Inode, caller: pb.Caller) -> None:
        try:
            await self.state.session.call(pb.GetAttr(ino=inode.ino), caller)
        except CairnError as error:
            if error.code == common.ERROR_CODE_NOT_FOUND:
                raise CairnError(common.ERROR_CODE_STALE, error.detail) from error
            raise

    async def setattr(self, ino: int, changes: SetAttributes, handle: int | None, caller: pb.Caller) -> Node:
        """Change attributes; a new size cuts or extends the content."""
        inode = self.state.inodes.get(ino)
        op = pb.SetAttr(
            ino=ino,
            mode=changes.mode,
            uid=changes.uid,
            gid=changes.gid,
            size=changes.size,
            atime_ns=changes.atime_ns,
            mtime_ns=changes.mtime_ns,
            ctime_ns=changes.ctime_ns,
        )
        if changes.mtime_ns is not None and changes.size is None and inode.is_dirty:
            inode.dirty.mtime_ns = changes.mtime_ns  # a commit on its way must not undo it
        if inode.attr is not None and stat.S_ISDIR(inode.attr.mode):
            if self.local.change_directory(inode, op, caller):
                return self.state.node(inode)
        elif self._may_wait(inode, changes):
            self.flusher.change(inode, op)
            return self.state.node(inode)
        if changes.size is not None:
            self.flusher.discard(inode, changes.size)
        if inode.unsaved:
            await self.flusher.flush(inode)
        await self.state.session.call(op, caller)
        return self.state.node(inode)

    def _may_wait(self, inode: Inode, changes: SetAttributes) -> bool:
        """Whether a change may stay in memory: nobody else can see the file, and no ACL depends on it."""
        return (
            changes.size is None
            and self.state.may_buffer(inode)
            and inode.attr is not None
            and not inode.attr.has_xattrs
            and not self.state.policy.sync_on_close
        )

    async def statfs(self) -> Space:
        """Space and inodes of the cluster, with everything that this mount has made and removed."""
        await self.state.journal.settle_all()
        reply: pb.StatFsReply = await self.state.session.call(pb.StatFs(ino=self.state.root_ino))
        return Space(reply.total_bytes, reply.free_bytes, reply.inodes_used, reply.inodes_free)

    async def getxattr(self, ino: int, name: bytes, caller: pb.Caller) -> bytes:
        """The value of an extended attribute; NO_DATA without one."""
        inode = self.state.inodes.get(ino)
        if self.state.leased(inode):
            if inode.attr is not None and not inode.attr.has_xattrs and name.startswith(XATTR_NAMESPACES):
                self.state.publish(inode)  # the kernel asks before every write
                raise CairnError(common.ERROR_CODE_NO_DATA)
            value = inode.xattrs.get(name)
            if value is not None:
                return value
        reply: pb.XattrReply = await self.state.session.call(pb.GetXattr(ino=ino, name=name), caller)
        return reply.value

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: pb.Caller) -> None:
        """Set an extended attribute; flags XATTR_CREATE 1, XATTR_REPLACE 2."""
        inode = self.state.inodes.get(ino)
        if inode.pending:
            await self.flusher.flush(inode)  # an access list sets the mode, after what was set before
        await self.state.session.call(pb.SetXattr(ino=ino, name=name, value=value, flags=flags), caller)

    async def listxattr(self, ino: int, caller: pb.Caller) -> Sequence[bytes]:
        """The names of all extended attributes."""
        inode = self.state.inodes.get(ino)
        if self.state.leased(inode) and inode.attr is not None and not inode.attr.has_xattrs:
            return []
        reply: pb.XattrReply = await self.state.session.call(pb.ListXattr(ino=ino), caller)
        return list(reply.names)

    async def removexattr(self, ino: int, name: bytes, caller: pb.Caller) -> None:
        """Remove an extended attribute; NO_DATA without one."""
        await self.state.session.call(pb.RemoveXattr(ino=ino, name=name), caller)

    async def access(self, ino: int, mask: int, caller: pb.Caller) -> bool:
        """access(2) by mode bits; the kernel asks only where it does not check permissions itself."""
        inode = self.state.inodes.get(ino)
        if not self.state.leased(inode):
            await self._refresh(inode, caller)
        attr = self.state.attributes(inode)
        if caller.uid == 0:
            return not mask & 1 or bool(attr.mode & 0o111) or (attr.mode & 0o170000) == 0o040000
        if caller.uid == attr.uid:
            granted = attr.mode >> 6
        elif caller.gid == attr.gid or attr.gid in caller.groups:
            granted = attr.mode >> 3
        else:
            granted = attr.mode
        return (granted & mask & 7) == mask & 7
