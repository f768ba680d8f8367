"""The session as the file system uses it: no request overtakes the journal on an inode that it is about.

docs/internals/leases.md, rule 2.
"""

from collections.abc import Sequence
from typing import Any, Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import TRASH_INO
from cairnfs.client.interface import MetadataSession
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.inodes import Inode, InodeTable
from cairnfs.vfs.journaling import Journaling

# Fields with the numbers of the inodes that a request is about.
_INODES: Final[dict[type[Any], tuple[str, ...]]] = {
    pb.Lookup: ("parent",),
    pb.GetAttr: ("ino",),
    pb.ReadLink: ("ino",),
    pb.ReadDir: ("ino",),
    pb.GetXattr: ("ino",),
    pb.ListXattr: ("ino",),
    pb.GetExtents: ("ino",),
    pb.GetLock: ("ino",),
    pb.SetLock: ("ino",),
    pb.Open: ("ino",),
    pb.Release: ("ino",),
}
# The same of requests that change these inodes.
_CHANGED: Final[dict[type[Any], tuple[str, ...]]] = {
    pb.SetAttr: ("ino",),
    pb.MkNod: ("parent",),
    pb.MkDir: ("parent",),
    pb.Symlink: ("parent",),
    pb.Link: ("ino", "parent"),
    pb.Unlink: ("parent",),
    pb.RmDir: ("parent",),
    pb.Rename: ("parent", "new_parent"),
    pb.SetXattr: ("ino",),
    pb.RemoveXattr: ("ino",),
    pb.Fallocate: ("ino",),
    pb.CopyRange: ("source", "target"),
    pb.CommitWrite: ("ino",),
    pb.ReplaceExtents: ("ino",),
}
# Entries whose inodes a request changes as well.
_ENTRIES: Final[dict[type[Any], tuple[tuple[str, str], ...]]] = {
    pb.MkNod: (("parent", "name"),),
    pb.Unlink: (("parent", "name"),),
    pb.RmDir: (("parent", "name"),),
    pb.Rename: (("parent", "name"), ("new_parent", "new_name")),
}


class Remote:
    """Implements `MetadataSession` over another one: waits for the journal first where that matters."""

    def __init__(self, session: MetadataSession, journal: Journaling, inodes: InodeTable) -> None:
        self._session = session
        self._journal = journal
        self._inodes = inodes

    @property
    def trusted(self) -> bool:
        """Whether caches may be used at this very moment."""
        return self._session.trusted

    async def call(self, op: Any, caller: pb.Caller | None = None, *, deadline_s: float | None = None) -> Any:
        """See `MetadataSession.call`; also raises what keeps the journal from being sent."""
        kind = type(op)
        changed = _CHANGED.get(kind)
        if changed is None:
            about = self._about(op, _INODES.get(kind, ()))
            if any(inode.ino == TRASH_INO for inode in about):
                await self._journal.settle_all()  # any change of ours may have put something there
            elif any(inode.journaled for inode in about):
                await self._journal.settle(about)
            return await self._session.call(op, caller, deadline_s=deadline_s)
        about = self._about(op, changed, _ENTRIES.get(kind, ()))
        for inode in about:
            inode.changing += 1
        try:
            await self._journal.settle(about)
            return await self._session.call(op, caller, deadline_s=deadline_s)
        finally:
            for inode in about:
                inode.changing -= 1

    def _about(self, op: Any, fields: Sequence[str], entries: Sequence[tuple[str, str]] = ()) -> list[Inode]:
        find = self._inodes.find
        about = [inode for field in fields if (inode := find(getattr(op, field))) is not None]
        for parent, name in entries:
            directory = find(getattr(op, parent))
            ino = directory.entries.get(getattr(op, name)) if directory is not None else None
            inode = find(ino) if ino else None
            if inode is not None:
                about.append(inode)
        return about

    def recall_done(self, recall_id: int, still_open: Sequence[int], open_for_write: Sequence[int]) -> None:
        """Acknowledge a recall, at once."""
        self._session.recall_done(recall_id, still_open, open_for_write)

    def flush_done(self, number: int, error: CairnError | None) -> None:
        """Answer a Flush, at once."""
        self._session.flush_done(number, error)

    def node(self, number: int) -> common.NodeInfo | None:
        """The datanode with this number, by the newest cluster map received."""
        return self._session.node(number)
