"""unlink: take a name from a file."""

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import trash, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec, Touch
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(txn: ReadTransaction, op: pb.Unlink | pb.RmDir) -> Footprint:
    """The entry, and the attributes of what it leads to."""
    touches = [Touch(op.parent, names=(op.name,))]
    entry = tree.find_entry(txn, op.parent, op.name)
    if entry is not None:
        touches.append(Touch(entry.ino, attributes_only=True))
    return Footprint(tuple(touches))


def run(txn: Transaction, op: pb.Unlink, env: Env) -> pb.RemoveReply:
    """Remove the entry.

    Raises CairnError NOT_FOUND, NOT_DIRECTORY (parent), IS_DIRECTORY, INVALID, NOT_PERMITTED
    (a reserved name).
    """
    tree.check_users_name(op.parent, op.name)
    parent = tree.load_directory(txn, op.parent)
    entry = tree.require_entry(txn, op.parent, op.name)
    tree.require_cover(env, entry.ino)
    inode = tree.load_target(txn, entry)
    trash.require_shown(txn, op.parent, entry.ino, inode, env.caller)
    if tree.is_directory(inode):
        raise CairnError(common_pb2.ERROR_CODE_IS_DIRECTORY, f"{op.name!r} in {op.parent}")
    txn.delete(keys.dentry(op.parent, op.name))
    parent = tree.entries_changed(parent, env.now_ns)
    tree.save(txn, op.parent, parent)
    inode = trash.remove_name(txn, op.parent, op.name, entry.ino, inode, env)
    return tree.remove_reply(entry.ino, inode, op.parent, parent)


SPEC = OperationSpec("unlink", "remove", run, footprint)
