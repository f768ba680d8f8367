"""Copies a tree as it was in a view of the engine, in portions of one transaction each; chunks are shared.

`Copy` reads the view and plans a portion; `apply` makes it durable. Nobody else knows the copy before it
has a name, so the plan may say what its records are to be. docs/internals/snapshots.md tells why no chunk
goes meanwhile.
"""

import stat
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import (
    COPY_PAGE_ENTRIES,
    COPY_STEP_INODES,
    REALM_DEPTH_MAX,
    STEP_KEYS_MAX,
    STEP_VALUES_MAX_BYTES,
)
from cairnfs.base.reserved import is_hidden
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import policies, tree, tree_jobs, usage
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.coordinator.records import BlockSlice, Dentry, Inode, decode_slices, encode_slices
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb

_KEYS_PER_CHUNK: Final = 2  # its record and its entry in the garbage index
_KEYS_PER_INODE: Final = (
    6  # the inode, its name, its directory, its target, notes of its number and of its chunks
)
_RESERVED_KEYS: Final = 10 + 2 * REALM_DEPTH_MAX  # the job, the usage of its realms, the next numbers
_DEEP: Final = 32  # directories inside each other; of those above, no entries are kept in memory


@dataclass(slots=True)
class _Reference:
    """How many slices of a portion name a chunk, and where the first of them is."""

    length: int
    ino: int
    block: int
    count: int = 0


@dataclass(slots=True)
class Portion:
    """What one transaction makes: records, references to chunks, and what that comes to."""

    step: int
    puts: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    references: dict[bytes, _Reference] = field(default_factory=dict[bytes, _Reference])
    holders: set[int] = field(default_factory=set[int])  # inodes that refer to chunks: a note each, if short
    inodes: int = 0
    allocated_bytes: int = 0
    last: bool = False
    _value_bytes: int = 0

    def put(self, key: bytes, value: bytes) -> None:
        """Write a record."""
        self.puts[key] = value
        self._value_bytes += len(value)

    @property
    def room(self) -> int:
        """How many keys more can be written."""
        if self._value_bytes >= STEP_VALUES_MAX_BYTES:
            return 0
        written = len(self.puts) + len(self.holders) + _KEYS_PER_CHUNK * len(self.references)
        return STEP_KEYS_MAX - _RESERVED_KEYS - written


@dataclass(slots=True)
class _Listed:
    """An entry of the view that is still to be copied."""

    name: bytes
    entry: Dentry
    inode: Inode


@dataclass(slots=True)
class _Directory:
    """A directory whose entries are being copied; `inode` is the copy's."""

    source: int
    target: int
    inode: Inode
    after: bytes = b""
    page: deque[_Listed] = field(default_factory=deque[_Listed])
    last_page: bool = False


@dataclass(slots=True)
class _Content:
    """An inode whose attributes and blocks are being copied; `inode` is the copy, so far."""

    source: int
    target: int
    inode: Inode
    xattrs: bool
    after: bytes = b""
    blocks: bool = True
    block: int = 0
    index: int = 0  # of the first slice in `block` that is not copied


class Copy:
    """How far the copy of one tree has come. A portion that was planned must be applied before the next."""

    def __init__(
        self, view: ReadTransaction, job: int, source: int, realm: int, numbers: range, ctime_ns: int = 0
    ) -> None:
        """Copy inode `source`, and all below it, to inode `job`; `numbers` are for the first portion.

        `ctime_ns`: when the copies were changed last; 0: when the originals were. Raises CairnError
        NOT_FOUND.
        """
        self._view = view
        self._job = job
        self._realm = realm
        self._ctime_ns = ctime_ns
        self._numbers = deque(numbers)
        self._stack: list[_Directory] = []
        self._content: _Content | None = None
        self._step = 0
        self._root: tuple[int, Inode] | None = (source, tree.load(view, source))

    def more_numbers(self, numbers: range) -> None:
        """Numbers for further inodes."""
        self._numbers.extend(numbers)

    def portion(self, now: ReadTransaction) -> Portion:
        """What comes next; `now` shows what earlier portions made."""
        portion = Portion(self._step)
        self._step += 1
        while portion.room >= _KEYS_PER_INODE + _KEYS_PER_CHUNK:
            if self._root is not None:
                source, inode = self._root
                self._root = None
                self._make(portion, source, inode, self._job, 0)
            elif self._content is not None:
                if not self._fill(portion, self._content):
                    return portion
            elif not self._stack:
                portion.last = True
                return portion
            elif not self._numbers:
                return portion
            else:
                self._next_entry(portion, now, self._stack[-1])
        return portion

    # ------------------------------------------------------------------ names and inodes

    def _next_entry(self, portion: Portion, now: ReadTransaction, directory: _Directory) -> None:
        if not directory.page:
            if directory.last_page:
                self._stack.pop()
                return
            self._turn_page(directory)
            return
        listed = directory.page.popleft()
        directory.after = listed.name
        inode, source = listed.inode, listed.entry.ino
        has_more_names = inode.nlink > 1 and not tree.is_directory(inode)
        target = self._copied(portion, now, source) if has_more_names else 0
        if target:
            key = keys.inode(target)
            copy = Inode.decode(portion.puts.get(key) or now.get(key) or b"")
            portion.put(key, copy._replace(nlink=copy.nlink + 1, change=copy.change + 1).encode())
        else:
            target = self._numbers.popleft()
            self._make(portion, source, inode, target, directory.target)
            if has_more_names:
                portion.put(keys.copied_link(self._job, source), target.to_bytes(8, "big"))
        portion.put(keys.dentry(directory.target, listed.name), Dentry(target, listed.entry.kind).encode())
        if tree.is_directory(inode):
            above = directory.inode
            directory.inode = above._replace(nlink=above.nlink + 1, change=above.change + 1)
            portion.put(keys.inode(directory.target), directory.inode.encode())

    def _copied(self, portion: Portion, now: ReadTransaction, source: int) -> int:
        """The copy of a file with several names, or 0 when this is the first of them."""
        key = keys.copied_link(self._job, source)
        return int.from_bytes(portion.puts.get(key) or now.get(key) or b"", "big")

    def _make(self, portion: Portion, source: int, inode: Inode, target: int, parent: int) -> None:
        is_directory = tree.is_directory(inode)
        copy = inode._replace(
            nlink=2 if is_directory else 1,
            allocated_bytes=0,
            ctime_ns=self._ctime_ns or inode.ctime_ns,
            change=1,
            xattrs=0,
            parent=parent if is_directory else 0,
            realm=self._realm,
        )
        portion.inodes += 1
        portion.put(keys.inode(target), copy.encode())
        if stat.S_ISLNK(inode.mode):
            portion.put(keys.symlink(target), self._view.get(keys.symlink(source)) or b"")
        if is_directory:
            self._stack.append(_Directory(source, target, copy))
            for above in self._stack[:-_DEEP]:
                if above.page or above.last_page:
                    above.page.clear()
                    above.last_page = False
        if inode.xattrs or inode.allocated_bytes:
            self._content = _Content(source, target, copy, inode.xattrs > 0, blocks=inode.allocated_bytes > 0)

    def _turn_page(self, directory: _Directory) -> None:
        span = keys.dentry_range(directory.source, directory.after)
        found = list(self._view.scan(*span, limit=COPY_PAGE_ENTRIES))
        directory.last_page = len(found) < COPY_PAGE_ENTRIES
        entries = [(keys.dentry_name(key), Dentry.decode(value)) for key, value in found]
        inodes = self._view.get_many([keys.inode(entry.ino) for _, entry in entries])
        for name, entry in entries:
            value = inodes[keys.inode(entry.ino)]
            # Hidden entries are no part of it; a name without an inode is for fsck to find.
            if value is not None and not is_hidden(directory.source, name):
                directory.page.append(_Listed(name, entry, Inode.decode(value)))
        if entries:
            directory.after = entries[-1][0] if not directory.page else directory.after

    # ------------------------------------------------------------------ attributes and blocks

    def _fill(self, portion: Portion, content: _Content) -> bool:
        """Copy what there is room for; whether that was all."""
        complete = self._fill_xattrs(portion, content) and self._fill_blocks(portion, content)
        content.inode = content.inode._replace(change=content.inode.change + 1)
        portion.put(keys.inode(content.target), content.inode.encode())
        if complete:
            self._content = None
            if self._stack and self._stack[-1].target == content.target:
                self._stack[-1].inode = content.inode
        return complete

    def _fill_xattrs(self, portion: Portion, content: _Content) -> bool:
        if not content.xattrs:
            return True
        start, end = keys.xattr_range(content.source)
        if content.after:
            start = keys.xattr(content.source, content.after) + b"\0"
        for key, value in self._view.scan(start, end):
            if portion.room < _KEYS_PER_INODE:
                return False
            content.after = keys.xattr_name(key)
            portion.put(keys.xattr(content.target, content.after), value)
            content.inode = content.inode._replace(xattrs=content.inode.xattrs + 1)
        content.xattrs = False
        return True

    def _fill_blocks(self, portion: Portion, content: _Content) -> bool:
        if not content.blocks:
            return True
        for key, value in self._view.scan(*keys.extent_range(content.source, content.block)):
            block = keys.extent_block(key)
            if block != content.block:
                content.block, content.index = block, 0
            slices = decode_slices(value)
            reached = self._refer(portion, content, slices)
            if reached > content.index:
                whole = reached == len(slices)
                held = value if whole else encode_slices(slices[:reached])
                portion.put(keys.extent(content.target, block), held)
                content.index = reached
            if reached < len(slices) or portion.room < _KEYS_PER_INODE:
                return False
        content.blocks = False
        return True

    def _refer(self, portion: Portion, content: _Content, slices: Sequence[BlockSlice]) -> int:
        """Refer to the chunks of slices from `content.index` on; the index of the first without room."""
        index = content.index
        room = (portion.room - _KEYS_PER_INODE) // _KEYS_PER_CHUNK
        held_bytes = 0
        for one in slices[index:]:
            reference = portion.references.get(one.chunk_id)
            if reference is None:
                if room <= 0:
                    break
                room -= 1
                reference = _Reference(one.chunk_length, content.target, content.block)
                portion.references[one.chunk_id] = reference
                portion.holders.add(content.target)
            reference.count += 1
            held_bytes += one.length
            index += 1
        portion.allocated_bytes += held_bytes
        allocated = content.inode.allocated_bytes + held_bytes
        content.inode = content.inode._replace(allocated_bytes=allocated)
        return index


def keys_of(number: int, portion: Portion) -> tuple[bytes, ...]:
    """What `apply` relies on, besides the records of nobody else that it makes."""
    return (keys.tree_job(number), *map(keys.chunk, portion.references))


def apply(txn: Transaction, number: int, realm: int, portion: Portion, now_ns: int) -> range:
    """Make a portion durable; returns numbers for the next.

    Raises CairnError CONFLICT when the copy was given up or the portion made already, QUOTA, CHUNK_GONE (the
    file system is damaged).
    """
    job = tree_jobs.load_copying(txn, number)
    if job.steps != portion.step:
        raise CairnError(
            pb.ERROR_CODE_CONFLICT, f"step {portion.step} of tree {number} comes after {job.steps}"
        )
    for key, value in portion.puts.items():
        txn.put(key, value)
    wish = policies.wish_of_realm(txn, realm)
    for chunk_id, one in portion.references.items():
        record = chunk_table.add_references(txn, chunk_id, one.length, (), one.count, wish)
        if wish.replicas > len(record.nodes):
            policies.note_short(txn, one.ino, (one.block,))
    usage.change(txn, realm, inodes=portion.inodes, allocated_bytes=portion.allocated_bytes)
    tree_jobs.save(
        txn,
        number,
        job._replace(
            steps=job.steps + 1,
            inodes=job.inodes + portion.inodes,
            shared_bytes=job.shared_bytes + portion.allocated_bytes,
        ),
    )
    return reserve_inode_numbers(txn, min(COPY_STEP_INODES, portion.inodes))
