"""readdir: a part of a directory's entries, with their attributes and where the bytes of small files are."""

import stat

from cairnfs.base.limits import BLOCK_BYTES, READDIR_FILE_SLICES_MAX, READDIR_LIMIT_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.ops.get_extents import read_extents
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.ReadDir, _env: Env) -> pb.ReadDirReply:
    """Up to `limit` entries (0 or too many: READDIR_LIMIT_MAX) behind `after`, without "." and "..".

    An entry whose inode is missing is left out (fsck tells of it). A small file in many pieces is not
    located. Raises CairnError NOT_FOUND, NOT_DIRECTORY.
    """
    directory = tree.load_directory(txn, op.ino)
    limit = min(op.limit or READDIR_LIMIT_MAX, READDIR_LIMIT_MAX)
    small_bytes = min(op.small_file_bytes, BLOCK_BYTES) or -1
    pairs = list(txn.scan(*keys.dentry_range(op.ino, op.after), limit=limit + 1))
    found = [(keys.dentry_name(key), Dentry.decode(value).ino) for key, value in pairs[:limit]]
    inodes = txn.get_many(keys.inode(ino) for _, ino in found)
    reply = pb.ReadDirReply(end=len(pairs) <= limit)
    directory.fill(reply.attr, op.ino)
    for name, ino in found:
        record = inodes[keys.inode(ino)]
        if record is None:
            continue
        inode = Inode.decode(record)
        entry = reply.entries.add(name=name)
        inode.fill(entry.attr, ino)
        if stat.S_ISREG(inode.mode) and inode.size <= small_bytes:
            _locate(txn, entry)
    return reply


def _locate(txn: ReadTransaction, entry: pb.DirEntry) -> None:
    slices = read_extents(txn, entry.attr.ino, 0, BLOCK_BYTES).slices
    if len(slices) <= READDIR_FILE_SLICES_MAX:
        entry.located = True
        entry.slices.extend(slices)


SPEC = OperationSpec("readdir", "readdir", run)
