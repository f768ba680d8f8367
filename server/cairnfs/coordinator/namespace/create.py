"""How every new inode comes to be: owner, permissions, access lists, its entry and its directory's times."""

import stat
from typing import NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import acl, tree, usage
from cairnfs.coordinator.namespace.operation import Env, Footprint, Touch
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def footprint(parent: int, name: bytes) -> Footprint:
    """What the creation of an entry changes."""
    return Footprint((Touch(parent, names=(name,)),))


class Made(NamedTuple):
    """A new inode, and its directory after the change."""

    inode: Inode
    directory: Inode


def reply_to(made: Made, env: Env, parent: int) -> pb.EntryReply:
    """What the creation is answered with."""
    return tree.entry_reply(env.new_ino, made.inode, parent, made.directory)


def create_inode(
    txn: Transaction, env: Env, parent: int, name: bytes, mode: int, *, rdev: int = 0, size: int = 0
) -> Made:
    """Make inode `env.new_ino` of `mode` (type and permissions before umask) as entry `name` of `parent`.

    The set-group-ID bit of a file made by a stranger to the group is the kernel's business. Raises
    CairnError INVALID, NAME_TOO_LONG, NOT_PERMITTED (a reserved name), NOT_FOUND, NOT_DIRECTORY, EXISTS,
    TOO_MANY_LINKS, QUOTA.
    """
    tree.check_users_name(parent, name)
    directory = tree.load_living_directory(txn, parent)
    if tree.find_entry(txn, parent, name) is not None:
        raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{name!r} in {parent}")
    tree.require_cover(env, parent)
    is_directory = stat.S_ISDIR(mode)
    if is_directory:
        tree.check_links(directory)
    mode, xattrs = _permissions(txn, env, parent, directory, mode)
    inherits_group = bool(directory.mode & stat.S_ISGID)
    inode = Inode(
        mode=mode | stat.S_ISGID if is_directory and inherits_group else mode,
        uid=env.caller.uid,
        gid=directory.gid if inherits_group else env.caller.gid,
        nlink=2 if is_directory else 1,
        rdev=rdev,
        size=tree.DIRECTORY_SIZE_BYTES if is_directory else size,
        allocated_bytes=0,
        atime_ns=env.now_ns,
        mtime_ns=env.now_ns,
        ctime_ns=env.now_ns,
        change=1,
        xattrs=len(xattrs),
        parent=parent if is_directory else 0,
        realm=directory.realm,
    )
    directory = tree.entries_changed(directory, env.now_ns, links=int(is_directory))
    tree.save(txn, env.new_ino, inode)
    tree.save(txn, parent, directory)
    txn.put(keys.dentry(parent, name), Dentry(env.new_ino, mode >> 12).encode())
    for xattr_name, value in xattrs.items():
        txn.put(keys.xattr(env.new_ino, xattr_name), value)
    usage.change(txn, directory.realm, inodes=1, forced=env.forced)
    return Made(inode, directory)


def empty_directory(
    parent: int, realm: int, permissions: int, now_ns: int, *, uid: int = 0, gid: int = 0
) -> Inode:
    """The record of a directory that nobody has made by mkdir(2)."""
    return Inode(
        mode=stat.S_IFDIR | permissions,
        uid=uid,
        gid=gid,
        nlink=2,
        rdev=0,
        size=tree.DIRECTORY_SIZE_BYTES,
        allocated_bytes=0,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        change=1,
        xattrs=0,
        parent=parent,
        realm=realm,
    )


def create_hidden(
    txn: Transaction, now_ns: int, parent: int, name: bytes, ino: int, *, permissions: int, realm: int
) -> Inode:
    """Make the hidden directory `name` (base/reserved.py) of root's in `parent`, which shows no sign of it.

    The caller has had others give up `Touch(parent, names=(name,))`. Its usage counts to `realm`.
    """
    directory = tree.load_living_directory(txn, parent)
    inode = empty_directory(parent, realm, permissions, now_ns)
    tree.store(txn, ino, inode)
    tree.save(txn, parent, directory._replace(change=directory.change + 1))
    txn.put(keys.dentry(parent, name), Dentry(ino, tree.DIRECTORY_KIND).encode())
    usage.change(txn, realm, inodes=1, forced=True)
    return inode


def _permissions(
    txn: Transaction, env: Env, parent: int, directory: Inode, mode: int
) -> tuple[int, dict[bytes, bytes]]:
    """The mode of a new inode and the access lists it starts with."""
    if stat.S_ISLNK(mode):
        return mode, {}
    value = txn.get(keys.xattr(parent, acl.DEFAULT_NAME)) if directory.xattrs else None
    if value is None:
        return mode & ~(env.caller.umask & 0o777), {}
    access, mode = acl.inherit(acl.parse(value), mode)
    xattrs = {acl.ACCESS_NAME: acl.serialise(access)} if access else {}
    if stat.S_ISDIR(mode):
        xattrs[acl.DEFAULT_NAME] = value
    return mode, xattrs
