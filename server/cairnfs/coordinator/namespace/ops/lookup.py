"""lookup: what a name leads to."""

from cairnfs.base.limits import TRASH_INO
from cairnfs.coordinator.namespace import trash, tree
from cairnfs.coordinator.namespace.operation import Env, OperationSpec
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def run(txn: ReadTransaction, op: pb.Lookup, env: Env) -> pb.EntryReply:
    """The inode, or a reply without `attr` when the directory has no such entry, or none for this caller.

    "." and ".." lead to the directory and its parent. Raises CairnError NOT_FOUND (no such directory),
    NOT_DIRECTORY, INVALID, NAME_TOO_LONG, IO (the inode is missing).
    """
    directory = tree.load_directory(txn, op.parent)
    if op.name == b".":
        return pb.EntryReply(attr=directory.to_attr(op.parent))
    if op.name == b"..":
        return pb.EntryReply(attr=tree.load(txn, directory.parent).to_attr(directory.parent))
    tree.check_name(op.name)
    entry = tree.find_entry(txn, op.parent, op.name)
    if entry is None:
        return pb.EntryReply()
    reply = pb.EntryReply()
    inode = tree.load_target(txn, entry)
    if op.parent != TRASH_INO or trash.is_shown(txn, entry.ino, inode.uid, env.caller):
        inode.fill(reply.attr, entry.ino)
    return reply


SPEC = OperationSpec("lookup", "entry", run)
