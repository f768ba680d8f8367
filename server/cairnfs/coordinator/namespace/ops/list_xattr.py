"""list_xattr: the names of an inode's extended attributes."""

from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.xattrs import list_names
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.ListXattr, _env: Env) -> pb.XattrReply:
    """All names, in byte order. Raises CairnError NOT_FOUND."""
    inode = tree.load(txn, op.ino)
    names = list_names(txn, op.ino) if inode.xattrs else []
    return pb.XattrReply(names=names, attr=inode.to_attr(op.ino))


SPEC = OperationSpec("list_xattr", "xattr", run)
