"""Applies the events of the session stream to the inode cache, in order, before anybody acts on them."""

from collections.abc import Callable
from typing import Any

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES
from cairnfs.base.logs import get_logger
from cairnfs.client.interface import Holdings
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.extents import from_slice
from cairnfs.vfs.inodes import NO_LEASE, READ_LEASE, WRITE_LEASE, Inode, lay_committed
from cairnfs.vfs.recalls import Recalls
from cairnfs.vfs.state import State

log = get_logger(__name__)


class Events:
    """The SessionListener of a mount."""

    def __init__(self, state: State, recalls: Recalls) -> None:
        self._state = state
        self._recalls = recalls
        self._appliers: dict[str, Callable[[Any, pb.Reply], None]] = {
            "lookup": self._lookup,
            "mknod": self._entry,
            "mkdir": self._entry,
            "symlink": self._symlink,
            "link": self._entry,
            "get_attr": self._attr,
            "set_attr": self._set_attr,
            "set_xattr": self._set_xattr,
            "remove_xattr": self._set_xattr,
            "fallocate": self._fallocate,
            "unlink": self._remove,
            "rmdir": self._remove,
            "rename": self._rename,
            "open": self._open,
            "readdir": self._readdir,
            "readlink": self._readlink,
            "get_xattr": self._get_xattr,
            "list_xattr": self._list_xattr,
            "get_extents": self._get_extents,
            "commit_write": self._commit,
            "replace_extents": self._replace,
            "copy_range": self._copy,
            "upgrade": self._upgrade,
        }

    # ------------------------------------------------------------------ SessionListener

    def on_reply(self, request: pb.Request, reply: pb.Reply) -> None:
        """Put what a reply says into the cache."""
        name = request.WhichOneof("op")
        if name == "batch":
            self._state.journal.replied(reply)
            return
        apply = self._appliers.get(name) if name else None
        if apply is None or name is None:
            return
        if reply.error == common.ERROR_CODE_OK or (
            name == "lookup" and reply.error == common.ERROR_CODE_NOT_FOUND
        ):
            apply(getattr(request, name), reply)

    def on_recall(self, recall: pb.Recall) -> None:
        """Stop believing what is recalled, now; flush, invalidate and acknowledge in a task."""
        self._recalls.begin(recall)

    def on_flush(self, number: int) -> None:
        """Save what is unsent at this moment, in a task."""
        self._state.spawn(self._recalls.save_all, number)

    def on_welcome(self, welcome: pb.Welcome) -> None:
        """Connected (again): keep what was reclaimed, drop the rest."""
        state = self._state
        state.root_ino = welcome.root.ino
        state.trash_realms = frozenset(welcome.trash_realms)
        root = state.inodes.get(welcome.root.ino)
        root.lookups = max(root.lookups, 1)
        root.learn(welcome.root)
        lost = {*welcome.lost_read_leases, *welcome.lost_write_leases}
        if not welcome.resumed:
            lost = {inode.ino for inode in state.inodes if inode.lease != NO_LEASE}
            self._recalls.session_lost()
        self._recalls.leases_lost(lost)
        if not welcome.resumed:
            state.spawn(self._recalls.reopen)

    def on_doubt(self) -> None:
        """Out of contact: nothing cached may be used, here or in the kernel."""
        self._recalls.invalidate_kernel()

    def on_trust(self) -> None:
        """In contact again before the lease ran out: what leases cover is good."""

    def on_notice(self, notice: pb.Notice) -> None:
        """Space is low: close(2) must wait for its data; or other directories have trash."""
        self._state.trash_realms = frozenset(notice.trash_realms)
        self._state.low_space = notice.low_space
        if notice.low_space:
            for file in self._state.files.values():
                file.inode.not_quiet()

    def holdings(self) -> Holdings:
        """What a reconnecting session reclaims."""
        held = Holdings(locks=self._state.locks.held())
        unanswered = self._recalls.unanswered()
        for inode in self._state.inodes:
            lease = max(inode.lease, unanswered.get(inode.ino, NO_LEASE))
            if lease == WRITE_LEASE:
                held.write_leases.append(inode.ino)
            elif lease == READ_LEASE:
                held.read_leases.append(inode.ino)
            if inode.handles:
                inode.registered = True
                held.open_inodes.append(inode.ino)
                if inode.writers:
                    held.open_for_write.append(inode.ino)
        return held

    # ------------------------------------------------------------------ one method per kind of reply

    def _inode(self, ino: int) -> Inode:
        return self._state.inodes.get(ino)

    def _parent(self, parent: int, changed: common.Attr | None) -> Inode:
        inode = self._inode(parent)
        if changed is not None:
            inode.learn(changed)
        return inode

    def _set_entry(self, parent: Inode, name: bytes, ino: int | None) -> None:
        """Our own change of an entry."""
        if parent.lease != NO_LEASE:
            parent.set_entry(name, ino)

    def _learn_entry(self, parent: Inode, name: bytes, ino: int | None) -> None:
        """An entry as the coordinator knows it; under a WRITE lease what is known here is newer."""
        if parent.lease != WRITE_LEASE or name not in parent.entries:
            parent.set_entry(name, ino)

    def _lookup(self, op: pb.Lookup, reply: pb.Reply) -> None:
        entry = reply.entry
        parent = self._inode(op.parent)
        found = reply.error == common.ERROR_CODE_OK
        if found:
            self._inode(entry.attr.ino).learn_leased(entry.attr, entry.lease)
        if entry.parent_leased:
            parent.lease = max(parent.lease, READ_LEASE)
            self._learn_entry(parent, op.name, entry.attr.ino if found else None)

    def _entry(self, op: Any, reply: pb.Reply) -> None:
        entry = reply.entry
        parent = self._parent(op.parent, entry.parent if entry.HasField("parent") else None)
        self._inode(entry.attr.ino).learn_leased(entry.attr, entry.lease)
        if entry.parent_leased:
            parent.lease = max(parent.lease, READ_LEASE)
        self._set_entry(parent, op.name, entry.attr.ino)

    def _symlink(self, op: pb.Symlink, reply: pb.Reply) -> None:
        self._entry(op, reply)
        inode = self._inode(reply.entry.attr.ino)
        if inode.lease != NO_LEASE:
            inode.target = op.target

    def _attr(self, _op: Any, reply: pb.Reply) -> None:
        self._inode(reply.attr.attr.ino).learn_leased(reply.attr.attr, reply.attr.lease)

    def _set_attr(self, op: pb.SetAttr, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        if op.HasField("size"):
            inode.extents.clear()
        if op.HasField("mode"):
            inode.xattrs.clear()  # chmod(2) changes the access ACL
        self._attr(op, reply)

    def _set_xattr(self, op: Any, reply: pb.Reply) -> None:
        self._inode(op.ino).xattrs.clear()
        self._attr(op, reply)

    def _fallocate(self, op: pb.Fallocate, reply: pb.Reply) -> None:
        self._inode(op.ino).extents.clear()
        self._attr(op, reply)

    def _remove(self, op: Any, reply: pb.Reply) -> None:
        parent = self._parent(op.parent, reply.remove.parent)
        self._set_entry(parent, op.name, None)
        inode = self._inode(reply.remove.attr.ino)
        inode.learn(reply.remove.attr)
        self._note_removed(inode, op.keep_open)

    def _note_removed(self, inode: Inode, keep_open: bool) -> None:
        """The coordinator keeps what has lost its last name for who has it open."""
        if keep_open and inode.attr is not None and inode.attr.nlink == 0:
            inode.registered = True
            if not inode.handles:  # closed while the request was under way
                inode.registered = False
                self._state.spawn(self._release, inode.ino)

    async def _release(self, ino: int) -> None:
        try:
            await self._state.session.call(pb.Release(ino=ino))
        except CairnError as error:
            log.debug("an inode was not released", ino=ino, error=str(error))

    def _rename(self, op: pb.Rename, reply: pb.Reply) -> None:
        result = reply.rename
        parent = self._parent(op.parent, result.parent)
        new_parent = self._parent(op.new_parent, result.new_parent if result.HasField("new_parent") else None)
        self._inode(result.moved.ino).learn(result.moved)
        if new_parent.entries.get(op.new_name) == result.moved.ino:
            return  # two names of one file: rename(2) leaves both
        self._set_entry(parent, op.name, None)
        self._set_entry(new_parent, op.new_name, result.moved.ino)
        if result.HasField("replaced"):
            other = self._inode(result.replaced.ino)
            other.learn(result.replaced)
            self._note_removed(other, op.keep_open)
            if op.flags & 2:  # RENAME_EXCHANGE
                self._set_entry(parent, op.name, other.ino)

    def _open(self, op: pb.Open, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        if op.truncate:
            inode.extents.clear()
        inode.learn_leased(reply.open.attr, reply.open.lease)
        if reply.open.HasField("extents") and inode.lease != NO_LEASE:
            self._learn_extents(inode, reply.open.extents)

    def _readdir(self, op: pb.ReadDir, reply: pb.Reply) -> None:
        result = reply.readdir
        parent = self._inode(op.ino)
        if result.HasField("attr"):
            parent.learn_leased(result.attr, READ_LEASE if result.leased else NO_LEASE)
        if op.names_only:
            return
        for entry in result.entries:
            attr = entry.attr
            inode = self._inode(attr.ino)
            inode.learn_leased(attr, entry.lease)
            if entry.located:
                self._learn_located(inode, entry)
            if result.leased:
                self._learn_entry(parent, entry.name, inode.ino)

    def _learn_located(self, inode: Inode, entry: pb.DirEntry) -> None:
        """Where a small file's bytes are, if that is new and of the version that the attributes are of."""
        same = inode.attr is not None and inode.attr.change == entry.attr.change
        if (
            same
            and entry.lease == inode.lease == READ_LEASE
            and not inode.unsaved
            and not inode.extents.knows(0, 1)
        ):
            inode.extents.learn(0, BLOCK_BYTES, map(from_slice, entry.slices))

    def _readlink(self, op: pb.ReadLink, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        if inode.lease != NO_LEASE:
            inode.target = reply.readlink.target

    def _get_xattr(self, op: pb.GetXattr, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        if reply.xattr.HasField("attr"):
            inode.learn_leased(reply.xattr.attr, reply.xattr.lease)
        if self._state.leased(inode):
            inode.xattrs[op.name] = reply.xattr.value

    def _list_xattr(self, op: pb.ListXattr, reply: pb.Reply) -> None:
        if reply.xattr.HasField("attr"):
            self._inode(op.ino).learn_leased(reply.xattr.attr, reply.xattr.lease)

    def _get_extents(self, op: pb.GetExtents, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        inode.learn_leased(reply.extents.attr, reply.extents.lease)
        if reply.extents.lease != NO_LEASE:
            self._learn_extents(inode, reply.extents)

    def _learn_extents(self, inode: Inode, found: pb.ExtentsReply) -> None:
        inode.extents.learn(found.offset, found.length, (from_slice(item) for item in found.slices))

    def _commit(self, op: pb.CommitWrite, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        lay_committed(inode, op)
        inode.learn(reply.commit_write.attr)

    def _replace(self, op: pb.ReplaceExtents, reply: pb.Reply) -> None:
        inode = self._inode(op.ino)
        lay_committed(inode, op)
        inode.learn(reply.commit_write.attr)

    def _upgrade(self, op: pb.Upgrade, reply: pb.Reply) -> None:
        granted = reply.upgrade
        if granted.granted:
            self._inode(op.directory).learn_leased(granted.attr, WRITE_LEASE)
        for ino in granted.children:
            inode = self._state.inodes.find(ino)
            if inode is not None and inode.lease != NO_LEASE:
                inode.lease = WRITE_LEASE

    def _copy(self, op: pb.CopyRange, reply: pb.Reply) -> None:
        inode = self._inode(op.target)
        inode.extents.clear()
        inode.learn(reply.copy_range.target)
