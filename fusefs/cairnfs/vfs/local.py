"""Changes of names and attributes made in memory, as far as WRITE leases allow (docs/internals/leases.md).

Every method makes the whole change in one step, or returns None (False) and leaves it to the coordinator,
which also decides about everything that would be an error. Effects are those of the coordinator's operations.
"""

import stat
from typing import Any

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.base.reserved import is_hidden
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.inodes import WRITE_LEASE, Inode
from cairnfs.vfs.pending import overlay
from cairnfs.vfs.state import State

log = get_logger(__name__)

_MADE_HERE = {stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK}
_DIRECTORY_SIZE_BYTES = 4096


class InodeNumbers:
    """Numbers for new inodes, from ranges that the coordinator gave to this session."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._numbers: list[range] = []
        self._asking = False

    def take(self) -> int:
        """An unused number; 0 when there is none at the moment."""
        if sum(len(one) for one in self._numbers) < limits.INODES_RESERVED_AT_ONCE // 2 and not self._asking:
            self._asking = True
            self._state.spawn(self._ask)
        if not self._numbers:
            return 0
        first = self._numbers[0]
        if len(first) == 1:
            self._numbers.pop(0)
        else:
            self._numbers[0] = first[1:]
        return first[0]

    def forget(self) -> None:
        """The session has ended, and its numbers with it."""
        self._numbers.clear()

    async def _ask(self) -> None:
        try:
            reply: pb.ReserveInodesReply = await self._state.session.call(
                pb.ReserveInodes(count=limits.INODES_RESERVED_AT_ONCE)
            )
            self._numbers.append(range(reply.first, reply.first + reply.count))
        except CairnError as error:
            log.debug("no inode numbers", error=str(error))
        finally:
            self._asking = False


class LocalChanges:
    """Makes changes here and puts them into the journal."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.numbers = InodeNumbers(state)

    # ------------------------------------------------------------------ what is allowed

    def owns(self, inode: Inode | None) -> bool:
        """Whether this mount alone decides about `inode` now."""
        return (
            inode is not None
            and inode.lease == WRITE_LEASE
            and inode.attr_valid
            and inode.attr is not None
            and not inode.changing
            and self._state.trusted
            and self._state.journal.has_room
            and not self._state.policy.sync_on_close
        )

    def _takes_entries(self, directory: Inode) -> bool:
        attr = directory.attr
        return self.owns(directory) and attr is not None and attr.nlink > 0 and attr.realm != limits.TRASH_INO

    def _is_absent(self, directory: Inode, name: bytes) -> bool:
        ino = directory.entries.get(name, 0)
        absent = ino is None or (ino == 0 and directory.complete)
        return absent and not is_hidden(directory.ino, name)

    def _find(self, directory: Inode, name: bytes) -> Inode | None:
        if is_hidden(directory.ino, name):
            return None  # the coordinator says why not
        ino = directory.entries.get(name)
        return self._state.inodes.find(ino) if ino else None

    # ------------------------------------------------------------------ making

    def mknod(self, directory: Inode, name: bytes, mode: int, rdev: int, caller: pb.Caller) -> Inode | None:
        """Make a regular or special file; `mode` before the caller's umask."""
        if stat.S_IFMT(mode) not in _MADE_HERE:
            return None
        op = pb.MkNod(parent=directory.ino, name=name, mode=mode, rdev=rdev, exclusive=True)
        return self._make(directory, name, op, mode & ~(caller.umask & 0o777), caller)

    def mkdir(self, directory: Inode, name: bytes, mode: int, caller: pb.Caller) -> Inode | None:
        """Make a directory; `mode` before the caller's umask."""
        if directory.attr is None or directory.attr.nlink >= limits.LINK_MAX:
            return None
        op = pb.MkDir(parent=directory.ino, name=name, mode=mode)
        mode = stat.S_IFDIR | (mode & 0o7777 & ~(caller.umask & 0o777))
        return self._make(directory, name, op, mode, caller)

    def symlink(self, directory: Inode, name: bytes, target: bytes, caller: pb.Caller) -> Inode | None:
        """Make a symbolic link."""
        if not 0 < len(target) <= limits.SYMLINK_MAX_BYTES or b"\0" in target:
            return None
        op = pb.Symlink(parent=directory.ino, name=name, target=target)
        inode = self._make(directory, name, op, stat.S_IFLNK | 0o777, caller)
        if inode is not None and inode.attr is not None:
            inode.target = target
            inode.attr.size = len(target)
            inode.changed()
        return inode

    def _make(self, directory: Inode, name: bytes, op: Any, mode: int, caller: pb.Caller) -> Inode | None:
        parent = directory.attr
        if (
            parent is None
            or not self._takes_entries(directory)
            or parent.has_xattrs  # its access list may have something to say about children
            or len(name) > limits.NAME_MAX_BYTES
            or not self._is_absent(directory, name)
        ):
            return None
        ino = self.numbers.take()
        if not ino:
            return None
        is_directory = stat.S_ISDIR(mode)
        inherits_group = bool(parent.mode & stat.S_ISGID)
        now_ns = self._state.clock.wall_ns()
        inode = self._state.inodes.get(ino)
        inode.attr = common.Attr(
            ino=ino,
            mode=mode | stat.S_ISGID if is_directory and inherits_group else mode,
            uid=caller.uid,
            gid=parent.gid if inherits_group else caller.gid,
            nlink=2 if is_directory else 1,
            rdev=op.rdev if isinstance(op, pb.MkNod) and (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) else 0,
            size=_DIRECTORY_SIZE_BYTES if is_directory else 0,
            atime_ns=now_ns,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
            parent=directory.ino if is_directory else 0,
            realm=parent.realm,
        )
        inode.attr_valid = True
        inode.lease = WRITE_LEASE
        inode.exposed = False
        inode.complete = is_directory
        if stat.S_ISREG(mode):
            inode.extents.learn(0, limits.BLOCK_BYTES, ())
        directory.set_entry(name, ino)
        self._entries_changed(directory, now_ns, links=int(is_directory))
        self._state.publish(inode)
        self._state.journal.add(op, caller, (directory,), now_ns, new=inode)
        return inode

    def link(self, inode: Inode, directory: Inode, name: bytes, caller: pb.Caller) -> bool:
        """Give a file another name."""
        attr = inode.attr
        if (
            attr is None
            or not self.owns(inode)
            or not self._takes_entries(directory)
            or stat.S_ISDIR(attr.mode)
            or not 0 < attr.nlink < limits.LINK_MAX
            or len(name) > limits.NAME_MAX_BYTES
            or not self._is_absent(directory, name)
            or self._has_other_policy(inode, directory)
        ):
            return False
        now_ns = self._state.clock.wall_ns()
        attr.nlink += 1
        attr.ctime_ns = now_ns
        inode.changed()
        directory.set_entry(name, inode.ino)
        self._entries_changed(directory, now_ns)
        op = pb.Link(ino=inode.ino, parent=directory.ino, name=name)
        self._state.journal.add(op, caller, (directory, inode), now_ns)
        return True

    # ------------------------------------------------------------------ removing

    def unlink(self, directory: Inode, name: bytes, caller: pb.Caller) -> Inode | None:
        """Take a name from a file; returns the file."""
        inode = self._find(directory, name)
        if inode is None or inode.attr is None or not (self.owns(directory) and self.owns(inode)):
            return None
        if stat.S_ISDIR(inode.attr.mode):
            return None
        now_ns = self._state.clock.wall_ns()
        self._drop_link(inode, name, now_ns)
        directory.set_entry(name, None)
        self._entries_changed(directory, now_ns)
        op = pb.Unlink(parent=directory.ino, name=name)
        self._state.journal.add(op, caller, (directory, inode), now_ns, removed=inode)
        return inode

    def rmdir(self, directory: Inode, name: bytes, caller: pb.Caller) -> Inode | None:
        """Remove a directory that is known to be empty; returns it."""
        inode = self._find(directory, name)
        if inode is None or not self.owns(directory) or not self._is_empty(inode):
            return None
        now_ns = self._state.clock.wall_ns()
        self._drop_link(inode, name, now_ns)
        directory.set_entry(name, None)
        self._entries_changed(directory, now_ns, links=-1)
        op = pb.RmDir(parent=directory.ino, name=name)
        self._state.journal.add(op, caller, (directory, inode), now_ns, removed=inode)
        return inode

    def _is_empty(self, inode: Inode) -> bool:
        return (
            self.owns(inode)
            and inode.attr is not None
            and stat.S_ISDIR(inode.attr.mode)
            and inode.complete
            and all(ino is None for ino in inode.entries.values())
        )

    def _drop_link(self, inode: Inode, name: bytes, now_ns: int) -> None:
        attr = inode.attr
        assert attr is not None
        is_directory = stat.S_ISDIR(attr.mode)
        if (is_directory or attr.nlink == 1) and self._state.goes_into_trash(inode, name):
            attr.realm = limits.TRASH_INO  # with a name there, so it counts as many links as before
            attr.parent = limits.TRASH_INO if is_directory else 0
        else:
            attr.nlink = 0 if is_directory else attr.nlink - 1
        attr.ctime_ns = now_ns
        inode.changed()

    # ------------------------------------------------------------------ renaming

    def rename(
        self, source: Inode, name: bytes, target: Inode, new_name: bytes, flags: int, caller: pb.Caller
    ) -> bool:
        """Move an entry, or replace another by it. `flags` must be 0 or RENAME_NOREPLACE."""
        moved, replaced = self._find(source, name), self._find(target, new_name)
        if moved is None or moved.attr is None or moved is replaced or flags & ~1:
            return False
        if not (self.owns(source) and self._takes_entries(target) and self.owns(moved)):
            return False
        is_directory = stat.S_ISDIR(moved.attr.mode)
        if source is not target and (is_directory or self._has_other_policy(moved, target)):
            return False  # the coordinator looks at the ancestry, and who counts what
        if len(new_name) > limits.NAME_MAX_BYTES or not self._may_replace(target, new_name, replaced, flags):
            return False
        if replaced is not None and stat.S_ISDIR((replaced.attr or moved.attr).mode) != is_directory:
            return False
        now_ns = self._state.clock.wall_ns()
        if replaced is not None:
            self._drop_link(replaced, new_name, now_ns)
        moved.attr.ctime_ns = now_ns
        moved.changed()
        source.set_entry(name, None)
        target.set_entry(new_name, moved.ino)
        self._entries_changed(target, now_ns, links=-int(is_directory and replaced is not None))
        self._entries_changed(source, now_ns)
        op = pb.Rename(parent=source.ino, name=name, new_parent=target.ino, new_name=new_name, flags=flags)
        touched = dict.fromkeys(inode for inode in (source, target, moved, replaced) if inode is not None)
        self._state.journal.add(op, caller, tuple(touched), now_ns, removed=replaced)
        return True

    def _has_other_policy(self, inode: Inode, directory: Inode) -> bool:
        """Whether only the coordinator knows if the inode may have a name there."""
        assert inode.attr is not None
        return directory.attr is None or inode.attr.realm != directory.attr.realm

    def _may_replace(self, target: Inode, new_name: bytes, replaced: Inode | None, flags: int) -> bool:
        if replaced is None:
            return self._is_absent(target, new_name)
        if flags or replaced.attr is None or not self.owns(replaced):
            return False
        return not stat.S_ISDIR(replaced.attr.mode) or self._is_empty(replaced)

    # ------------------------------------------------------------------ attributes

    def change_directory(self, directory: Inode, change: pb.SetAttr, caller: pb.Caller) -> bool:
        """Change mode, owner or times of a directory, in order with what happens to its entries."""
        if not self.owns(directory) or directory.attr is None or directory.attr.has_xattrs:
            return False
        now_ns = self._state.clock.wall_ns()
        op = pb.SetAttr()
        op.CopyFrom(change)
        op.ctime_ns = now_ns
        overlay(directory.attr, op)
        self._state.publish(directory)
        self._state.journal.add(op, caller, (directory,), now_ns)
        return True

    def _entries_changed(self, directory: Inode, now_ns: int, links: int = 0) -> None:
        attr = directory.attr
        assert attr is not None
        attr.mtime_ns = attr.ctime_ns = now_ns
        attr.nlink += links
        self._state.publish(directory)  # the kernel asks after every change
