"""Snapshots and clones: how they begin, get their names, lose them, and are listed.

docs/internals/snapshots.md has the rules. What happens in between is in copy_tree.py and remove_tree.py.
"""

from typing import Final, NamedTuple

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import COPY_STEP_INODES, SNAPSHOTS_REALM, TREES_COPIED_MAX, TREES_REMOVED_MAX
from cairnfs.base.reserved import SNAPSHOTS
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, tree_jobs
from cairnfs.coordinator.namespace.create import create_hidden
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.coordinator.namespace.operation import Env, Footprint, Touch
from cairnfs.coordinator.records import Dentry, TreeJob, TreeKind, TreeState
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_SHELF_PERMISSIONS: Final = 0o555


class Place(NamedTuple):
    """Where a copy will be found: as `name` in `directory`, or as its snapshot of that name."""

    kind: TreeKind
    directory: int
    name: bytes


class Begun(NamedTuple):
    """A copy that may begin: its number, its realm, numbers for its inodes, and since when it is."""

    number: int
    realm: int
    numbers: range
    now_ns: int


def begin(txn: Transaction, place: Place, now_ns: int) -> Begun:
    """Record that a tree is to be copied to `place`: from now on no chunk is forgotten until that is over.

    Raises CairnError EXISTS, NOT_FOUND, NOT_DIRECTORY, INVALID, NAME_TOO_LONG and NOT_PERMITTED (the name),
    READ_ONLY (in a snapshot), OVERLOADED (too many copies at once).
    """
    realm = _check_place(txn, place)
    jobs = tree_jobs.scan(txn)
    if sum(job.state is TreeState.COPYING for _, job in jobs) >= TREES_COPIED_MAX:
        raise CairnError(
            common_pb2.ERROR_CODE_OVERLOADED, f"{TREES_COPIED_MAX} trees are being copied already"
        )
    for _, job in jobs:
        if Place(job.kind, job.directory, job.name) == place and job.state is TreeState.COPYING:
            raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{_text(place.name)} is being made already")
    if place.kind is TreeKind.SNAPSHOT:
        tree_jobs.make_realm(txn)
    numbers = reserve_inode_numbers(txn, 1 + COPY_STEP_INODES)
    number = numbers[0]
    job = TreeJob(place.kind, TreeState.COPYING, place.directory, number, realm, 0, 0, 0, now_ns, place.name)
    tree_jobs.save(txn, number, job)
    return Begun(number, realm, numbers[1:], now_ns)


def _check_place(txn: ReadTransaction, place: Place) -> int:
    """Refuse a place that cannot be had; returns the realm of what is made there."""
    directory = tree.load_living_directory(txn, place.directory)
    tree.check_changeable(place.directory, directory)
    tree.check_users_name(place.directory, place.name)
    if place.kind is TreeKind.CLONE:
        if tree.find_entry(txn, place.directory, place.name) is not None:
            raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"{_text(place.name)} exists")
        return directory.realm
    home = tree.find_entry(txn, place.directory, SNAPSHOTS)
    if home is not None and tree.find_entry(txn, home.ino, place.name) is not None:
        raise CairnError(common_pb2.ERROR_CODE_EXISTS, f"there is a snapshot {_text(place.name)} already")
    return SNAPSHOTS_REALM


# ------------------------------------------------------------------ names come and go


def footprint(txn: ReadTransaction, place: Place, *others: int) -> Footprint:
    """What the coming or going of a copy's name changes; `others` are inodes that change with it."""
    touches = [Touch(ino) for ino in others]
    if place.kind is TreeKind.CLONE:
        return Footprint((Touch(place.directory, names=(place.name,)), *touches))
    touches.append(Touch(place.directory, names=(SNAPSHOTS,)))
    home = tree.find_entry(txn, place.directory, SNAPSHOTS)
    if home is not None:
        touches.append(Touch(home.ino, names=(place.name,)))
    return Footprint(tuple(touches))


def attach(txn: Transaction, number: int, env: Env) -> None:
    """Give a finished copy its name. All of it appears at once.

    Raises CairnError CONFLICT (it was given up), EXISTS, NOT_FOUND (the directory was removed), BUSY (the
    directory got another policy), TOO_MANY_LINKS, and FootprintChanged.
    """
    job = tree_jobs.load_copying(txn, number)
    place = Place(job.kind, job.directory, job.name)
    realm = _check_place(txn, place)
    if realm != job.realm:
        raise CairnError(common_pb2.ERROR_CODE_BUSY, "the policy of the directory changed meanwhile")
    root = tree.load(txn, number)
    if job.kind is TreeKind.SNAPSHOT:
        found = tree.find_entry(txn, place.directory, SNAPSHOTS)
        tree.require_cover(env, place.directory if found is None else found.ino)
        home = shelf(txn, place.directory, env.now_ns)
        root = root._replace(ctime_ns=job.started_ns)  # when it was made: nothing else tells
    else:
        home = place.directory
        tree.require_cover(env, home)
    directory = tree.load(txn, home)
    is_directory = tree.is_directory(root)
    if is_directory:
        tree.check_links(directory)
        root = root._replace(parent=home)
    tree.store(txn, number, root._replace(change=root.change + 1))
    tree.store(txn, home, tree.entries_changed(directory, env.now_ns, int(is_directory)))
    txn.put(keys.dentry(home, job.name), Dentry(number, root.mode >> 12).encode())
    # Notes on files with several names may be left, which take transactions of their own.
    tree_jobs.save(txn, number, job._replace(state=TreeState.REMOVING, root=0))


def shelf(txn: Transaction, directory: int, now_ns: int) -> int:
    """The hidden directory that holds the snapshots of `directory`, made when there is none."""
    found = tree.find_entry(txn, directory, SNAPSHOTS)
    if found is not None:
        return found.ino
    (ino,) = reserve_inode_numbers(txn, 1)
    create_hidden(
        txn, now_ns, directory, SNAPSHOTS, ino, permissions=_SHELF_PERMISSIONS, realm=SNAPSHOTS_REALM
    )
    return ino


class Detached(NamedTuple):
    """A snapshot without its name: its job, and the directory of snapshots if that went with the last."""

    number: int
    shelf: int


def find(txn: ReadTransaction, place: Place) -> int:
    """The root of a snapshot. Raises CairnError NOT_FOUND, NOT_DIRECTORY."""
    tree.load_directory(txn, place.directory)
    home = tree.find_entry(txn, place.directory, SNAPSHOTS)
    found = tree.find_entry(txn, home.ino, place.name) if home is not None else None
    if found is None:
        raise CairnError(common_pb2.ERROR_CODE_NOT_FOUND, f"there is no snapshot {_text(place.name)}")
    return found.ino


def detach(txn: Transaction, place: Place, env: Env) -> Detached:
    """Take a snapshot out of its directory, to be removed by and by.

    Raises CairnError NOT_FOUND, NOT_DIRECTORY, OVERLOADED (too many wait to be removed), and
    FootprintChanged.
    """
    number = find(txn, place)
    home = tree.require_entry(txn, place.directory, SNAPSHOTS).ino
    for ino in (number, home, place.directory):
        tree.require_cover(env, ino)
    if len(tree_jobs.scan(txn)) >= TREES_REMOVED_MAX:
        raise CairnError(
            common_pb2.ERROR_CODE_OVERLOADED, f"{TREES_REMOVED_MAX} trees are being removed already"
        )
    tree_jobs.save(txn, number, _removing(place, number, env.now_ns))
    txn.delete(keys.dentry(home, place.name))
    left = tree.entries_changed(tree.load(txn, home), env.now_ns, -1)
    if not tree.is_empty(txn, home):
        tree.store(txn, home, left)
        return Detached(number, 0)
    txn.delete(keys.dentry(place.directory, SNAPSHOTS))
    above = tree.load(txn, place.directory)
    tree.store(txn, place.directory, above._replace(change=above.change + 1))
    tree.store(txn, home, left._replace(nlink=0))
    txn.put(keys.orphan(home), b"")
    return Detached(number, home)


def _removing(place: Place, number: int, now_ns: int) -> TreeJob:
    return TreeJob(
        place.kind, TreeState.REMOVING, place.directory, number, SNAPSHOTS_REALM, 0, 0, 0, now_ns, place.name
    )


# ------------------------------------------------------------------ what there is


def report(txn: ReadTransaction, directory: int, path: str) -> list[pb.SnapshotReport]:
    """The snapshots of a directory: those that are there, by name, then those that come and go."""
    found: list[pb.SnapshotReport] = []
    home = tree.find_entry(txn, directory, SNAPSHOTS)
    for key, value in txn.scan(*keys.dentry_range(home.ino)) if home is not None else ():
        root = tree.load(txn, Dentry.decode(value).ino)
        made_ms = root.ctime_ns // 1_000_000
        found.append(pb.SnapshotReport(path=path, name=keys.dentry_name(key), made_ms=made_ms))
    for _, job in tree_jobs.scan(txn):
        if job.kind is not TreeKind.SNAPSHOT or job.directory != directory or not job.root:
            continue
        copying = job.state is TreeState.COPYING
        state = pb.SNAPSHOT_STATE_MAKING if copying else pb.SNAPSHOT_STATE_DELETING
        found.append(pb.SnapshotReport(path=path, name=job.name, state=state, inodes=job.inodes))
    return found


def _text(name: bytes) -> str:
    return name.decode(errors="replace")
