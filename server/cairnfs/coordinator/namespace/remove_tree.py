"""Removes a tree that has no name any more, from below, in transactions of bounded size."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cairnfs.base.limits import REMOVE_STEP_ENTRIES, STEP_KEYS_MAX, TRANSACTION_MAX_KEYS
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import tree, tree_jobs
from cairnfs.coordinator.namespace.operation import Env, Footprint, FootprintChanged, Touch
from cairnfs.coordinator.namespace.reap import drop_link
from cairnfs.coordinator.records import Dentry, Inode
from cairnfs.engine.interface import ReadTransaction, Transaction

_SPARE_BYTES: Final = 1_000  # for the job's record and the directory's


class Step(NamedTuple):
    """Entries of a directory to be removed; the root itself has directory 0."""

    directory: int
    entries: tuple[tuple[bytes, int], ...]

    def footprint(self) -> Footprint:
        """What sessions may know of it."""
        touches = [Touch(ino) for ino in dict.fromkeys(ino for _, ino in self.entries)]
        if self.directory:
            touches.append(Touch(self.directory))
        return Footprint(tuple(touches))


@dataclass(slots=True)
class Removed:
    """What one transaction came to: inodes without a name now, those of them still to be reaped."""

    inodes: int = 0
    orphans: list[int] = field(default_factory=list[int])
    over: bool = False


class Walk:
    """Where the next entries are. A new one finds it out for itself."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stack = [root]

    def step(self, txn: ReadTransaction) -> Step:
        """What to remove next."""
        while self._stack:
            directory = self._stack[-1]
            found = txn.scan(*keys.dentry_range(directory), limit=REMOVE_STEP_ENTRIES)
            entries: list[tuple[bytes, int]] = []
            for key, value in found:
                entry = Dentry.decode(value)
                if entry.kind == tree.DIRECTORY_KIND and not tree.is_empty(txn, entry.ino):
                    if not entries:
                        self._stack.append(entry.ino)
                    break
                entries.append((keys.dentry_name(key), entry.ino))
            if entries:
                return Step(directory, tuple(entries))
            if self._stack[-1] == directory:
                self._stack.pop()
        return Step(0, ((b"", self._root),))


def apply(txn: Transaction, number: int, step: Step, closed: Collection[int], env: Env) -> Removed:
    """Remove the entries of `step`, or as many as fit; what is in `closed` is freed at once if it is small.

    Raises FootprintChanged when other sessions were not asked.
    """
    removed = Removed()
    job = tree_jobs.find(txn, number)
    if job is None or not job.root:
        removed.over = True
        return removed
    inner_env = Env(env.caller, env.now_ns, env.footprint, closed=closed)
    directories = 0
    for name, ino in step.entries:
        inner = txn.nest()
        inode = _remove(inner, step.directory, name, ino, inner_env)
        if not inner.join(spare_keys=TRANSACTION_MAX_KEYS - STEP_KEYS_MAX, spare_bytes=_SPARE_BYTES):
            break
        if inode is None:
            continue
        directories += tree.is_directory(inode)
        removed.inodes += inode.nlink == 0
        if inode.nlink == 0 and txn.get(keys.orphan(ino)) is not None:
            removed.orphans.append(ino)
    if step.directory:
        directory = tree.load(txn, step.directory)
        tree.store(txn, step.directory, tree.entries_changed(directory, env.now_ns, -directories))
    else:
        job = job._replace(root=0)
        removed.over = True
    tree_jobs.save(txn, number, job._replace(inodes=job.inodes + removed.inodes))
    return removed


def _remove(txn: Transaction, directory: int, name: bytes, ino: int, env: Env) -> Inode | None:
    """Take one name from an inode; returns what it is then, None when there was none."""
    if directory:
        txn.delete(keys.dentry(directory, name))
    inode = tree.find_inode(txn, ino)
    if inode is None:
        return None
    tree.require_cover(env, ino)
    if tree.is_directory(inode):
        if not tree.is_empty(txn, ino):
            raise FootprintChanged
    elif inode.nlink > 1:
        inode = tree.attributes_changed(inode, env.now_ns)._replace(nlink=inode.nlink - 1)
        tree.store(txn, ino, inode)
        return inode
    return drop_link(txn, ino, inode, env)
