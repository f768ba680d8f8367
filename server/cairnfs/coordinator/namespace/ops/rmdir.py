"""rmdir: remove an empty directory."""

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import realms, trash, tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.coordinator.namespace.ops.unlink import footprint
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def run(txn: Transaction, op: pb.RmDir, env: Env) -> pb.RemoveReply:
    """Remove the directory.

    Raises CairnError NOT_FOUND, NOT_DIRECTORY, NOT_EMPTY (also of hidden entries), INVALID, BUSY,
    NOT_PERMITTED (a reserved name), READ_ONLY.
    """
    tree.check_users_name(op.parent, op.name)
    parent = tree.load_directory(txn, op.parent)
    tree.check_changeable(op.parent, parent)
    entry = tree.require_entry(txn, op.parent, op.name)
    tree.require_cover(env, entry.ino)
    inode = tree.load_target(txn, entry)
    trash.require_shown(txn, op.parent, entry.ino, inode, env.caller)
    if not tree.is_directory(inode):
        raise CairnError(common_pb2.ERROR_CODE_NOT_DIRECTORY, f"{op.name!r} in {op.parent}")
    if not tree.is_empty(txn, entry.ino):
        raise CairnError(common_pb2.ERROR_CODE_NOT_EMPTY, f"{op.name!r} in {op.parent}")
    realms.check_removable(entry.ino, inode)
    txn.delete(keys.dentry(op.parent, op.name))
    parent = tree.entries_changed(parent, env.now_ns, links=tree.links_of(op.parent, -1))
    tree.save(txn, op.parent, parent)
    inode = trash.remove_name(txn, op.parent, op.name, entry.ino, inode, env)
    return tree.remove_reply(entry.ino, inode, op.parent, parent)


SPEC = OperationSpec("rmdir", "remove", run, footprint)
