"""readdir: a part of a directory's entries, with their attributes and where the bytes of small files are."""

import stat
from typing import Final

from cairnfs.base.limits import (
    BLOCK_BYTES,
    NAME_MAX_BYTES,
    READDIR_FILE_SLICES_MAX,
    READDIR_LIMIT_MAX,
    TRASH_INO,
)
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import trash, tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.ops.get_extents import read_extents
from cairnfs.coordinator.records import ATTR_BYTES, Dentry, Inode
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb
from cairnfs.rpc.v1.common_pb2 import Attr

_ATTR_HEAD: Final = bytes((0x12, ATTR_BYTES))  # DirEntry.attr
_READ_LEASE: Final = bytes((0x18, pb.LEASE_KIND_READ))  # DirEntry.lease, which most entries will get


def _head(name_bytes: int) -> bytes:
    """What comes before a name of that length in ReadDirReply.entries."""
    entry_bytes = len(_length(name_bytes)) + name_bytes + len(_ATTR_HEAD) + ATTR_BYTES + len(_READ_LEASE) + 1
    return b"\x0a" + _length(entry_bytes) + b"\x0a" + _length(name_bytes)


def _length(number: int) -> bytes:
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7))


_HEADS: Final = tuple(map(_head, range(NAME_MAX_BYTES + 1)))


def run(txn: ReadTransaction, op: pb.ReadDir, env: Env) -> pb.ReadDirReply:
    """Up to `limit` entries (0 or too many: READDIR_LIMIT_MAX) behind `after`, without "." and "..".

    An entry whose inode is missing is left out (fsck tells of it). A small file in many pieces is not
    located. Of the trash only what the caller may see is told. Every entry tells of a READ lease; the
    conductor corrects those that cannot have one. Raises CairnError NOT_FOUND, NOT_DIRECTORY.
    """
    directory = tree.load_directory(txn, op.ino)
    limit = min(op.limit or READDIR_LIMIT_MAX, READDIR_LIMIT_MAX)
    small_bytes = min(op.small_file_bytes, BLOCK_BYTES) or -1
    pairs = list(txn.scan(*keys.dentry_range(op.ino, op.after), limit=limit + 1))
    reply = pb.ReadDirReply(end=len(pairs) <= limit)
    directory.fill(reply.attr, op.ino)
    if op.ino == TRASH_INO and env.caller.uid and pairs:
        reply.behind = keys.dentry_name(pairs[:limit][-1][0])
        pairs = [pair for pair in pairs[:limit] if _is_shown(txn, pair, env.caller)]
    if op.names_only:
        for key, value in pairs[:limit]:
            entry = Dentry.decode(value)
            reply.entries.add(name=keys.dentry_name(key), attr=Attr(ino=entry.ino, mode=entry.kind << 12))
        return reply
    found = [(keys.dentry_name(key), Dentry.decode(value).ino) for key, value in pairs[:limit]]
    inodes = txn.get_many([keys.inode(ino) for _, ino in found])
    entries = 0
    parts: list[bytes] = []  # ReadDirReply.entries as they are serialized: far cheaper than messages
    small: list[int] = []  # places of entries to locate
    for name, ino in found:
        record = inodes[keys.inode(ino)]
        if record is None:
            continue
        inode = Inode.decode(record)
        if inode.size <= small_bytes and stat.S_ISREG(inode.mode):
            small.append(entries)
        entries += 1
        parts += (_HEADS[len(name)], name, _ATTR_HEAD, inode.wire(ino), _READ_LEASE)
    reply.MergeFromString(b"".join(parts))
    for place in small:
        _locate(txn, reply.entries[place])
    return reply


def _is_shown(txn: ReadTransaction, pair: tuple[bytes, bytes], caller: pb.Caller) -> bool:
    return trash.find_shown(txn, keys.dentry_name(pair[0]), caller) is not None


def _locate(txn: ReadTransaction, entry: pb.DirEntry) -> None:
    slices = read_extents(txn, entry.attr.ino, 0, BLOCK_BYTES).slices
    if len(slices) <= READDIR_FILE_SLICES_MAX:
        entry.located = True
        entry.slices.extend(slices)


SPEC = OperationSpec("readdir", "readdir", run)
