"""link: one more name for a file."""

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import realms, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec, Touch
from cairnfs.coordinator.records import Dentry
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(_txn: ReadTransaction, op: pb.Link) -> Footprint:
    """The new entry, and the attributes of the file."""
    return Footprint((Touch(op.parent, names=(op.name,)), Touch(op.ino, attributes_only=True)))


def run(txn: Transaction, op: pb.Link, env: Env) -> pb.EntryReply:
    """Make the link.

    Raises CairnError NOT_FOUND (also when the file has no name left), NOT_DIRECTORY, EXISTS, NOT_PERMITTED
    (a directory, a reserved name), TOO_MANY_LINKS, INVALID, NAME_TOO_LONG, CROSS_DEVICE.
    """
    tree.check_users_name(op.parent, op.name)
    tree.require_cover(env, op.ino)
    parent = tree.load_living_directory(txn, op.parent)
    inode = tree.load(txn, op.ino)
    if tree.find_entry(txn, op.parent, op.name) is not None:
        raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{op.name!r} in {op.parent}")
    if tree.is_directory(inode):
        raise CairnError(common_pb2.ERROR_CODE_NOT_PERMITTED, f"inode {op.ino} is a directory")
    if inode.nlink == 0:
        raise CairnError(common_pb2.ERROR_CODE_NOT_FOUND, f"inode {op.ino} has no name left")
    tree.check_links(inode)
    inode = realms.place(txn, op.ino, inode, parent.realm, env, links=2)
    inode = tree.attributes_changed(inode, env.now_ns)._replace(nlink=inode.nlink + 1)
    parent = tree.entries_changed(parent, env.now_ns)
    tree.save(txn, op.ino, inode)
    tree.save(txn, op.parent, parent)
    txn.put(keys.dentry(op.parent, op.name), Dentry(op.ino, inode.mode >> 12).encode())
    return tree.entry_reply(op.ino, inode, op.parent, parent)


SPEC = OperationSpec("link", "entry", run, footprint)
