"""Which realm an inode belongs to, and what its policy says (docs/internals/realms.md)."""

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import SNAPSHOTS_REALM, TRASH_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.records import Inode, RealmState
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb


def check_removable(ino: int, inode: Inode) -> None:
    """Raise CairnError BUSY for a directory that has a policy of its own; that of a file goes with it."""
    if inode.realm == ino and tree.is_directory(inode):
        raise CairnError(pb.ERROR_CODE_BUSY, f"directory {ino} has a policy of its own")


def place(txn: Transaction, ino: int, inode: Inode, realm: int, env: Env, *, links: int = 0) -> Inode:
    """`inode`, which gets a name in a directory of `realm`, with that realm; its usage goes along.

    `links` is how many names it then has, if others than before.

    Raises CairnError CROSS_DEVICE for what has to be copied instead, QUOTA, READ_ONLY.
    """
    tree.check_changeable(ino, inode)
    if realm == SNAPSHOTS_REALM:
        raise CairnError(pb.ERROR_CODE_READ_ONLY, "a directory of a snapshot takes no entries")
    own = inode.realm
    if own == realm:
        return inode
    if own == TRASH_INO:  # of directories only empty ones are there
        usage.move(txn, own, realm, usage.Usage(1, inode.allocated_bytes), forced=env.forced)
        return inode._replace(realm=realm)
    if own == ino:
        own = usage.load_realm(txn, ino).parent
        if own == realm:
            return inode
        raise _cross_device(ino, own, realm)
    walking = _walking_between(txn, own, realm)
    if tree.is_directory(inode):
        if walking:  # what is in it follows
            txn.put(keys.retag(walking, ino), b"")
        elif inode.nlink:
            raise _cross_device(ino, own, realm)
    elif max(links, inode.nlink) > 1 and not walking:
        raise _cross_device(ino, own, realm)
    usage.move(txn, own, realm, usage.Usage(1, inode.allocated_bytes), forced=env.forced or walking > 0)
    return inode._replace(realm=realm)


def _walking_between(txn: ReadTransaction, own: int, realm: int) -> int:
    """The realm whose walk turns `own` into `realm`, or 0."""
    target = usage.load_realm(txn, realm)
    if target.state == RealmState.TAGGING and target.parent == own:
        return realm
    source = usage.load_realm(txn, own)
    if source.state == RealmState.REMOVING and source.parent == realm:
        return own
    return 0


def _cross_device(ino: int, own: int, realm: int) -> CairnError:
    return CairnError(pb.ERROR_CODE_CROSS_DEVICE, f"inode {ino} of realm {own} into realm {realm}")
