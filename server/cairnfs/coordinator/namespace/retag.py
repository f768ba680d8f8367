"""Making a directory a realm and taking that back: what is in it follows in bounded steps, in use or not.

docs/internals/realms.md has the rules. A step is planned on a snapshot, so that leases on what it changes can
be recalled, and made in a transaction that refuses to change anything else.
"""

from typing import NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import REALM_DEPTH_MAX, RETAG_STEP_ENTRIES, ROOT_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.operation import Env, Footprint, Touch
from cairnfs.coordinator.records import Dentry, Inode, Realm, RealmState
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb


class _Work(NamedTuple):
    """Entries of one directory that come next; `last` is their last name, and empty when none follows."""

    key: bytes
    inos: tuple[int, ...]
    last: bytes


def make_realm(txn: Transaction, ino: int, now_ns: int) -> Realm:
    """The realm of directory `ino`, which becomes one if it is none.

    Raises CairnError NOT_FOUND, NOT_DIRECTORY, INVALID (realms would nest too deep), BUSY (its policy is
    being removed).
    """
    found = usage.find_realm(txn, ino)
    if found is not None:
        if found.state == RealmState.REMOVING:
            raise CairnError(pb.ERROR_CODE_BUSY, "the policy of this directory is still being removed")
        return found
    directory = tree.load_living_directory(txn, ino)
    if sum(1 for _ in usage.chain(txn, directory.realm)) >= REALM_DEPTH_MAX:
        raise CairnError(pb.ERROR_CODE_INVALID, f"more than {REALM_DEPTH_MAX} policies inside each other")
    empty = tree.is_empty(txn, ino)
    if not empty:
        txn.put(keys.retag(ino, ino), b"")
    state = RealmState.ACTIVE if empty else RealmState.TAGGING
    realm = Realm(directory.realm, state, used_bytes=directory.allocated_bytes, used_inodes=1)
    usage.save_realm(txn, ino, realm)
    tree.save(txn, ino, tree.attributes_changed(directory, now_ns)._replace(realm=ino))
    return realm


def remove_realm(txn: Transaction, ino: int, now_ns: int) -> None:
    """Begin to give what is in realm `ino` to the one that encloses it. Its limits end at once.

    Raises CairnError INVALID (the root's stays), BUSY (it is still being made), NO_DATA (it is no realm),
    NOT_DIRECTORY.
    """
    realm = usage.find_realm(txn, ino)
    if realm is None:
        tree.load_directory(txn, ino)
        raise CairnError(pb.ERROR_CODE_NO_DATA, "this directory has no policy of its own")
    if ino == ROOT_INO:
        raise CairnError(pb.ERROR_CODE_INVALID, "the root directory always has a policy; set its limits to 0")
    if realm.state == RealmState.REMOVING:
        return
    if realm.state == RealmState.TAGGING:
        raise CairnError(pb.ERROR_CODE_BUSY, "what is in this directory is still being counted")
    directory = tree.load_directory(txn, ino)
    tree.save(txn, ino, tree.attributes_changed(directory, now_ns)._replace(realm=realm.parent))
    txn.put(keys.retag(ino, ino), b"")
    changed = Realm(
        realm.parent,
        RealmState.REMOVING,
        used_bytes=realm.used_bytes - directory.allocated_bytes,
        used_inodes=realm.used_inodes - 1,
    )
    usage.save_realm(txn, ino, changed)


def is_walked(txn: ReadTransaction, realm: int) -> bool:
    """Whether nothing is left to be tagged for `realm`."""
    return next(iter(txn.scan(*keys.retag_range(realm), limit=1)), None) is None


def footprint(txn: ReadTransaction, realm: int) -> Footprint:
    """The inodes that the next step tags."""
    work = _next_work(txn, realm)
    if work is None:
        return Footprint()
    source, _ = _direction(txn, realm)
    changing = [ino for ino in work.inos if _changes(txn, ino, source)]
    return Footprint(tuple(Touch(ino, attributes_only=True) for ino in changing))


def step(txn: Transaction, realm: int, env: Env) -> bool:
    """Tag the next entries; true when all is done. Raises FootprintChanged when `env` does not cover them."""
    work = _next_work(txn, realm)
    if work is None:
        return _finish(txn, realm)
    source, target = _direction(txn, realm)
    for ino in work.inos:
        inode = tree.find_inode(txn, ino)
        if inode is None:
            continue
        if inode.realm == ino:
            _enclose(txn, ino, source, target)
        elif inode.realm == source:
            tree.require_cover(env, ino)
            _tag(txn, ino, inode, realm, target)
    if work.last:
        txn.put(work.key, work.last)
    else:
        txn.delete(work.key)
    return False


def _next_work(txn: ReadTransaction, realm: int) -> _Work | None:
    pair = next(iter(txn.scan(*keys.retag_range(realm), limit=1)), None)
    if pair is None:
        return None
    key, after = pair
    span = keys.dentry_range(keys.retag_directory(key), after)
    found = list(txn.scan(*span, limit=RETAG_STEP_ENTRIES))
    last = keys.dentry_name(found[-1][0]) if len(found) == RETAG_STEP_ENTRIES else b""
    return _Work(key, tuple(dict.fromkeys(Dentry.decode(value).ino for _, value in found)), last)


def _direction(txn: ReadTransaction, realm: int) -> tuple[int, int]:
    """Which realm gives, and which takes."""
    found = usage.load_realm(txn, realm)
    return (found.parent, realm) if found.state == RealmState.TAGGING else (realm, found.parent)


def _changes(txn: ReadTransaction, ino: int, source: int) -> bool:
    inode = tree.find_inode(txn, ino)
    return inode is not None and inode.realm == source != ino


def _tag(txn: Transaction, ino: int, inode: Inode, realm: int, target: int) -> None:
    usage.move(txn, inode.realm, target, usage.Usage(1, inode.allocated_bytes), forced=True)
    tree.save(txn, ino, inode._replace(realm=target, change=inode.change + 1))
    if tree.is_directory(inode):
        txn.put(keys.retag(realm, ino), b"")


def _enclose(txn: Transaction, ino: int, source: int, target: int) -> None:
    """A realm inside belongs to `target` from now on, with all that is in it."""
    inner = usage.load_realm(txn, ino)
    if inner.parent != source:
        return
    usage.move(txn, source, target, usage.Usage(inner.used_inodes, inner.used_bytes), forced=True)
    usage.save_realm(txn, ino, inner._replace(parent=target))


def _finish(txn: Transaction, realm: int) -> bool:
    found = usage.load_realm(txn, realm)
    if found.state == RealmState.TAGGING:
        usage.save_realm(txn, realm, found._replace(state=RealmState.ACTIVE))
        return True
    if found.state == RealmState.ACTIVE:
        return True
    if found.used_inodes:
        return False  # orphans that are still open
    txn.delete(keys.realm(realm))
    return True
