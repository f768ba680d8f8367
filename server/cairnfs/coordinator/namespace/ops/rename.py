"""rename: move an entry, replace another by it, or exchange the two, atomically."""

from dataclasses import dataclass

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import TRASH_INO
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import realms, trash, tree
from cairnfs.coordinator.namespace.operation import Env, Footprint, OperationSpec, Touch
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

NOREPLACE = 1
EXCHANGE = 2


@dataclass(slots=True)
class _Move:
    """What a rename found; `parent` and `new_parent` change while it is carried out."""

    parent: Inode
    new_parent: Inode
    source: Dentry
    moved: Inode
    target: Dentry | None
    replaced: Inode | None


def footprint(txn: ReadTransaction, op: pb.Rename) -> Footprint:
    """Both entries, and the attributes of what they lead to."""
    if op.parent == op.new_parent:
        touches = [Touch(op.parent, names=(op.name, op.new_name))]
    else:
        touches = [Touch(op.parent, names=(op.name,)), Touch(op.new_parent, names=(op.new_name,))]
    found = (
        tree.find_entry(txn, op.parent, op.name),
        tree.find_entry(txn, op.new_parent, op.new_name),
    )
    inos = {entry.ino for entry in found if entry is not None}
    touches += [Touch(ino, attributes_only=True) for ino in sorted(inos)]
    return Footprint(tuple(touches))


def run(txn: Transaction, op: pb.Rename, env: Env) -> pb.RenameReply:
    """Rename as renameat2(2) does.

    Raises CairnError NOT_FOUND, NOT_DIRECTORY, IS_DIRECTORY, EXISTS (NOREPLACE), NOT_EMPTY, INVALID (a
    directory into itself, bad names or flags), TOO_MANY_LINKS, NAME_TOO_LONG, CROSS_DEVICE, BUSY, QUOTA,
    NOT_PERMITTED (a reserved name).
    """
    if op.flags == EXCHANGE and op.parent == TRASH_INO:
        raise CairnError(common_pb2.ERROR_CODE_NOT_PERMITTED, "only what is removed comes into the trash")
    if op.flags not in (0, NOREPLACE, EXCHANGE):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"flags {op.flags}")
    tree.check_users_name(op.parent, op.name)
    tree.check_users_name(op.new_parent, op.new_name)
    move = _find(txn, op, env)
    if move.target is not None and move.target.ino == move.source.ino:
        return _reply(op, move, None)
    if op.flags == EXCHANGE:
        return _exchange(txn, op, env, move)
    return _move(txn, op, env, move)


def _find(txn: Transaction, op: pb.Rename, env: Env) -> _Move:
    parent = tree.load_directory(txn, op.parent)
    new_parent = tree.load_living_directory(txn, op.new_parent)
    source = tree.require_entry(txn, op.parent, op.name)
    target = tree.find_entry(txn, op.new_parent, op.new_name)
    if op.flags == NOREPLACE and target is not None:
        raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{op.new_name!r} in {op.new_parent}")
    if op.flags == EXCHANGE and target is None:
        raise CairnError(common_pb2.ERROR_CODE_NOT_FOUND, f"{op.new_name!r} in {op.new_parent}")
    tree.require_cover(env, source.ino)
    replaced = None
    if target is not None:
        tree.require_cover(env, target.ino)
        replaced = tree.load_target(txn, target)
    move = _Move(parent, new_parent, source, tree.load_target(txn, source), target, replaced)
    trash.require_shown(txn, op.parent, source.ino, move.moved, env.caller)
    if op.parent != op.new_parent:
        _check_ancestry(txn, op, move)
    return move


def _check_ancestry(txn: Transaction, op: pb.Rename, move: _Move) -> None:
    """No directory may come to lie in itself, and none that holds the source can be replaced.

    Sessions change nothing in their own memory that this depends on: docs/internals/leases.md.
    """
    if tree.is_directory(move.moved) and _is_above(txn, move.source.ino, op.new_parent):
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "a directory cannot move into itself")
    if move.target is None or move.replaced is None or not tree.is_directory(move.replaced):
        return
    if _is_above(txn, move.target.ino, op.parent):
        exchange = op.flags == EXCHANGE
        code = common_pb2.ERROR_CODE_INVALID if exchange else common_pb2.ERROR_CODE_NOT_EMPTY
        raise CairnError(code, "the target holds the source")


def _is_above(txn: Transaction, ancestor: int, directory: int) -> bool:
    """Whether `ancestor` is `directory` or one above it."""
    while directory != ancestor:
        parent = tree.load_directory(txn, directory).parent
        if parent == directory:
            return False
        directory = parent
    return True


def _exchange(txn: Transaction, op: pb.Rename, env: Env, move: _Move) -> pb.RenameReply:
    assert move.target is not None
    assert move.replaced is not None
    shift = tree.is_directory(move.moved) - tree.is_directory(move.replaced)
    _shift_links(op, move, parent=-shift, new_parent=shift)
    txn.put(keys.dentry(op.parent, op.name), move.target.encode())
    txn.put(keys.dentry(op.new_parent, op.new_name), move.source.encode())
    _save_parents(txn, op, env, move)
    move.moved = _placed(txn, move.source.ino, move.moved, op.new_parent, move.new_parent.realm, env)
    move.replaced = _placed(txn, move.target.ino, move.replaced, op.parent, move.parent.realm, env)
    return _reply(op, move, move.replaced)


def _move(txn: Transaction, op: pb.Rename, env: Env, move: _Move) -> pb.RenameReply:
    moves_directory = tree.is_directory(move.moved)
    replaces = 0
    if move.target is not None and move.replaced is not None:
        _check_replaceable(txn, move.target.ino, move.replaced, moves_directory)
        realms.check_removable(move.target.ino, move.replaced)
        replaces = int(moves_directory)
    _shift_links(op, move, parent=-int(moves_directory), new_parent=int(moves_directory) - replaces)
    txn.delete(keys.dentry(op.parent, op.name))
    txn.put(keys.dentry(op.new_parent, op.new_name), move.source.encode())
    _save_parents(txn, op, env, move)
    move.moved = _placed(txn, move.source.ino, move.moved, op.new_parent, move.new_parent.realm, env)
    trash.taken_out(txn, op.parent, move.source.ino)
    if move.target is not None and move.replaced is not None:
        move.replaced = trash.remove_name(
            txn, op.new_parent, op.new_name, move.target.ino, move.replaced, env
        )
    return _reply(op, move, move.replaced)


def _check_replaceable(txn: Transaction, ino: int, replaced: Inode, moves_directory: bool) -> None:
    if tree.is_directory(replaced) and not moves_directory:
        raise CairnError(common_pb2.ERROR_CODE_IS_DIRECTORY, "a file cannot replace a directory")
    if not tree.is_directory(replaced) and moves_directory:
        raise CairnError(common_pb2.ERROR_CODE_NOT_DIRECTORY, "a directory cannot replace a file")
    if moves_directory and not tree.is_empty(txn, ino):
        raise CairnError(common_pb2.ERROR_CODE_NOT_EMPTY, "the directory to replace is not empty")


def _shift_links(op: pb.Rename, move: _Move, *, parent: int, new_parent: int) -> None:
    """Adjust both parents' counts of subdirectories by these differences."""
    if op.parent == op.new_parent:
        parent = new_parent = parent + new_parent
    if parent > 0:
        tree.check_links(move.parent)
    if new_parent > 0:
        tree.check_links(move.new_parent)
    parent = tree.links_of(op.parent, parent)
    move.parent = move.parent._replace(nlink=move.parent.nlink + parent)
    move.new_parent = move.new_parent._replace(nlink=move.new_parent.nlink + new_parent)


def _save_parents(txn: Transaction, op: pb.Rename, env: Env, move: _Move) -> None:
    move.new_parent = tree.entries_changed(move.new_parent, env.now_ns)
    tree.save(txn, op.new_parent, move.new_parent)
    if op.parent == op.new_parent:
        move.parent = move.new_parent
    else:
        move.parent = tree.entries_changed(move.parent, env.now_ns)
        tree.save(txn, op.parent, move.parent)


def _placed(txn: Transaction, ino: int, inode: Inode, parent: int, realm: int, env: Env) -> Inode:
    inode = tree.attributes_changed(inode, env.now_ns)
    if tree.is_directory(inode):
        inode = inode._replace(parent=parent)
    inode = realms.place(txn, ino, inode, realm, env)
    tree.save(txn, ino, inode)
    return inode


def _reply(op: pb.Rename, move: _Move, replaced: Inode | None) -> pb.RenameReply:
    reply = pb.RenameReply()
    move.parent.fill(reply.parent, op.parent)
    move.new_parent.fill(reply.new_parent, op.new_parent)
    move.moved.fill(reply.moved, move.source.ino)
    if replaced is not None and move.target is not None:
        replaced.fill(reply.replaced, move.target.ino)
    return reply


SPEC = OperationSpec("rename", "rename", run, footprint)
