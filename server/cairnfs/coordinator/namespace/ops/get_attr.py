"""get_attr: the attributes of an inode."""

from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.GetAttr, _env: Env) -> pb.AttrReply:
    """The attributes. Raises CairnError NOT_FOUND."""
    return tree.attr_reply(op.ino, tree.load(txn, op.ino))


SPEC = OperationSpec("get_attr", "attr", run)
