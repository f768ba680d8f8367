"""get_xattr: the value of an extended attribute."""

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.xattrs import check_name
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.GetXattr, _env: Env) -> pb.XattrReply:
    """The value. Raises CairnError NOT_FOUND, NO_DATA (no such attribute), NOT_SUPPORTED, INVALID, RANGE."""
    inode = tree.load(txn, op.ino)
    check_name(op.name)
    value = txn.get(keys.xattr(op.ino, op.name)) if inode.xattrs else None
    if value is None:
        raise CairnError(common_pb2.ERROR_CODE_NO_DATA, f"{op.name!r} of inode {op.ino}")
    return pb.XattrReply(value=value, attr=inode.to_attr(op.ino))


SPEC = OperationSpec("get_xattr", "xattr", run)
