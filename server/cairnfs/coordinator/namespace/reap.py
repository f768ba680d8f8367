"""Reaping: what an inode without a name holds is given back when nobody has it open any more.

That is with its last name, if nobody can have it open then and it holds little; else later, and in steps.
"""

import stat
from collections import Counter
from typing import Final

from cairnfs.base.limits import BLOCK_BYTES, REAP_AT_ONCE_SLICES_MAX, STEP_KEYS_MAX
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.extents import read_block
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.namespace.truncate import truncate_step
from cairnfs.coordinator.records import Inode
from cairnfs.engine.interface import ReadTransaction, Transaction

_XATTRS_PER_STEP: Final = STEP_KEYS_MAX - 10


def list_orphans(txn: ReadTransaction, after: int = 0, limit: int | None = None) -> list[int]:
    """Up to `limit` inodes without a name, with numbers above `after`, ascending."""
    return [keys.inode_of(key) for key, _ in txn.scan(*keys.orphan_range(after), limit=limit)]


def drop_link(txn: Transaction, ino: int, inode: Inode, env: Env) -> Inode:
    """Take one name from an inode (a directory has only one); returns what it is then.

    Without a name left it is reaped, if `env` says that nobody has it open and it is small; or it becomes an
    orphan, which exists until it is reaped.
    """
    nlink = 0 if stat.S_ISDIR(inode.mode) else inode.nlink - 1
    changed = inode._replace(nlink=nlink, ctime_ns=env.now_ns, change=inode.change + 1)
    if nlink == 0:
        if ino in env.closed and _reap_at_once(txn, ino, inode, env.now_ns):
            return changed
        txn.put(keys.orphan(ino), b"")
    tree.save(txn, ino, changed)
    return changed


def _reap_at_once(txn: Transaction, ino: int, inode: Inode, now_ns: int) -> bool:
    """Free an inode that is no orphan yet; false, and nothing is done, if that takes too many changes."""
    if inode.xattrs or inode.size > BLOCK_BYTES:
        return False
    freed_bytes = 0
    if inode.allocated_bytes:
        slices = read_block(txn, ino, 0)
        if len(slices) > REAP_AT_ONCE_SLICES_MAX:
            return False
        txn.delete(keys.extent(ino, 0))
        for chunk_id, count in Counter(one.chunk_id for one in slices).items():
            chunk_table.drop_reference(txn, chunk_id, now_ns, count)
        freed_bytes = sum(one.length for one in slices)
    _forget(txn, ino, inode, freed_bytes)
    return True


def _forget(txn: Transaction, ino: int, inode: Inode, freed_bytes: int = 0) -> None:
    if stat.S_ISLNK(inode.mode):
        txn.delete(keys.symlink(ino))
    txn.delete(keys.inode(ino))
    usage.change(txn, inode.realm, inodes=-1, allocated_bytes=-freed_bytes)
    if inode.realm == ino:
        txn.delete(keys.realm(ino))


def reap_step(txn: Transaction, ino: int, now_ns: int) -> bool:
    """Free a part of an orphan: extents, then attributes, then the inode itself; true when nothing is left.

    The caller makes sure that no session has it open, and calls again until it is done. An inode that is no
    orphan is left alone.
    """
    inode = tree.find_inode(txn, ino)
    if inode is None or inode.nlink > 0:
        txn.delete(keys.orphan(ino))
        return True
    if inode.allocated_bytes > 0 and (not truncate_step(txn, ino, 0, now_ns) or inode.xattrs > 0):
        return False
    if inode.xattrs > 0 and not _remove_xattrs(txn, ino, inode):
        return False
    _forget(txn, ino, inode)
    txn.delete(keys.orphan(ino))
    return True


def _remove_xattrs(txn: Transaction, ino: int, inode: Inode) -> bool:
    xattrs = [key for key, _ in txn.scan(*keys.xattr_range(ino), limit=_XATTRS_PER_STEP + 1)]
    for key in xattrs[:_XATTRS_PER_STEP]:
        txn.delete(key)
    if len(xattrs) <= _XATTRS_PER_STEP:
        return True
    tree.save(txn, ino, inode._replace(xattrs=inode.xattrs - _XATTRS_PER_STEP))
    return False
