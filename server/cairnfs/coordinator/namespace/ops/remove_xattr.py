"""remove_xattr: remove an extended attribute."""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import acl, tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.ops.set_xattr import footprint
from cairnfs.coordinator.namespace.xattrs import check_name
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def run(txn: Transaction, op: pb.RemoveXattr, env: Env) -> pb.AttrReply:
    """Remove the attribute. Raises CairnError NOT_FOUND, NO_DATA, NOT_SUPPORTED, INVALID, RANGE.

    Without its access list an inode keeps its mode, whose group bits are then the group's. Removing a list
    that is not there succeeds, as on Linux: the mode says the same.
    """
    tree.require_cover(env, op.ino)
    inode = tree.load(txn, op.ino)
    check_name(op.name)
    key = keys.xattr(op.ino, op.name)
    if inode.xattrs == 0 or txn.get(key) is None:
        if op.name in (acl.ACCESS_NAME, acl.DEFAULT_NAME) and not stat.S_ISLNK(inode.mode):
            return pb.AttrReply(attr=inode.to_attr(op.ino))
        raise CairnError(common_pb2.ERROR_CODE_NO_DATA, f"{op.name!r} of inode {op.ino}")
    txn.delete(key)
    inode = tree.attributes_changed(inode, env.now_ns)._replace(xattrs=inode.xattrs - 1)
    tree.save(txn, op.ino, inode)
    return pb.AttrReply(attr=inode.to_attr(op.ino))


SPEC = OperationSpec("remove_xattr", "attr", run, footprint)
