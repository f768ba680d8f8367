"""How `cairnfs fsck --repair` mends what realms count, and to which of them inodes belong (see mends.py)."""

from cairnfs.base.limits import ROOT_INO, SNAPSHOTS_REALM
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.mends import Apply
from cairnfs.coordinator.records import Inode, Realm
from cairnfs.engine.interface import ReadTransaction, Transaction


def set_usage(ino: int, seen: usage.Usage, counted: usage.Usage) -> Apply:
    """What a realm counts as in use; the root's: what the whole file system does."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        realm = usage.find_realm(txn, ino)
        if realm is None or usage.read(txn, ino) != seen:
            return False
        changed = realm._replace(used_inodes=counted.inodes, used_bytes=counted.allocated_bytes)
        usage.save_realm(txn, ino, changed)
        return True

    return apply


def restore_realm(ino: int, counted: usage.Usage) -> Apply:
    """Inodes belong to a realm without a record: its directory becomes one again, whose policy is lost."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        if usage.find_realm(txn, ino) is not None:
            return False
        inode = tree.find_inode(txn, ino)
        around = 0
        if ino == SNAPSHOTS_REALM:
            around = ROOT_INO
        elif inode is None or inode.realm != ino:
            return False
        elif ino != ROOT_INO:
            parent = tree.find_inode(txn, inode.parent)
            around = ROOT_INO if parent is None else parent.realm
        realm = Realm(around, used_inodes=counted.inodes, used_bytes=counted.allocated_bytes)
        usage.save_realm(txn, ino, realm)
        return True

    return apply


def leave_realm(ino: int, realm: int) -> Apply:
    """An inode of a realm that has neither a record nor a directory: it counts to the root's."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        inode, top = tree.find_inode(txn, ino), tree.find_inode(txn, realm)
        if inode is None or inode.realm != realm or usage.find_realm(txn, realm) is not None:
            return False
        if top is not None and top.realm == realm and ino != realm:
            return False  # it is restored
        tree.save(txn, ino, tree.attributes_changed(inode._replace(realm=ROOT_INO), now_ns))
        return True

    return apply


def join_realm(directory: int, name: bytes, ino: int) -> Apply:
    """What has this name belongs to another realm than its directory does."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        entry, inode = tree.find_entry(txn, directory, name), tree.find_inode(txn, ino)
        parent = tree.find_inode(txn, directory)
        if entry is None or entry.ino != ino or inode is None or parent is None:
            return False
        if inode.realm in (parent.realm, ino) or not _is_whole(txn, parent.realm):
            return False
        _move_usage(txn, inode, parent.realm)
        tree.store(txn, ino, tree.attributes_changed(inode._replace(realm=parent.realm), now_ns))
        return True

    return apply


def _move_usage(txn: Transaction, inode: Inode, realm: int) -> None:
    """What realms count goes along as far as they have it; what is wrong then, the next check finds."""
    held = usage.Usage(1, inode.allocated_bytes)
    if not _is_whole(txn, inode.realm):
        return
    losers = {ino: found for ino, found in usage.chain(txn, inode.realm) if ino != ROOT_INO}
    if all(
        held.inodes <= one.used_inodes and held.allocated_bytes <= one.used_bytes for one in losers.values()
    ):
        usage.move(txn, inode.realm, realm, held, forced=True)


def _is_whole(txn: ReadTransaction, ino: int) -> bool:
    """Whether the realm has a record, and all around it have."""
    while ino:
        realm = usage.find_realm(txn, ino)
        if realm is None:
            return False
        ino = realm.parent
    return True
