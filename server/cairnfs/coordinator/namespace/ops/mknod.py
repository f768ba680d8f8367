"""mknod: regular and special files; also what create(2) makes."""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.coordinator.namespace import create, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec, Touch
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_TYPES = {stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}


def footprint(txn: ReadTransaction, op: pb.MkNod) -> Footprint:
    """The new entry; or, when an existing file is asked for and there, only that file's attributes."""
    if not op.exclusive:
        entry = tree.find_entry(txn, op.parent, op.name)
        if entry is not None:
            return Footprint((Touch(entry.ino, attributes_only=True),))
    return create.footprint(op.parent, op.name)


def run(txn: Transaction, op: pb.MkNod, env: Env) -> pb.EntryReply:
    """Make the file, or return the one that exists (unless `exclusive`), without changing it.

    Raises CairnError EXISTS (exclusive, or the entry is no regular file), IS_DIRECTORY, INVALID (type or
    name), NOT_PERMITTED (a directory), NAME_TOO_LONG, NOT_FOUND, NOT_DIRECTORY.
    """
    if not op.exclusive:
        _check_type(_mode(op))
        existing = _existing(txn, op, env)
        if existing is not None:
            return existing
    return create.reply_to(apply(txn, op, env), env, op.parent)


def apply(txn: Transaction, op: pb.MkNod, env: Env) -> create.Made:
    """Make the file. Raises CairnError EXISTS whatever is there, and what `run` does."""
    mode = _mode(op)
    _check_type(mode)
    rdev = op.rdev if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    return create.create_inode(txn, env, op.parent, op.name, mode, rdev=rdev)


def _mode(op: pb.MkNod) -> int:
    mode = op.mode
    return mode if stat.S_IFMT(mode) else mode | stat.S_IFREG


def _check_type(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise CairnError(common_pb2.ERROR_CODE_NOT_PERMITTED, "mknod makes no directories")
    if stat.S_IFMT(mode) not in _TYPES:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"mode {mode:o}")


def _existing(txn: Transaction, op: pb.MkNod, env: Env) -> pb.EntryReply | None:
    tree.check_name(op.name)
    tree.load_directory(txn, op.parent)
    entry = tree.find_entry(txn, op.parent, op.name)
    if entry is None:
        return None
    tree.require_cover(env, entry.ino)
    inode = tree.load_target(txn, entry)
    if tree.is_directory(inode):
        raise CairnError(common_pb2.ERROR_CODE_IS_DIRECTORY, f"{op.name!r} in {op.parent}")
    if stat.S_IFMT(inode.mode) != stat.S_IFMT(op.mode | stat.S_IFREG):
        raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{op.name!r} in {op.parent}")
    return pb.EntryReply(attr=inode.to_attr(entry.ino))


SPEC = OperationSpec("mknod", "entry", run, footprint, creates_inode=True, apply=apply)
