"""readdir: a part of a directory's entries, with their attributes."""

from cairnfs.base.limits import READDIR_LIMIT_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.records import Dentry
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.ReadDir, _env: Env) -> pb.ReadDirReply:
    """Up to `limit` entries (0 or too many: READDIR_LIMIT_MAX) behind `after`, without "." and "..".

    An entry whose inode is missing is left out (fsck tells of it). Raises CairnError NOT_FOUND,
    NOT_DIRECTORY.
    """
    directory = tree.load_directory(txn, op.ino)
    limit = min(op.limit or READDIR_LIMIT_MAX, READDIR_LIMIT_MAX)
    pairs = list(txn.scan(*keys.dentry_range(op.ino, op.after), limit=limit + 1))
    entries: list[pb.DirEntry] = []
    for key, value in pairs[:limit]:
        ino = Dentry.decode(value).ino
        inode = tree.find_inode(txn, ino)
        if inode is not None:
            entries.append(pb.DirEntry(name=keys.dentry_name(key), attr=inode.to_attr(ino)))
    return pb.ReadDirReply(entries=entries, end=len(pairs) <= limit, attr=directory.to_attr(op.ino))


SPEC = OperationSpec("readdir", "readdir", run)
