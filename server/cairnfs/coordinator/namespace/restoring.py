"""Out of the trash and back into the tree, with the removed directories that something was in.

A restoration is planned on a snapshot, so that leases on what it changes can be recalled, and planned again
in its transaction, which refuses to change anything else.
"""

from typing import Final, NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import ROOT_INO, TRASH_INO, TRASH_PATH_PARTS_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import realms, trash, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, Touch
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb, metadata_pb2 as pb2

_WRITE_AND_SEARCH: Final = 3
_SEARCH: Final = 1


class Move(NamedTuple):
    """An entry of the trash and where it goes."""

    entry: bytes
    ino: int
    parent: int
    name: bytes


def plan(txn: ReadTransaction, entry: bytes, to: str, caller: pb2.Caller) -> list[Move]:
    """What restores an entry of the trash to the path `to`, or with an empty one to where it was.

    Directories that it was in and that are in the trash, too, come first; one whose place another directory
    has taken is not restored: that one is used. Raises CairnError NOT_FOUND (there is no such entry, or the
    directory that it was in is gone for good), EXISTS, NOT_DIRECTORY, ACCESS.
    """
    found = trash.find_shown(txn, entry, caller)
    record = trash.find_record(txn, found.ino) if found is not None else None
    if found is None or record is None:
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, f"there is no {_text(entry)} in the trash")
    moves: list[Move] = []
    if to:
        parent, name = _target(txn, to, record.name, caller)
    else:
        parent, name = _home(txn, record.parent, moves, caller), record.name
    _check_free(txn, parent, name)
    if not any(move.ino == parent for move in moves):
        _check_access(tree.load_directory(txn, parent), caller, _WRITE_AND_SEARCH)
    return [*moves, Move(entry, found.ino, parent, name)]


def footprint(moves: list[Move]) -> Footprint:
    """What these moves change. Restored directories get entries, too: nobody may know them as empty."""
    *directories, last = [move.ino for move in moves]
    touches = [Touch(move.parent, names=(move.name,)) for move in moves if move.parent not in directories]
    return Footprint((*touches, *map(Touch, directories), Touch(last, attributes_only=True)))


def apply(txn: Transaction, moves: list[Move], env: Env) -> None:
    """Make the moves. Raises CairnError QUOTA, TOO_MANY_LINKS, NOT_FOUND, and FootprintChanged."""
    for move in moves:
        tree.require_cover(env, move.ino)
        tree.require_cover(env, move.parent)
        parent = tree.load_living_directory(txn, move.parent)
        inode = tree.load(txn, move.ino)
        is_directory = tree.is_directory(inode)
        if is_directory:
            tree.check_links(parent)
            inode = inode._replace(parent=move.parent)
        inode = realms.place(txn, move.ino, inode, parent.realm, env)
        tree.save(txn, move.ino, tree.attributes_changed(inode, env.now_ns))
        tree.save(txn, move.parent, tree.entries_changed(parent, env.now_ns, int(is_directory)))
        txn.delete(keys.dentry(TRASH_INO, move.entry))
        trash.taken_out(txn, TRASH_INO, move.ino)
        txn.put(keys.dentry(move.parent, move.name), Dentry(move.ino, inode.mode >> 12).encode())


def _home(txn: ReadTransaction, directory: int, moves: list[Move], caller: pb2.Caller) -> int:
    """The directory that something was in, as it will be when `moves` are made; adds what brings it back."""
    inode = tree.find_inode(txn, directory)
    if inode is None or not tree.is_directory(inode) or inode.nlink == 0:
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, "the directory that it was in is gone for good")
    if inode.realm != TRASH_INO:
        return directory
    record = trash.find_record(txn, directory)
    if record is None or len(moves) >= TRASH_PATH_PARTS_MAX:
        raise CairnError(pb.ERROR_CODE_NOT_FOUND, "the directory that it was in cannot be restored")
    parent = _home(txn, record.parent, moves, caller)
    taken = tree.find_entry(txn, parent, record.name)
    if taken is not None and taken.kind == tree.DIRECTORY_KIND:
        return taken.ino
    if taken is not None:
        raise CairnError(
            pb.ERROR_CODE_EXISTS, f"{_text(record.name)}, the directory that it was in, is a file now"
        )
    if not any(move.ino == parent for move in moves):
        _check_access(tree.load_directory(txn, parent), caller, _WRITE_AND_SEARCH)
    moves.append(Move(trash.entry_name(directory, record), directory, parent, record.name))
    return directory


def _target(txn: ReadTransaction, to: str, own_name: bytes, caller: pb2.Caller) -> tuple[int, bytes]:
    """Directory and name for a path: that of a directory stands for the entry's own name in it."""
    at = ROOT_INO
    names = tree.names_of_path(to)
    for place, name in enumerate(names):
        directory = tree.load_living_directory(txn, at)
        tree.check_users_name(at, name)
        _check_access(directory, caller, _SEARCH)
        entry = tree.find_entry(txn, at, name)
        if entry is None and place == len(names) - 1:
            return at, name
        if entry is None:
            raise CairnError(
                pb.ERROR_CODE_NOT_FOUND, f"there is no directory {_text(name)} on the way to {to}"
            )
        if entry.kind != tree.DIRECTORY_KIND and place == len(names) - 1:
            return at, name
        at = entry.ino
    tree.load_living_directory(txn, at)
    return at, own_name


def _check_free(txn: ReadTransaction, parent: int, name: bytes) -> None:
    if tree.find_entry(txn, parent, name) is not None:
        raise CairnError(pb.ERROR_CODE_EXISTS, f"there is a {_text(name)} again where it was or would be")


def _check_access(directory: Inode, caller: pb2.Caller, wanted: int) -> None:
    """Raise CairnError ACCESS unless the caller has these permissions by the directory's mode."""
    if caller.uid == 0:
        return
    if directory.uid == caller.uid:
        granted = directory.mode >> 6
    elif directory.xattrs:
        granted = 0  # its access list would have to be asked: the kernel does, for who moves an entry
    elif directory.gid == caller.gid or directory.gid in caller.groups:
        granted = directory.mode >> 3
    else:
        granted = directory.mode
    if granted & wanted != wanted:
        raise CairnError(pb.ERROR_CODE_ACCESS, "its directory does not let you write")


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
