"""What is in the trash, for people: where it was, who removed it when, and when it is gone."""

from typing import Final

from cairnfs.base.limits import ROOT_INO, TRASH_INO, TRASH_LISTED_AT_ONCE, TRASH_PATH_PARTS_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import trash, tree
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb

_NAMES_SEARCHED: Final = 10_000  # of a directory, for the name of one in it
_REPLY_MAX_BYTES: Final = 1 << 20
_NS_PER_MS: Final = 1_000_000


class _Paths:
    """Where directories are, also removed ones, each found once."""

    def __init__(self, txn: ReadTransaction) -> None:
        self._txn = txn
        self._known: dict[int, tuple[bytes, bool]] = {ROOT_INO: (b"", True)}

    def of(self, directory: int) -> tuple[bytes, bool]:
        """The path, without a slash at its end, and whether it goes up to the root."""
        way: list[tuple[int, bytes]] = []
        at = directory
        while at not in self._known:
            inode = tree.find_inode(self._txn, at)
            above = self._above(at, inode) if len(way) < TRASH_PATH_PARTS_MAX else None
            if above is None:
                self._known[at] = b"(gone)", False
                break
            way.append((at, above[1]))
            at = above[0]
        path, whole = self._known[at]
        for ino, name in reversed(way):
            path = path + b"/" + name
            self._known[ino] = path, whole
        return path, whole

    def _above(self, ino: int, inode: Inode | None) -> tuple[int, bytes] | None:
        """The directory around one, and its name there."""
        if inode is None or inode.nlink == 0 or not tree.is_directory(inode):
            return None
        record = trash.find_record(self._txn, ino)
        if record is not None:
            return record.parent, record.name
        span = keys.dentry_range(inode.parent)
        for key, value in self._txn.scan(*span, limit=_NAMES_SEARCHED):
            if Dentry.decode(value).ino == ino:
                return inode.parent, keys.dentry_name(key)
        return None


def read(txn: ReadTransaction, request: pb.ListTrashRequest) -> pb.ListTrashReply:
    """The next entries that the caller may see, in the order of removal, from behind `request.after` on."""
    limit = min(request.limit or TRASH_LISTED_AT_ONCE, TRASH_LISTED_AT_ONCE)
    prefix = b"".join(b"/" + name for name in tree.names_of_path(request.path))
    pairs = list(txn.scan(*keys.dentry_range(TRASH_INO, request.after), limit=limit))
    reply = pb.ListTrashReply(end=len(pairs) < limit)
    paths = _Paths(txn)
    size_bytes = 0
    for key, value in pairs:
        reply.behind = name = keys.dentry_name(key)
        ino = Dentry.decode(value).ino
        inode, record = tree.find_inode(txn, ino), trash.find_record(txn, ino)
        if inode is None or record is None or not trash.is_shown(txn, ino, inode.uid, request.caller):
            continue
        above, whole = paths.of(record.parent)
        path = above + b"/" + record.name
        if prefix and path != prefix and not path.startswith(prefix + b"/"):
            continue
        reply.entries.add(
            name=name,
            path=path,
            gone=not whole,
            attr=inode.to_attr(ino),
            removed_by=record.uid,
            removed_ms=record.removed_ns // _NS_PER_MS,
            expires_ms=record.expires_ns // _NS_PER_MS,
        )
        size_bytes += len(path) + len(name) + 256
        if size_bytes > _REPLY_MAX_BYTES:
            reply.end = False
            break
    return reply
