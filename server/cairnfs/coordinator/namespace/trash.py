"""The trash: what is removed where a policy keeps it, until its time is over (docs/internals/trash.md).

It is a hidden directory, and a realm of its own. What is removed gets a name there in place of its last one,
so it stays an ordinary inode that is named, counted and checked as any other.
"""

import stat
import time
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.kept import is_worth_keeping
from cairnfs.base.limits import NAME_MAX_BYTES, ROOT_INO, SNAPSHOTS_REALM, TRASH_INO
from cairnfs.base.reserved import TRASH
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import create, reap, tree, usage
from cairnfs.coordinator.namespace.operation import Env, Footprint, Touch
from cairnfs.coordinator.records import AS_AROUND, Dentry, Inode, Realm, Trashed
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb, metadata_pb2 as pb2

_PERMISSIONS: Final = 0o777  # each entry is shown to who owns it, who removed it, and root
_NS_PER_S: Final = 1_000_000_000
_CONTINUES: Final = 0x80, 0xC0  # bytes of UTF-8 that continue a character, and the mask to tell them by


def make(txn: Transaction, now_ns: int) -> None:
    """Make the trash unless there is one; others have given up `.trash` in the root directory."""
    if tree.find_inode(txn, TRASH_INO) is not None:
        return
    usage.save_realm(txn, TRASH_INO, Realm(parent=ROOT_INO, trash_s=0))
    create.create_hidden(txn, now_ns, ROOT_INO, TRASH, TRASH_INO, permissions=_PERMISSIONS, realm=TRASH_INO)


def retentions(txn: ReadTransaction) -> dict[int, int]:
    """For how many seconds what is removed is kept, by the realm that it is in; other realms keep nothing."""
    realms = {keys.inode_of(key): Realm.decode(value) for key, value in txn.scan(*keys.realm_range())}
    found: dict[int, int] = {}
    for ino in realms:
        above = ino
        while realms[above].trash_s == AS_AROUND and realms[above].parent:
            above = realms[above].parent
        if realms[above].trash_s > 0 and ino not in (TRASH_INO, SNAPSHOTS_REALM):
            found[ino] = realms[above].trash_s
    return found


# ------------------------------------------------------------------ into the trash


def remove_name(txn: Transaction, directory: int, name: bytes, ino: int, inode: Inode, env: Env) -> Inode:
    """Take the name `name` in `directory`, whose entry is gone, from an inode; returns what it is then.

    Its last name is followed by one in the trash, if the policy that holds for it says so. A name in the
    trash is followed by nothing.
    """
    is_directory = stat.S_ISDIR(inode.mode)
    if env.trash is not None and (is_directory or inode.nlink == 1):
        kept_s = env.trash.kept_s.get(inode.realm)
        if kept_s and is_worth_keeping(name, inode.mode):
            return _put_away(txn, directory, name, ino, inode, env, env.trash.now_ns, kept_s)
    if directory == TRASH_INO:
        forget(txn, ino)
    return reap.drop_link(txn, ino, inode, env)


def _put_away(
    txn: Transaction, directory: int, name: bytes, ino: int, inode: Inode, env: Env, now_ns: int, kept_s: int
) -> Inode:
    record = Trashed(directory, now_ns, now_ns + kept_s * _NS_PER_S, env.caller.uid, name)
    usage.move(txn, inode.realm, TRASH_INO, usage.Usage(1, inode.allocated_bytes), forced=True)
    if inode.realm == ino:
        txn.delete(keys.realm(ino))  # a file's own policy ends with its name
    changed = tree.attributes_changed(inode, env.now_ns)._replace(realm=TRASH_INO)
    if stat.S_ISDIR(inode.mode):
        changed = changed._replace(parent=TRASH_INO)
    tree.save(txn, ino, changed)
    write_record(txn, ino, record)
    txn.put(keys.dentry(TRASH_INO, entry_name(ino, record)), Dentry(ino, inode.mode >> 12).encode())
    return changed


def entry_name(ino: int, record: Trashed) -> bytes:
    """The name in the trash: when (UTC), which inode, and as much of its name as there is room for."""
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(record.removed_ns // _NS_PER_S))
    prefix, name = b"%s-%d-" % (when.encode(), ino), record.name
    length = min(len(name), NAME_MAX_BYTES - len(prefix))
    if length < len(name):
        continues, mask = _CONTINUES
        while length and name[length] & mask == continues:
            length -= 1
    return prefix + name[:length]


# ------------------------------------------------------------------ in the trash


def find_record(txn: ReadTransaction, ino: int) -> Trashed | None:
    """What is known of an inode in the trash; None when it is not there."""
    value = txn.get(keys.trashed(ino))
    return None if value is None else Trashed.decode(value)


def write_record(txn: Transaction, ino: int, record: Trashed) -> None:
    """Note what is known of an inode in the trash, and list it among those that end."""
    txn.put(keys.trashed(ino), record.encode())
    txn.put(keys.trash_end(record.expires_ns, ino), b"")


def forget(txn: Transaction, ino: int) -> None:
    """Delete what is known of an inode that leaves the trash."""
    record = find_record(txn, ino)
    if record is not None:
        txn.delete(keys.trashed(ino))
        txn.delete(keys.trash_end(record.expires_ns, ino))


def is_recorded(txn: ReadTransaction, name: bytes, ino: int) -> bool:
    """Whether it is known where the entry `name` of the trash was."""
    record = find_record(txn, ino)
    return record is not None and entry_name(ino, record) == name


def is_stray(txn: ReadTransaction, ino: int, record: Trashed) -> bool:
    """Whether a record is of something that is not in the trash."""
    entry = tree.find_entry(txn, TRASH_INO, entry_name(ino, record))
    return entry is None or entry.ino != ino


def is_end(txn: ReadTransaction, ino: int, end_ns: int) -> bool:
    """Whether that is the time at which the inode leaves the trash."""
    record = find_record(txn, ino)
    return record is not None and record.expires_ns == end_ns


def is_shown(txn: ReadTransaction, ino: int, owner: int, caller: pb2.Caller) -> bool:
    """Whether the caller may see an entry of the trash, take it out and remove it."""
    if caller.uid in (0, owner):
        return True
    record = find_record(txn, ino)
    return record is not None and record.uid == caller.uid


def find_shown(txn: ReadTransaction, name: bytes, caller: pb2.Caller) -> Dentry | None:
    """The entry of the trash with this name, None when there is none that the caller may see."""
    entry = tree.find_entry(txn, TRASH_INO, name)
    inode = tree.find_inode(txn, entry.ino) if entry is not None else None
    if entry is None or inode is None or not is_shown(txn, entry.ino, inode.uid, caller):
        return None
    return entry


def require_shown(txn: ReadTransaction, directory: int, ino: int, inode: Inode, caller: pb2.Caller) -> None:
    """Raise CairnError NOT_FOUND for an entry of the trash that the caller may not see."""
    if directory == TRASH_INO and not is_shown(txn, ino, inode.uid, caller):
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, f"inode {ino} in the trash")


def taken_out(txn: Transaction, directory: int, ino: int) -> None:
    """An entry of `directory` got a name elsewhere; nothing is done unless that is the trash."""
    if directory == TRASH_INO:
        forget(txn, ino)


# ------------------------------------------------------------------ out of the trash for good


def list_ended(txn: ReadTransaction, now_ns: int, limit: int) -> list[int]:
    """Up to `limit` inodes whose time is over, the oldest first."""
    start, _ = keys.all_trash_ends()
    pairs = txn.scan(start, keys.trash_end(now_ns, 0), limit=limit)
    return [keys.trash_end_ino(key) for key, _ in pairs]


def footprint(inos: list[int]) -> Footprint:
    """What `end` changes."""
    return Footprint(tuple(Touch(ino, attributes_only=True) for ino in inos))


def end(txn: Transaction, inos: list[int], env: Env) -> list[int]:
    """Take inodes out of the trash for good; returns those that were there, and are orphans now."""
    ended: list[int] = []
    for ino in inos:
        record, inode = find_record(txn, ino), tree.find_inode(txn, ino)
        if record is None:
            continue
        name = entry_name(ino, record)
        forget(txn, ino)
        if inode is not None and tree.find_entry(txn, TRASH_INO, name) is not None:
            txn.delete(keys.dentry(TRASH_INO, name))
            reap.drop_link(txn, ino, inode, env)
            ended.append(ino)
    return ended
