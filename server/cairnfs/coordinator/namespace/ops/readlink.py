"""readlink: the target of a symbolic link."""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.ReadLink, _env: Env) -> pb.ReadLinkReply:
    """The target. Raises CairnError NOT_FOUND, INVALID (not a link), IO (the target is missing)."""
    if not stat.S_ISLNK(tree.load(txn, op.ino).mode):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"inode {op.ino} is not a symbolic link")
    target = txn.get(keys.symlink(op.ino))
    if target is None:
        raise CairnError(common_pb2.ERROR_CODE_IO, f"symbolic link {op.ino} has no target")
    return pb.ReadLinkReply(target=target)


SPEC = OperationSpec("readlink", "readlink", run)
