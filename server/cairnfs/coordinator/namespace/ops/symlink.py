"""symlink: a new symbolic link."""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import SYMLINK_MAX_BYTES
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import create
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(_txn: ReadTransaction, op: pb.Symlink) -> Footprint:
    """The new entry."""
    return create.footprint(op.parent, op.name)


def apply(txn: Transaction, op: pb.Symlink, env: Env) -> create.Made:
    """Make the link; its target is any non-empty string without NUL.

    Raises CairnError NOT_FOUND (also for an empty target), NAME_TOO_LONG, INVALID, EXISTS, NOT_DIRECTORY.
    """
    if not op.target:
        raise CairnError(common_pb2.ERROR_CODE_NOT_FOUND, "empty target")
    if len(op.target) > SYMLINK_MAX_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_NAME_TOO_LONG, f"target of {len(op.target)} bytes")
    if b"\0" in op.target:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "NUL in a target")
    made = create.create_inode(txn, env, op.parent, op.name, stat.S_IFLNK | 0o777, size=len(op.target))
    txn.put(keys.symlink(env.new_ino), op.target)
    return made


def run(txn: Transaction, op: pb.Symlink, env: Env) -> pb.EntryReply:
    """Make the link, as `apply` does, and tell of it."""
    return create.reply_to(apply(txn, op, env), env, op.parent)


SPEC = OperationSpec("symlink", "entry", run, footprint, creates_inode=True, apply=apply)
