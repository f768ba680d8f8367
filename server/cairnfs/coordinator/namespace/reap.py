"""Reaping: what an inode without a name holds is given back, in steps, when nobody has it open any more."""

import stat
from typing import Final

from cairnfs.base.limits import STEP_KEYS_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.truncate import truncate_step
from cairnfs.coordinator.records import Inode
from cairnfs.engine.interface import ReadTransaction, Transaction

_XATTRS_PER_STEP: Final = STEP_KEYS_MAX - 10


def list_orphans(txn: ReadTransaction, after: int = 0, limit: int | None = None) -> list[int]:
    """Up to `limit` inodes without a name, with numbers above `after`, ascending."""
    return [keys.inode_of(key) for key, _ in txn.scan(*keys.orphan_range(after), limit=limit)]


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
    if stat.S_ISLNK(inode.mode):
        txn.delete(keys.symlink(ino))
    txn.delete(keys.inode(ino))
    txn.delete(keys.orphan(ino))
    usage.change(txn, inode.realm, inodes=-1)
    return True


def _remove_xattrs(txn: Transaction, ino: int, inode: Inode) -> bool:
    xattrs = [key for key, _ in txn.scan(*keys.xattr_range(ino), limit=_XATTRS_PER_STEP + 1)]
    for key in xattrs[:_XATTRS_PER_STEP]:
        txn.delete(key)
    if len(xattrs) <= _XATTRS_PER_STEP:
        return True
    tree.save(txn, ino, inode._replace(xattrs=inode.xattrs - _XATTRS_PER_STEP))
    return False
