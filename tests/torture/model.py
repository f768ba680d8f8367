"""What every mount must show: POSIX as Linux has it, in steps between which other processes may run.

A call is a generator that stops before each of its atomic steps (looking up one name, the change itself), so
that the checker can let concurrent calls interleave as they may. Run alone, it is the plain specification.
"""

import os
from collections.abc import Generator
from typing import Any

from tests.torture.operations import Listing, Op, Result, pattern
from tests.torture.tree import DIRECTORY, FILE, LINK, ROOT, Node, OpenFile, Refusal, Tree

NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
XATTR_CREATE, XATTR_REPLACE = 1, 2

Steps = Generator[None, None, Any]


class Model(Tree):
    """The whole file system, with all open files."""

    # ------------------------------------------------------------------ running

    def run(self, op: Op) -> Result:
        """The result of a call that nobody disturbs."""
        steps = self.start(op)
        try:
            while True:
                self.number = op.number
                next(steps)
        except StopIteration as end:
            return Result(end.value)
        except Refusal as refusal:
            return Result(error=refusal.error)

    def start(self, op: Op) -> Steps:
        """The call as steps; set `number` to that of the operation before each."""
        return getattr(self, f"_{op.call}")(op, *op.args)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ names

    def _add(self, directory: Node, name: str, node: Node) -> None:
        """The atomic step that makes an entry."""
        if not directory.nlink:
            raise Refusal("ENOENT")
        if name in directory.entries:
            raise Refusal("EEXIST")
        self.nodes[node.number] = node
        directory.entries[name] = node.number
        if node.kind == DIRECTORY:
            node.parent = directory.number
            directory.nlink += 1
        self._touch(directory)

    def _make(self, op: Op, path: str, kind: str, mode: int, target: str = "") -> Steps:
        directory, name = yield from self._parent(path)
        yield
        if name in directory.entries:
            raise Refusal("EEXIST")
        yield
        node = Node(op.number, kind, mode, nlink=2 if kind == DIRECTORY else 1, target=target)
        self._touch(node)
        self._add(directory, name, node)

    def _mkdir(self, op: Op, path: str, mode: int) -> Steps:
        return self._make(op, path, DIRECTORY, mode)

    def _symlink(self, op: Op, target: str, path: str) -> Steps:
        return self._make(op, path, LINK, 0o777, target)

    def _link(self, op: Op, source: str, path: str) -> Steps:
        node = yield from self._find(source, follow=False)
        directory, name = yield from self._parent(path)
        yield
        if name in directory.entries:
            raise Refusal("EEXIST")
        if node.kind == DIRECTORY:
            raise Refusal("EPERM")
        yield
        if not node.nlink:
            raise Refusal("ENOENT")
        self._add(directory, name, node)
        node.nlink += 1
        self._touch(node, content=False)

    def _unlink(self, op: Op, path: str) -> Steps:
        directory, name = yield from self._parent(path)
        for _ in range(2):  # the kernel looks, then the change is made
            yield
            node = self._entry(directory, name)
            if node.kind == DIRECTORY:
                raise Refusal("EISDIR")
        del directory.entries[name]
        self._touch(directory)
        self._drop_link(node)

    def _drop_link(self, node: Node) -> None:
        node.nlink -= 2 if node.kind == DIRECTORY else 1
        self._touch(node, content=False)

    def _rmdir(self, op: Op, path: str) -> Steps:
        directory, name = yield from self._parent(path)
        for look in range(2):
            yield
            node = self._entry(directory, name)
            if node.kind != DIRECTORY:
                raise Refusal("ENOTDIR")
            if look and node.entries:
                raise Refusal("ENOTEMPTY")
        del directory.entries[name]
        directory.nlink -= 1
        self._touch(directory)
        self._drop_link(node)

    # ------------------------------------------------------------------ rename

    def _rename(self, op: Op, old: str, new: str, flags: int) -> Steps:
        source, name = yield from self._parent(old)
        target, new_name = yield from self._parent(new)
        yield
        moved = self._entry(source, name)
        yield
        replaced = self._replaced(target, new_name)
        self._check_rename(source, target, moved, replaced, flags)
        yield
        moved, replaced = self._entry(source, name), self._replaced(target, new_name)
        self._check_rename(source, target, moved, replaced, flags)
        if replaced is moved:
            return
        if replaced is not None and replaced.entries and not flags & EXCHANGE:
            raise Refusal("ENOTEMPTY")
        if not (source.nlink and target.nlink):
            raise Refusal("ENOENT")
        self._move(source, name, moved, target, new_name)
        if replaced is None:
            del source.entries[name]
        elif flags & EXCHANGE:
            self._move(target, new_name, replaced, source, name)
        else:
            del source.entries[name]
            target.nlink -= replaced.kind == DIRECTORY
            self._drop_link(replaced)
        target.entries[new_name] = moved.number
        self._touch(source, target)
        self._touch(moved, *([replaced] if replaced is not None else []), content=False)

    def _replaced(self, directory: Node, name: str) -> Node | None:
        found = directory.entries.get(name)
        return None if found is None else self.nodes[found]

    def _check_rename(
        self, source: Node, target: Node, moved: Node, replaced: Node | None, flags: int
    ) -> None:
        if flags & NOREPLACE and replaced is not None:
            raise Refusal("EEXIST")
        if flags & EXCHANGE and replaced is None:
            raise Refusal("ENOENT")
        if self._is_above(moved, target):
            raise Refusal("EINVAL")
        if replaced is not None and self._is_above(replaced, source):
            raise Refusal("EINVAL" if flags & EXCHANGE else "ENOTEMPTY")
        if replaced is None or replaced is moved or flags & EXCHANGE:
            return
        if moved.kind == DIRECTORY != replaced.kind:
            raise Refusal("ENOTDIR")
        if replaced.kind == DIRECTORY != moved.kind:
            raise Refusal("EISDIR")

    def _is_above(self, node: Node, below: Node) -> bool:
        while below.number != ROOT:
            if below is node:
                return True
            below = self.nodes[below.parent]
        return node.number == ROOT

    def _move(self, source: Node, name: str, moved: Node, target: Node, new_name: str) -> None:
        target.entries[new_name] = moved.number
        if moved.kind == DIRECTORY:
            moved.parent = target.number
            source.nlink -= 1
            target.nlink += 1

    # ------------------------------------------------------------------ attributes

    def _change(self, node: Node, **values: Any) -> None:
        for name, value in values.items():
            setattr(node, name, value)
        self._touch(node, content=False)

    def _chmod(self, op: Op, path: str, mode: int) -> Steps:
        node = yield from self._find(path)
        yield
        self._change(node, mode=mode)

    def _chown(self, op: Op, path: str, uid: int, gid: int) -> Steps:
        node = yield from self._find(path)
        yield
        self._change(node, uid=uid, gid=gid)

    def _utimens(self, op: Op, path: str, mtime_ns: int) -> Steps:
        node = yield from self._find(path)
        yield
        self._change(node, mtime=mtime_ns)

    def _stat(self, op: Op, path: str) -> Steps:
        node = yield from self._find(path)
        yield
        return node.stat()

    def _lstat(self, op: Op, path: str) -> Steps:
        node = yield from self._find(path, follow=False)
        yield
        return node.stat()

    def _readlink(self, op: Op, path: str) -> Steps:
        node = yield from self._find(path, follow=False)
        if node.kind != LINK:
            raise Refusal("EINVAL")
        return node.target

    def _readdir(self, op: Op, path: str) -> Steps:
        node = yield from self._find(path)
        return (yield from self._list(node))

    def _list(self, node: Node) -> Steps:
        if node.kind != DIRECTORY:
            raise Refusal("ENOTDIR")
        yield
        before = frozenset(node.entries)
        yield
        after = frozenset(node.entries)
        return Listing(before & after, before | after)

    def _setxattr(self, op: Op, path: str, name: str, value: str, flags: int) -> Steps:
        node = yield from self._find(path)
        yield
        if flags & XATTR_CREATE and name in node.xattrs:
            raise Refusal("EEXIST")
        if flags & XATTR_REPLACE and name not in node.xattrs:
            raise Refusal("ENODATA")
        node.xattrs[name] = value
        self._touch(node, content=False)

    def _getxattr(self, op: Op, path: str, name: str) -> Steps:
        node = yield from self._find(path)
        yield
        if name not in node.xattrs:
            raise Refusal("ENODATA")
        return node.xattrs[name]

    def _listxattr(self, op: Op, path: str) -> Steps:
        node = yield from self._find(path)
        yield
        return sorted(node.xattrs)

    def _removexattr(self, op: Op, path: str, name: str) -> Steps:
        node = yield from self._find(path)
        yield
        if node.xattrs.pop(name, None) is None:
            raise Refusal("ENODATA")
        self._touch(node, content=False)

    # ------------------------------------------------------------------ open files

    def _open(self, op: Op, slot: int, path: str, flags: int, mode: int) -> Steps:
        if (op.actor, slot) in self.files:
            raise Refusal("EBUSY")  # not a system call: the actor declines
        exclusive = bool(flags & os.O_EXCL and flags & os.O_CREAT)
        place = yield from self._walk(path, follow=not (exclusive or flags & os.O_NOFOLLOW))
        if place.node is None and not flags & os.O_CREAT:
            raise Refusal("ENOENT")
        yield
        directory = self.nodes[place.directory]
        found = place.node
        if flags & os.O_CREAT and found is None:
            found = directory.entries.get(place.name)
        if found is None:
            node = Node(op.number, FILE, mode)
            self._touch(node)
            self._add(directory, place.name, node)
        else:
            node = self.nodes[found]
            self._check_open(node, flags, exclusive)
        self.files[op.actor, slot] = OpenFile(node.number, flags)
        if flags & os.O_TRUNC:
            self._resize(node, 0)

    def _check_open(self, node: Node, flags: int, exclusive: bool) -> None:
        if exclusive:
            raise Refusal("EEXIST")
        if node.kind == LINK:
            raise Refusal("ELOOP")
        writing = flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC)
        if node.kind == DIRECTORY and writing:
            raise Refusal("EISDIR")

    def _opened(self, op: Op, slot: int) -> tuple[OpenFile, Node]:
        file = self.files.get((op.actor, slot))
        if file is None:
            raise Refusal("EBADF")
        return file, self.nodes[file.node]

    def _written(self, op: Op, slot: int, refusal: str) -> tuple[OpenFile, Node]:
        file, node = self._opened(op, slot)
        if not file.writable:
            raise Refusal(refusal)
        return file, node

    def _close(self, op: Op, slot: int) -> Steps:
        self._opened(op, slot)
        yield
        file = self.files.pop((op.actor, slot))
        self.locks.closed(file.node, op.actor % self.mounts, (op.actor, slot))

    def _pwrite(self, op: Op, slot: int, offset: int, length: int) -> Steps:
        file, node = self._written(op, slot, "EBADF")
        yield
        at = len(node.data) if file.flags & os.O_APPEND else offset
        old = node.data.ljust(at, b"\0")
        node.data = old[:at] + pattern(op.number, length) + old[at + length :]
        self._touch(node)
        return length

    def _pread(self, op: Op, slot: int, offset: int, length: int) -> Steps:
        file, node = self._opened(op, slot)
        if not file.readable:
            raise Refusal("EBADF")
        if node.kind == DIRECTORY:
            raise Refusal("EISDIR")
        yield
        size = len(node.data)  # the kernel looks at the size, then at the pages
        yield
        return node.data[:size].ljust(size, b"\0")[offset : offset + length]

    def _resize(self, node: Node, size: int) -> None:
        node.data = node.data[:size].ljust(size, b"\0")
        self._touch(node)

    def _truncate(self, op: Op, path: str, size: int) -> Steps:
        node = yield from self._find(path)
        if node.kind == DIRECTORY:
            raise Refusal("EISDIR")
        yield
        self._resize(node, size)

    def _ftruncate(self, op: Op, slot: int, size: int) -> Steps:
        _, node = self._written(op, slot, "EINVAL")
        yield
        self._resize(node, size)

    def _fallocate(self, op: Op, slot: int, mode: int, offset: int, length: int) -> Steps:
        _, node = self._written(op, slot, "EBADF")
        yield
        size = len(node.data)
        end = min(size, offset + length) if mode & KEEP_SIZE else offset + length
        data = node.data.ljust(end, b"\0")
        if mode & (PUNCH_HOLE | ZERO_RANGE) and end > offset:
            data = data[:offset] + bytes(end - offset) + data[end:]
        node.data = data
        self._touch(node)

    def _fstat(self, op: Op, slot: int) -> Steps:
        _, node = self._opened(op, slot)
        yield
        return node.stat()

    def _fsync(self, op: Op, slot: int) -> Steps:
        self._opened(op, slot)
        yield

    def _freaddir(self, op: Op, slot: int) -> Steps:
        _, node = self._opened(op, slot)
        return (yield from self._list(node))

    def _flock(self, op: Op, slot: int, kind: str) -> Steps:
        file, _ = self._opened(op, slot)
        yield
        if not self.locks.flock(file.node, (op.actor, slot), kind):
            raise Refusal("EAGAIN")

    def _lockf(self, op: Op, slot: int, kind: str, start: int, length: int) -> Steps:
        file, node = self._opened(op, slot)
        if node.kind == DIRECTORY and kind == "w":
            raise Refusal("EBADF")
        if (kind == "w" and not file.writable) or (kind == "r" and not file.readable):
            raise Refusal("EBADF")
        yield
        if not self.locks.record(file.node, op.actor % self.mounts, kind, start, start + length):
            raise Refusal("EAGAIN")

    # ------------------------------------------------------------------ what happens besides

    def _besides(self, op: Op, *_args: Any) -> Steps:
        """Nothing that anybody may notice."""
        yield

    _wait = _forget = _cut = _restart = _partition = _delay = _besides
