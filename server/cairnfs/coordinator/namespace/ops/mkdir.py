"""mkdir: a new directory."""

import stat

from cairnfs.coordinator.namespace import create
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def footprint(_txn: ReadTransaction, op: pb.MkDir) -> Footprint:
    """The new entry."""
    return create.footprint(op.parent, op.name)


def apply(txn: Transaction, op: pb.MkDir, env: Env) -> create.Made:
    """Make the directory.

    Raises CairnError EXISTS, INVALID, NAME_TOO_LONG, NOT_FOUND, NOT_DIRECTORY, TOO_MANY_LINKS.
    """
    return create.create_inode(txn, env, op.parent, op.name, stat.S_IFDIR | (op.mode & 0o7777))


def run(txn: Transaction, op: pb.MkDir, env: Env) -> pb.EntryReply:
    """Make the directory, as `apply` does, and tell of it."""
    return create.reply_to(apply(txn, op, env), env, op.parent)


SPEC = OperationSpec("mkdir", "entry", run, footprint, creates_inode=True, apply=apply)
