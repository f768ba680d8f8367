"""How `cairnfs fsck --repair` mends what the checker found: one small transaction for each finding.

Each looks again first, so that a finding that is no longer true, or a repair that is run again, does nothing.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, ROOT_INO, SNAPSHOTS_REALM, TRASH_INO
from cairnfs.base.reserved import TRASH, is_hidden
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import snapshots, trash, tree, tree_jobs, usage
from cairnfs.coordinator.namespace.create import empty_directory
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.coordinator.records import (
    BlockSlice,
    ChunkRecord,
    ChunkState,
    Dentry,
    Inode,
    decode_slices,
    encode_slices,
)
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb

LOST_AND_FOUND: Final = b"lost+found"
LOST_TARGET: Final = b"lost target"  # of a symbolic link whose own is gone

Apply = Callable[[Transaction, int], bool]


class Mend(NamedTuple):
    """The repair of one finding. `apply(txn, now_ns)` tells whether there was something to mend.

    `touches` are inodes whose leases are recalled first. What is `doubtful` compares one record with many
    others, which may change meanwhile: it is mended when two checks in a row find the same.
    """

    finding: str
    touches: tuple[int, ...]
    apply: Apply
    doubtful: bool = False


# ------------------------------------------------------------------ names


def remove_entry(directory: int, name: bytes, entry: Dentry) -> Apply:
    """An entry that leads nowhere, or that is in a directory which does not exist."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        if tree.find_entry(txn, directory, name) != entry:
            return False
        parent = tree.find_inode(txn, directory)
        if parent is not None and tree.find_inode(txn, entry.ino) is not None:
            return False
        _delete_entry(txn, directory, name, entry, parent, now_ns)
        return True

    return apply


def _delete_entry(
    txn: Transaction, directory: int, name: bytes, entry: Dentry, parent: Inode | None, now_ns: int
) -> None:
    txn.delete(keys.dentry(directory, name))
    if parent is not None:
        counted = entry.kind == tree.DIRECTORY_KIND and not is_hidden(directory, name)
        links = tree.links_of(directory, -1 if counted and parent.nlink > 2 else 0)
        tree.store(txn, directory, tree.entries_changed(parent, now_ns, links))


def correct_entry(directory: int, name: bytes, ino: int) -> Apply:
    """An entry that says another type than its inode, or leads to a directory with another parent."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        entry, inode = tree.find_entry(txn, directory, name), tree.find_inode(txn, ino)
        if entry is None or inode is None or entry.ino != ino:
            return False
        kind = inode.mode >> 12
        if entry.kind != kind:
            txn.put(keys.dentry(directory, name), Dentry(ino, kind).encode())
        elif not tree.is_directory(inode) or inode.parent == directory:
            return False
        elif _has_entry(txn, inode.parent, ino):  # a second name, which no directory can have
            _delete_entry(txn, directory, name, entry, tree.find_inode(txn, directory), now_ns)
        else:
            tree.store(txn, ino, tree.attributes_changed(inode._replace(parent=directory), now_ns))
        return True

    return apply


def remove_second_name(directory: int, first: bytes, second: bytes) -> Apply:
    """Two names of one directory in another one: the second goes."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        entry = tree.find_entry(txn, directory, second)
        if entry is None or tree.find_entry(txn, directory, first) != entry:
            return False
        _delete_entry(txn, directory, second, entry, tree.find_inode(txn, directory), now_ns)
        return True

    return apply


def _has_entry(txn: ReadTransaction, directory: int, ino: int) -> bool:
    return any(Dentry.decode(value).ino == ino for _, value in txn.scan(*keys.dentry_range(directory)))


# ------------------------------------------------------------------ inodes


def attach(ino: int, change: int) -> Apply:
    """An inode without a name: into lost+found, or with `nlink` 0 among the orphans, which are reaped."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        inode = tree.find_inode(txn, ino)
        if inode is None or inode.change != change:
            return False
        if inode.nlink == 0:
            txn.put(keys.orphan(ino), b"")
            return True
        if ino == TRASH_INO:
            txn.put(keys.dentry(ROOT_INO, TRASH), Dentry(ino, tree.DIRECTORY_KIND).encode())
            return True
        home = _lost_and_found(txn, now_ns)
        if inode.realm == SNAPSHOTS_REALM:  # where `cairnfs snapshot delete` can take it away
            tree_jobs.make_realm(txn)  # which may be lost as well
            home = snapshots.shelf(txn, home, now_ns)
        is_directory = tree.is_directory(inode)
        txn.put(keys.dentry(home, b"#%d" % ino), Dentry(ino, inode.mode >> 12).encode())
        tree.store(txn, home, tree.entries_changed(tree.load(txn, home), now_ns, int(is_directory)))
        inode = inode._replace(parent=home) if is_directory else inode._replace(nlink=1)
        is_border = inode.realm in (ROOT_INO, SNAPSHOTS_REALM, ino)
        if inode.realm == TRASH_INO or not (is_border or is_directory):
            moved = usage.Usage(1, inode.allocated_bytes)
            usage.move(txn, inode.realm, ROOT_INO, moved, forced=True)
            inode = inode._replace(realm=ROOT_INO)
        tree.store(txn, ino, tree.attributes_changed(inode, now_ns))
        return True

    return apply


def _lost_and_found(txn: Transaction, now_ns: int) -> int:
    """The number of that directory, made when missing. Raises CairnError EXISTS when it is none."""
    entry = tree.find_entry(txn, ROOT_INO, LOST_AND_FOUND)
    if entry is not None:
        if entry.kind != tree.DIRECTORY_KIND:
            raise CairnError(pb.ERROR_CODE_EXISTS, "/lost+found is not a directory")
        return entry.ino
    root = tree.load(txn, ROOT_INO)
    (ino,) = reserve_inode_numbers(txn, 1)
    tree.store(txn, ino, empty_directory(ROOT_INO, ROOT_INO, 0o700, now_ns, uid=root.uid, gid=root.gid))
    txn.put(keys.dentry(ROOT_INO, LOST_AND_FOUND), Dentry(ino, tree.DIRECTORY_KIND).encode())
    tree.store(txn, ROOT_INO, tree.entries_changed(root, now_ns, 1))
    usage.change(txn, ROOT_INO, inodes=1, forced=True)
    return ino


def set_links(ino: int, change: int, links: int) -> Apply:
    """An inode that miscounts its names."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        inode = tree.find_inode(txn, ino)
        if inode is None or inode.change != change or links == 0:
            return False
        tree.store(txn, ino, tree.attributes_changed(inode._replace(nlink=links), now_ns))
        return True

    return apply


def count_allocated(ino: int) -> Apply:
    """An inode that miscounts the bytes that it holds. What is in use in all is counted apart from that."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        inode = tree.find_inode(txn, ino)
        held = sum(
            one.length for _, value in txn.scan(*keys.extent_range(ino)) for one in decode_slices(value)
        )
        if inode is None or inode.allocated_bytes == held:
            return False
        tree.store(txn, ino, tree.attributes_changed(inode._replace(allocated_bytes=held), now_ns))
        return True

    return apply


def count_xattrs(ino: int) -> Apply:
    """An inode that miscounts its extended attributes."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        inode = tree.find_inode(txn, ino)
        count = sum(1 for _ in txn.scan(*keys.xattr_range(ino)))
        if inode is None or inode.xattrs == count:
            return False
        tree.store(txn, ino, tree.attributes_changed(inode._replace(xattrs=count), now_ns))
        return True

    return apply


def give_target(ino: int) -> Apply:
    """A symbolic link whose target is gone gets one that says so."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        if tree.find_inode(txn, ino) is None or txn.get(keys.symlink(ino)) is not None:
            return False
        txn.put(keys.symlink(ino), LOST_TARGET)
        return True

    return apply


# ------------------------------------------------------------------ data


def is_bad(one: BlockSlice, end: int) -> bool:
    """Whether a slice overlaps those before it, which end at `end`, or exceeds its block or its chunk."""
    return one.offset < end or one.chunk_offset + one.length > one.chunk_length or one.end > BLOCK_BYTES


def drop_slices(ino: int, block: int) -> Apply:
    """Slices of a missing inode, or bad ones: they go, and a hole is left."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        value = txn.get(keys.extent(ino, block))
        inode = tree.find_inode(txn, ino)
        kept: list[BlockSlice] = []
        dropped: list[BlockSlice] = []
        for one in decode_slices(value or b""):
            bad = inode is None or is_bad(one, kept[-1].end if kept else 0)
            (dropped if bad else kept).append(one)
        if not dropped:
            return False
        for one in dropped:
            _drop_reference(txn, one.chunk_id, now_ns)
        if kept:
            txn.put(keys.extent(ino, block), encode_slices(kept))
        else:
            txn.delete(keys.extent(ino, block))
        if inode is not None:
            tree.store(txn, ino, tree.content_changed(inode, now_ns))
        return True

    return apply


def _drop_reference(txn: Transaction, chunk_id: bytes, now_ns: int) -> None:
    record = chunk_table.get_chunk(txn, chunk_id)
    if record is not None and record.references > 0:
        chunk_table.drop_reference(txn, chunk_id, now_ns)


def set_references(chunk_id: bytes, seen: int, counted: int) -> Apply:
    """A chunk that miscounts the slices that name it."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        record = chunk_table.get_chunk(txn, chunk_id)
        if record is None or record.references != seen:
            return False
        state = ChunkState.LIVE if counted else record.state
        since_ns = 0 if counted else now_ns
        changed = record._replace(references=counted, state=state, garbage_since_ns=since_ns)
        chunk_table.put_chunk(txn, chunk_id, changed)
        return True

    return apply


def restore_record(chunk_id: bytes, length: int, counted: int) -> Apply:
    """Slices name a chunk without a record: nodes that still have it will say so in their reports."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        if chunk_table.get_chunk(txn, chunk_id) is not None:
            return False
        chunk_table.put_chunk(txn, chunk_id, ChunkRecord(length, counted, ChunkState.LIVE, 0, ()))
        return True

    return apply


def list_as_garbage(chunk_id: bytes) -> Apply:
    """A chunk without references that is not listed among the garbage."""

    def apply(txn: Transaction, now_ns: int) -> bool:
        record = chunk_table.get_chunk(txn, chunk_id)
        if record is None or record.references > 0:
            return False
        chunk_table.put_chunk(txn, chunk_id, record._replace(garbage_since_ns=now_ns))
        return True

    return apply


def unlist_garbage(since_ns: int, chunk_id: bytes) -> Apply:
    """An entry of the garbage index whose chunk is not garbage since then."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        if is_listed_rightly(txn, since_ns, chunk_id):
            return False
        txn.delete(keys.garbage(since_ns, chunk_id))
        return True

    return apply


def is_listed_rightly(txn: ReadTransaction, since_ns: int, chunk_id: bytes) -> bool:
    """Whether the chunk is garbage since that time."""
    record = chunk_table.get_chunk(txn, chunk_id)
    return record is not None and record.references == 0 and record.garbage_since_ns == since_ns


def delete_replies(session_id: str, replies: list[bytes]) -> Apply:
    """Recorded replies (their keys) to a session that does not exist."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        left = [key for key, value in txn.get_many(replies).items() if value is not None]
        if not left or not is_without_session(txn, session_id):
            return False
        for key in left:
            txn.delete(key)
        return True

    return apply


def is_without_session(txn: ReadTransaction, session_id: str) -> bool:
    """Whether there is no such session, nor one that has ended and whose replies are being deleted."""
    found = txn.get_many((keys.session(session_id), keys.ended_session(session_id)))
    return not any(value is not None for value in found.values())


# ------------------------------------------------------------------ trash


def remove_from_trash(name: bytes, entry: Dentry) -> Apply:
    """An entry of the trash of which nothing is known: its inode comes into lost+found later."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        if tree.find_entry(txn, TRASH_INO, name) != entry or trash.is_recorded(txn, name, entry.ino):
            return False
        txn.delete(keys.dentry(TRASH_INO, name))
        return True

    return apply


def forget_trashed(ino: int) -> Apply:
    """A record of something that is not in the trash."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        record = trash.find_record(txn, ino)
        if record is None or not trash.is_stray(txn, ino, record):
            return False
        trash.forget(txn, ino)
        return True

    return apply


def list_trash_end(ino: int) -> Apply:
    """An inode that would stay in the trash for ever."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        record = trash.find_record(txn, ino)
        if record is None or txn.get(keys.trash_end(record.expires_ns, ino)) is not None:
            return False
        trash.write_record(txn, ino, record)
        return True

    return apply


def unlist_trash_end(ino: int, end_ns: int) -> Apply:
    """A time at which nothing leaves the trash."""

    def apply(txn: Transaction, _now_ns: int) -> bool:
        key = keys.trash_end(end_ns, ino)
        if txn.get(key) is None or trash.is_end(txn, ino, end_ns):
            return False
        txn.delete(key)
        return True

    return apply
