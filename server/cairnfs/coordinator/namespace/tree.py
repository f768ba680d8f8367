"""What all operations share: inodes and directory entries, found, checked, linked and unlinked."""

import stat
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import LINK_MAX, NAME_MAX_BYTES, ROOT_INO, SNAPSHOTS_REALM, TRASH_INO
from cairnfs.base.reserved import is_hidden
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace.operation import Env, FootprintChanged
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb, metadata_pb2 as pb2

DIRECTORY_SIZE_BYTES: Final = 4096  # what stat reports for every directory, as ext4's smallest
DIRECTORY_KIND: Final = stat.S_IFDIR >> 12


def check_name(name: bytes) -> None:
    """Refuse what cannot be the name of an entry: CairnError INVALID or NAME_TOO_LONG."""
    if len(name) > NAME_MAX_BYTES:
        raise CairnError(pb.ERROR_CODE_NAME_TOO_LONG, f"{len(name)} bytes")
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise CairnError(pb.ERROR_CODE_INVALID, f"name {name!r}")


def check_users_name(directory: int, name: bytes) -> None:
    """Refuse also what users may neither give nor take: NOT_PERMITTED for a reserved name."""
    check_name(name)
    if is_hidden(directory, name):
        raise CairnError(pb.ERROR_CODE_NOT_PERMITTED, f"the name {name!r} is reserved")


def names_of_path(path: str) -> list[bytes]:
    """The names on the way from the root to `path`, for which leading and double slashes mean nothing."""
    return [name for name in path.encode(errors="surrogateescape").split(b"/") if name]


def walk(txn: ReadTransaction, path: str) -> list[int]:
    """The inodes from the root to that of `path`. Raises CairnError NOT_FOUND, NOT_DIRECTORY."""
    way = [ROOT_INO]
    for name in names_of_path(path):
        load_directory(txn, way[-1])
        entry = find_entry(txn, way[-1], name)
        if entry is None:
            raise CairnError(pb.ERROR_CODE_NOT_FOUND, f"there is no {path}")
        way.append(entry.ino)
    return way


def is_directory(inode: Inode) -> bool:
    """Whether `inode` is a directory."""
    return stat.S_ISDIR(inode.mode)


def find_inode(txn: ReadTransaction, ino: int) -> Inode | None:
    """The inode with this number, or None."""
    value = txn.get(keys.inode(ino))
    return None if value is None else Inode.decode(value)


def load(txn: ReadTransaction, ino: int) -> Inode:
    """The inode with this number. Raises CairnError NOT_FOUND."""
    value = txn.get(keys.inode(ino))
    if value is None:
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, f"inode {ino}")
    return Inode.decode(value)


def load_directory(txn: ReadTransaction, ino: int) -> Inode:
    """The directory with this number, also a removed one. Raises CairnError NOT_FOUND, NOT_DIRECTORY."""
    inode = load(txn, ino)
    if not stat.S_ISDIR(inode.mode):
        raise CairnError(pb.ERROR_CODE_NOT_DIRECTORY, f"inode {ino}")
    return inode


def load_living_directory(txn: ReadTransaction, ino: int) -> Inode:
    """A directory that can take entries: NOT_FOUND also when it was removed, NOT_PERMITTED for the trash."""
    inode = load_directory(txn, ino)
    if ino == TRASH_INO:
        raise CairnError(pb.ERROR_CODE_NOT_PERMITTED, "only what is removed comes into the trash")
    if inode.nlink == 0 or inode.realm == TRASH_INO:
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, f"directory {ino} was removed")
    return inode


def load_regular(txn: ReadTransaction, ino: int) -> Inode:
    """The regular file with this number. Raises CairnError NOT_FOUND, IS_DIRECTORY, INVALID."""
    inode = load(txn, ino)
    if stat.S_ISDIR(inode.mode):
        raise CairnError(pb.ERROR_CODE_IS_DIRECTORY, f"inode {ino}")
    if not stat.S_ISREG(inode.mode):
        raise CairnError(pb.ERROR_CODE_INVALID, f"inode {ino} is not a regular file")
    return inode


def save(txn: Transaction, ino: int, inode: Inode) -> None:
    """Write an inode. Raises CairnError READ_ONLY for one of a snapshot, unless it is being reaped."""
    if inode.realm == SNAPSHOTS_REALM and inode.nlink:
        raise CairnError(pb.ERROR_CODE_READ_ONLY, f"inode {ino} is of a snapshot")
    txn.put(keys.inode(ino), inode.encode())


def store(txn: Transaction, ino: int, inode: Inode) -> None:
    """Write an inode, also of a snapshot: for who makes, mends or removes it."""
    txn.put(keys.inode(ino), inode.encode())


def check_changeable(ino: int, inode: Inode) -> None:
    """Raise CairnError READ_ONLY for an inode of a snapshot."""
    if inode.realm == SNAPSHOTS_REALM:
        raise CairnError(pb.ERROR_CODE_READ_ONLY, f"inode {ino} is of a snapshot")


def find_entry(txn: ReadTransaction, directory: int, name: bytes) -> Dentry | None:
    """The entry `name` of a directory, or None."""
    value = txn.get(keys.dentry(directory, name))
    return None if value is None else Dentry.decode(value)


def require_entry(txn: ReadTransaction, directory: int, name: bytes) -> Dentry:
    """The entry `name` of a directory. Raises CairnError NOT_FOUND."""
    entry = find_entry(txn, directory, name)
    if entry is None:
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, f"{name!r} in {directory}")
    return entry


def load_target(txn: ReadTransaction, entry: Dentry) -> Inode:
    """The inode of an entry. Raises CairnError IO when there is none: the metadata is damaged."""
    inode = find_inode(txn, entry.ino)
    if inode is None:
        raise CairnError(pb.ERROR_CODE_IO, f"an entry leads to the missing inode {entry.ino}")
    return inode


def is_empty(txn: ReadTransaction, directory: int) -> bool:
    """Whether a directory has no entry."""
    return next(iter(txn.scan(*keys.dentry_range(directory), limit=1)), None) is None


def require_cover(env: Env, ino: int) -> None:
    """Raise FootprintChanged unless other sessions were asked to give up `ino`."""
    if not env.footprint.covers(ino):
        raise FootprintChanged


def check_links(inode: Inode) -> None:
    """Raise CairnError TOO_MANY_LINKS when `inode` cannot take one link more."""
    if inode.nlink >= LINK_MAX:
        raise CairnError(pb.ERROR_CODE_TOO_MANY_LINKS)


def entries_changed(directory: Inode, now_ns: int, links: int = 0) -> Inode:
    """A directory after an entry came or went; `links` is the change of its number of subdirectories."""
    return directory._replace(
        nlink=directory.nlink + links, mtime_ns=now_ns, ctime_ns=now_ns, change=directory.change + 1
    )


def links_of(directory: int, subdirectories: int) -> int:
    """By how much `nlink` of a directory changes when its number of subdirectories changes by so many."""
    return 0 if directory == TRASH_INO else subdirectories


def without_privilege(mode: int) -> int:
    """A file's mode without what lets its runner act as its owner or group; a directory's stays as it is."""
    if stat.S_ISDIR(mode):
        return mode
    mode &= ~stat.S_ISUID
    # Without group execution the bit once meant mandatory locking; Linux leaves it alone.
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def attr_reply(ino: int, inode: Inode) -> pb2.AttrReply:
    """What is told of an inode."""
    reply = pb2.AttrReply()
    inode.fill(reply.attr, ino)
    return reply


def entry_reply(ino: int, inode: Inode, parent: int, directory: Inode) -> pb2.EntryReply:
    """What a new entry is answered with."""
    reply = pb2.EntryReply()
    inode.fill(reply.attr, ino)
    directory.fill(reply.parent, parent)
    return reply


def remove_reply(ino: int, inode: Inode, parent: int, directory: Inode) -> pb2.RemoveReply:
    """What the removal of an entry is answered with."""
    reply = pb2.RemoveReply()
    inode.fill(reply.attr, ino)
    directory.fill(reply.parent, parent)
    return reply


def attributes_changed(inode: Inode, now_ns: int) -> Inode:
    """An inode after a change of its attributes, links or name."""
    return inode._replace(ctime_ns=now_ns, change=inode.change + 1)


def content_changed(inode: Inode, now_ns: int) -> Inode:
    """A file after a change of its content or size."""
    return inode._replace(mtime_ns=now_ns, ctime_ns=now_ns, change=inode.change + 1)
