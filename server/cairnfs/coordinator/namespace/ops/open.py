"""open: attributes and the first extents of a file; with O_TRUNC, the file cut to nothing.

Two operations: "open" only reads, so that plain opens take no commit; "open_truncate" is a mutation.
"""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, OPEN_EXTENT_BLOCKS
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, MoreSteps, OperationSpec, Touch
from cairnfs.coordinator.namespace.ops.get_extents import read_extents
from cairnfs.coordinator.namespace.truncate import truncate_step
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.Open, _env: Env) -> pb.OpenReply:
    """What an opener needs to know.

    Raises CairnError NOT_FOUND, IS_DIRECTORY (opened for writing), INVALID (a symbolic link), READ_ONLY.
    """
    inode = tree.load(txn, op.ino)
    if stat.S_ISLNK(inode.mode):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"inode {op.ino} is a symbolic link")
    if op.write and tree.is_directory(inode):
        raise CairnError(common_pb2.ERROR_CODE_IS_DIRECTORY, f"inode {op.ino}")
    if op.write:
        tree.check_changeable(op.ino, inode)
    reply = pb.OpenReply(attr=inode.to_attr(op.ino))
    if op.want_extents and stat.S_ISREG(inode.mode):
        reply.extents.CopyFrom(read_extents(txn, op.ino, 0, OPEN_EXTENT_BLOCKS * BLOCK_BYTES))
    return reply


def footprint(_txn: ReadTransaction, op: pb.Open) -> Footprint:
    """The whole inode."""
    return Footprint((Touch(op.ino),))


def run_truncate(txn: Transaction, op: pb.Open, env: Env) -> pb.OpenReply | MoreSteps:
    """Cut the file to nothing, then answer as `run`. Raises CairnError NOT_FOUND, IS_DIRECTORY, INVALID.

    Unless root does it, set-user-ID and set-group-ID go: the kernel leaves that to whoever truncates in open.
    """
    tree.require_cover(env, op.ino)
    if not truncate_step(txn, op.ino, 0, env.now_ns):
        return MoreSteps(op)
    if env.caller.uid != 0:
        inode = tree.load(txn, op.ino)
        tree.save(txn, op.ino, inode._replace(mode=tree.without_privilege(inode.mode)))
    return run(txn, op, env)


SPEC = OperationSpec("open", "open", run)
SPEC_TRUNCATE = OperationSpec("open_truncate", "open", run_truncate, footprint)
