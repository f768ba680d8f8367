"""set_attr: mode, owner, size and times of an inode."""

import stat

from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import acl, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, MoreSteps, OperationSpec, Touch
from cairnfs.coordinator.namespace.truncate import truncate_step
from cairnfs.coordinator.records import Inode
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import metadata_pb2 as pb

_PERMISSION_BITS = 0o7777


def footprint(_txn: ReadTransaction, op: pb.SetAttr) -> Footprint:
    """The inode; its pages and extents only when the size is set."""
    return Footprint((Touch(op.ino, attributes_only=not op.HasField("size")),))


def run(txn: Transaction, op: pb.SetAttr, env: Env) -> pb.AttrReply | MoreSteps:
    """Change what is given. Without `ctime_ns` the change time is now; a new size also sets mtime.

    A change that waited at its client, like one of the clock, never moves the change time backwards.

    Raises CairnError NOT_FOUND; for a size also IS_DIRECTORY, INVALID, FILE_TOO_LARGE.
    """
    tree.require_cover(env, op.ino)
    if op.HasField("size") and not truncate_step(txn, op.ino, op.size, env.now_ns):
        return MoreSteps(op)
    before = tree.load(txn, op.ino)
    inode = tree.attributes_changed(before, env.now_ns)._replace(
        mode=_new_mode(before, op),
        uid=op.uid if op.HasField("uid") else before.uid,
        gid=op.gid if op.HasField("gid") else before.gid,
    )
    inode = _with_times(inode, op, before.ctime_ns)
    if op.HasField("mode") and inode.xattrs:
        _update_access_list(txn, op.ino, inode.mode)
    tree.save(txn, op.ino, inode)
    return tree.attr_reply(op.ino, inode)


def _new_mode(inode: Inode, op: pb.SetAttr) -> int:
    mode = inode.mode
    if op.HasField("mode"):
        mode = stat.S_IFMT(mode) | (op.mode & _PERMISSION_BITS)
    return tree.without_privilege(mode) if op.kill_suid_sgid else mode


def _with_times(inode: Inode, op: pb.SetAttr, ctime_before_ns: int) -> Inode:
    if op.HasField("atime_ns"):
        inode = inode._replace(atime_ns=op.atime_ns)
    if op.HasField("mtime_ns"):
        inode = inode._replace(mtime_ns=op.mtime_ns)
    if op.HasField("ctime_ns"):
        inode = inode._replace(ctime_ns=max(ctime_before_ns, op.ctime_ns))
    return inode


def _update_access_list(txn: Transaction, ino: int, mode: int) -> None:
    key = keys.xattr(ino, acl.ACCESS_NAME)
    value = txn.get(key)
    if value is not None:
        txn.put(key, acl.serialise(acl.after_chmod(acl.parse(value), mode)))


SPEC = OperationSpec("set_attr", "attr", run, footprint)
