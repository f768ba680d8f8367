"""The replica count of one file: a realm of its own, with nothing in it (docs/internals/realms.md)."""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import REALM_DEPTH_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.records import Inode, Realm
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def change(txn: Transaction, request: pb.SetPolicyRequest, ino: int, now_ns: int) -> None:
    """Set the replica count of file `ino`, or with 0 or `remove` take it back.

    Raises CairnError INVALID (no regular file, a limit, realms would nest too deep), NO_DATA (it has none).
    """
    inode = tree.load(txn, ino)
    if not stat.S_ISREG(inode.mode):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "only directories and regular files have policies")
    if request.space_limit_bytes or request.inodes_limit:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "only directories have limits")
    if request.remove or not request.replicas:
        _remove(txn, ino, inode, now_ns)
    else:
        realm = usage.find_realm(txn, ino) or _make(txn, ino, inode, now_ns)
        usage.save_realm(txn, ino, realm._replace(replicas=request.replicas))


def _make(txn: Transaction, ino: int, inode: Inode, now_ns: int) -> Realm:
    if sum(1 for _ in usage.chain(txn, inode.realm)) >= REALM_DEPTH_MAX:
        raise CairnError(
            common_pb2.ERROR_CODE_INVALID, f"more than {REALM_DEPTH_MAX} policies inside each other"
        )
    tree.save(txn, ino, tree.attributes_changed(inode, now_ns)._replace(realm=ino))
    return Realm(inode.realm, used_bytes=inode.allocated_bytes, used_inodes=1)


def _remove(txn: Transaction, ino: int, inode: Inode, now_ns: int) -> None:
    realm = usage.find_realm(txn, ino)
    if realm is None:
        raise CairnError(common_pb2.ERROR_CODE_NO_DATA, "this file has no policy of its own")
    tree.save(txn, ino, tree.attributes_changed(inode, now_ns)._replace(realm=realm.parent))
    txn.delete(keys.realm(ino))
