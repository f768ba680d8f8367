"""set_xattr: set an extended attribute; an access control list also sets the mode."""

import stat

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import XATTR_LIST_MAX_BYTES, XATTR_VALUE_MAX_BYTES
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import acl, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec, Touch
from cairnfs.coordinator.namespace.xattrs import check_name, list_names
from cairnfs.coordinator.records import Inode
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_CREATE = 1
_REPLACE = 2


def footprint(_txn: ReadTransaction, op: pb.SetXattr | pb.RemoveXattr) -> Footprint:
    """The inode's attributes."""
    return Footprint((Touch(op.ino, attributes_only=True),))


def run(txn: Transaction, op: pb.SetXattr, env: Env) -> pb.AttrReply:
    """Set the value; flags 1 (XATTR_CREATE) and 2 (XATTR_REPLACE) as in setxattr(2).

    An access list that mode bits can say is not stored, and one without entries removes the attribute.
    Raises CairnError NOT_FOUND, EXISTS, NO_DATA, TOO_BIG (value), NO_SPACE (too many names), RANGE, INVALID,
    NOT_SUPPORTED (name space), ACCESS (a default list on what is no directory).
    """
    tree.require_cover(env, op.ino)
    inode = tree.load(txn, op.ino)
    check_name(op.name)
    if len(op.value) > XATTR_VALUE_MAX_BYTES:
        raise CairnError(common_pb2.ERROR_CODE_TOO_BIG, f"value of {len(op.value)} bytes")
    if op.flags & ~(_CREATE | _REPLACE):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"flags {op.flags}")
    inode, value = _interpret(inode, op)
    inode = _store(txn, op, inode, value)
    inode = tree.attributes_changed(inode, env.now_ns)
    tree.save(txn, op.ino, inode)
    return pb.AttrReply(attr=inode.to_attr(op.ino))


def _interpret(inode: Inode, op: pb.SetXattr) -> tuple[Inode, bytes | None]:
    """The inode with its mode as the attribute wants it, and the value to store, if any."""
    if op.name not in (acl.ACCESS_NAME, acl.DEFAULT_NAME):
        return inode, op.value
    if stat.S_ISLNK(inode.mode):
        raise CairnError(common_pb2.ERROR_CODE_NOT_SUPPORTED, "access control list of a symbolic link")
    entries = acl.parse(op.value)
    if op.name == acl.DEFAULT_NAME:
        if entries and not tree.is_directory(inode):
            raise CairnError(common_pb2.ERROR_CODE_ACCESS, "default list of what is no directory")
    elif entries:
        inode = inode._replace(mode=acl.mode_of(entries, inode.mode))
        if acl.is_minimal(entries):
            return inode, None
    return inode, acl.serialise(entries) if entries else None


def _store(txn: Transaction, op: pb.SetXattr, inode: Inode, value: bytes | None) -> Inode:
    """Write or remove the attribute; the inode comes back with its new count."""
    key = keys.xattr(op.ino, op.name)
    exists = inode.xattrs > 0 and txn.get(key) is not None
    if op.flags & _CREATE and exists:
        raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{op.name!r} of inode {op.ino}")
    if op.flags & _REPLACE and not exists:
        raise CairnError(common_pb2.ERROR_CODE_NO_DATA, f"{op.name!r} of inode {op.ino}")
    if value is None:
        txn.delete(key)
        return inode._replace(xattrs=inode.xattrs - int(exists))
    if not exists:
        listed = sum(len(name) + 1 for name in list_names(txn, op.ino)) if inode.xattrs else 0
        if listed + len(op.name) + 1 > XATTR_LIST_MAX_BYTES:
            raise CairnError(common_pb2.ERROR_CODE_NO_SPACE, "too many extended attributes")
    txn.put(key, value)
    return inode._replace(xattrs=inode.xattrs + int(not exists))


SPEC = OperationSpec("set_xattr", "attr", run, footprint)
