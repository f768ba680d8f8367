"""Three file systems with one interface: ours without a coordinator, the machine's own, and a simple model.

Paths are tuples of names below the root. Every operation raises OSError as the system call does. `tree`
describes everything that should agree: type, permissions, links, size, content or target of every path.
"""

import ctypes
import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace

PathNames = tuple[bytes, ...]
Description = tuple[str, int, int, int, bytes]  # type, permissions, links, size, content or target

NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
_AT_FDCWD = -100


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Backend(Protocol):
    """What the comparison does with a file system."""

    def create(self, path: PathNames) -> None: ...
    def mkdir(self, path: PathNames) -> None: ...
    def symlink(self, path: PathNames, target: bytes) -> None: ...
    def unlink(self, path: PathNames) -> None: ...
    def rmdir(self, path: PathNames) -> None: ...
    def link(self, source: PathNames, target: PathNames) -> None: ...
    def rename(self, source: PathNames, target: PathNames, flags: int) -> None: ...
    def chmod(self, path: PathNames, mode: int) -> None: ...
    def truncate(self, path: PathNames, size: int) -> None: ...
    def open(self, path: PathNames) -> Any:
        """A regular file, opened for reading and writing."""
        ...

    def write(self, handle: Any, offset: int, data: bytes) -> None: ...
    def fallocate(self, handle: Any, mode: int, offset: int, length: int) -> None: ...
    def copy(self, source: Any, offset: int, target: Any, target_offset: int, length: int) -> int: ...
    def content(self, handle: Any) -> bytes: ...
    def close(self, handle: Any) -> None: ...
    def tree(self) -> dict[PathNames, Description]: ...


class NamespaceBackend:
    """Our operations, with path resolution and open files as a mount does them."""

    def __init__(self) -> None:
        self.fs = Namespace()
        self.fs.caller = pb.Caller(umask=0o022)

    def _run(self, op: Any) -> Any:
        try:
            return self.fs.run(op)
        except CairnError as error:
            raise _error(error.errno) from error

    def _find(self, path: PathNames) -> int:
        ino = ROOT
        for name in path:
            attr = self._run(pb.GetAttr(ino=ino)).attr
            if stat.S_ISLNK(attr.mode):
                raise _error(errno.ENOENT)  # all targets dangle
            reply = self._run(pb.Lookup(parent=ino, name=name))
            if not reply.HasField("attr"):
                raise _error(errno.ENOENT)
            ino = reply.attr.ino
        return ino

    def _parent(self, path: PathNames) -> int:
        ino = self._find(path[:-1])
        mode = self._run(pb.GetAttr(ino=ino)).attr.mode
        if stat.S_ISLNK(mode):
            raise _error(errno.ENOENT)
        if not stat.S_ISDIR(mode):
            raise _error(errno.ENOTDIR)
        return ino

    def _follow(self, path: PathNames) -> int:
        ino = self._find(path)
        if stat.S_ISLNK(self._run(pb.GetAttr(ino=ino)).attr.mode):
            raise _error(errno.ENOENT)
        return ino

    def create(self, path: PathNames) -> None:
        self._run(pb.MkNod(parent=self._parent(path), name=path[-1], mode=0o666, exclusive=True))

    def mkdir(self, path: PathNames) -> None:
        self._run(pb.MkDir(parent=self._parent(path), name=path[-1], mode=0o777))

    def symlink(self, path: PathNames, target: bytes) -> None:
        self._run(pb.Symlink(parent=self._parent(path), name=path[-1], target=target))

    def unlink(self, path: PathNames) -> None:
        self._run(pb.Unlink(parent=self._parent(path), name=path[-1]))

    def rmdir(self, path: PathNames) -> None:
        self._run(pb.RmDir(parent=self._parent(path), name=path[-1]))

    def link(self, source: PathNames, target: PathNames) -> None:
        ino = self._find(source)
        self._run(pb.Link(ino=ino, parent=self._parent(target), name=target[-1]))

    def rename(self, source: PathNames, target: PathNames, flags: int) -> None:
        parent, new_parent = self._parent(source), self._parent(target)
        self._run(
            pb.Rename(parent=parent, name=source[-1], new_parent=new_parent, new_name=target[-1], flags=flags)
        )

    def chmod(self, path: PathNames, mode: int) -> None:
        self._run(pb.SetAttr(ino=self._follow(path), mode=mode))

    def truncate(self, path: PathNames, size: int) -> None:
        self._run(pb.SetAttr(ino=self._follow(path), size=size))

    def open(self, path: PathNames) -> int:
        ino = self._follow(path)
        self._run(pb.Open(ino=ino, write=True))
        return ino

    def write(self, handle: int, offset: int, data: bytes) -> None:
        self.fs.commit(handle, offset, data)

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        self._run(pb.Fallocate(ino=handle, mode=mode, offset=offset, length=length))

    def copy(self, source: int, offset: int, target: int, target_offset: int, length: int) -> int:
        reply: pb.CopyRangeReply = self._run(
            pb.CopyRange(
                source=source, source_offset=offset, target=target, target_offset=target_offset, length=length
            )
        )
        return reply.copied

    def content(self, handle: int) -> bytes:
        return self.fs.content(handle)

    def close(self, handle: int) -> None:
        """Nothing: orphans are reaped at the end."""

    def tree(self) -> dict[PathNames, Description]:
        found: dict[PathNames, Description] = {}
        self._describe((), ROOT, found)
        return found

    def _describe(self, path: PathNames, ino: int, found: dict[PathNames, Description]) -> None:
        attr = self.fs.attr(ino)
        permissions = stat.S_IMODE(attr.mode)
        if stat.S_ISDIR(attr.mode):
            found[path] = ("directory", permissions, attr.nlink, 0, b"")
            for name in self.fs.names(ino):
                below = self.fs.find(name, ino)
                assert below is not None
                self._describe((*path, name), below, found)
        elif stat.S_ISLNK(attr.mode):
            target = self._run(pb.ReadLink(ino=ino)).target
            found[path] = ("symlink", permissions, attr.nlink, attr.size, target)
        else:
            found[path] = ("file", permissions, attr.nlink, attr.size, self.fs.content(ino))


class LocalBackend:
    """A directory of the machine's own file system."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _path(self, path: PathNames) -> bytes:
        return b"/".join((self._root, *path))

    def _check(self, result: int) -> int:
        if result < 0:
            raise _error(ctypes.get_errno())
        return result

    def create(self, path: PathNames) -> None:
        os.close(os.open(self._path(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def mkdir(self, path: PathNames) -> None:
        os.mkdir(self._path(path))

    def symlink(self, path: PathNames, target: bytes) -> None:
        os.symlink(target, self._path(path))

    def unlink(self, path: PathNames) -> None:
        os.unlink(self._path(path))

    def rmdir(self, path: PathNames) -> None:
        os.rmdir(self._path(path))

    def link(self, source: PathNames, target: PathNames) -> None:
        os.link(self._path(source), self._path(target), follow_symlinks=False)

    def rename(self, source: PathNames, target: PathNames, flags: int) -> None:
        paths = (self._path(source), self._path(target))
        self._check(self._libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], flags))

    def chmod(self, path: PathNames, mode: int) -> None:
        os.chmod(self._path(path), mode)

    def truncate(self, path: PathNames, size: int) -> None:
        os.truncate(self._path(path), size)

    def open(self, path: PathNames) -> int:
        return os.open(self._path(path), os.O_RDWR)

    def write(self, handle: int, offset: int, data: bytes) -> None:
        assert os.pwrite(handle, data, offset) == len(data)

    def fallocate(self, handle: int, mode: int, offset: int, length: int) -> None:
        self._check(self._libc.fallocate(handle, mode, ctypes.c_long(offset), ctypes.c_long(length)))

    def copy(self, source: int, offset: int, target: int, target_offset: int, length: int) -> int:
        return os.copy_file_range(source, target, length, offset, target_offset)

    def content(self, handle: int) -> bytes:
        return os.pread(handle, os.fstat(handle).st_size, 0)

    def close(self, handle: int) -> None:
        os.close(handle)

    def tree(self) -> dict[PathNames, Description]:
        found: dict[PathNames, Description] = {}
        self._describe((), found)
        return found

    def _describe(self, path: PathNames, found: dict[PathNames, Description]) -> None:
        where = self._path(path)
        attr = os.lstat(where)
        permissions = stat.S_IMODE(attr.st_mode)
        if stat.S_ISDIR(attr.st_mode):
            found[path] = ("directory", permissions, attr.st_nlink, 0, b"")
            for name in os.listdir(where):
                self._describe((*path, name), found)
        elif stat.S_ISLNK(attr.st_mode):
            found[path] = ("symlink", permissions, attr.st_nlink, attr.st_size, os.readlink(where))
        else:
            content = Path(os.fsdecode(where)).read_bytes()
            found[path] = ("file", permissions, attr.st_nlink, attr.st_size, content)


@dataclass(eq=False)
class _Node:
    kind: str
    mode: int
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    entries: dict[bytes, "_Node"] = field(default_factory=dict)


class ModelBackend:
    """POSIX in the fewest words: nodes that know their entries; links are counted by walking."""

    def __init__(self) -> None:
        self._root = _Node("directory", 0o755)

    def _find(self, path: PathNames) -> _Node:
        node = self._root
        for name in path:
            node = self._entries(node).get(name) or self._absent()
        return node

    def _absent(self) -> "_Node":
        raise _error(errno.ENOENT)

    def _entries(self, node: _Node) -> dict[bytes, _Node]:
        if node.kind != "directory":
            raise _error(errno.ENOENT if node.kind == "symlink" else errno.ENOTDIR)
        return node.entries

    def _parent(self, path: PathNames) -> dict[bytes, _Node]:
        return self._entries(self._find(path[:-1]))

    def _add(self, path: PathNames, node: _Node) -> None:
        entries = self._parent(path)
        if path[-1] in entries:
            raise _error(errno.EEXIST)
        entries[path[-1]] = node

    def create(self, path: PathNames) -> None:
        self._add(path, _Node("file", 0o644))

    def mkdir(self, path: PathNames) -> None:
        self._add(path, _Node("directory", 0o755))

    def symlink(self, path: PathNames, target: bytes) -> None:
        self._add(path, _Node("symlink", 0o777, target=target))

    def unlink(self, path: PathNames) -> None:
        if self._find(path).kind == "directory":
            raise _error(errno.EISDIR)
        del self._parent(path)[path[-1]]

    def rmdir(self, path: PathNames) -> None:
        node = self._find(path)
        if node.kind != "directory":
            raise _error(errno.ENOTDIR)
        if node.entries:
            raise _error(errno.ENOTEMPTY)
        del self._parent(path)[path[-1]]

    def link(self, source: PathNames, target: PathNames) -> None:
        node = self._find(source)
        if target[-1] in self._parent(target):
            raise _error(errno.EEXIST)
        if node.kind == "directory":
            raise _error(errno.EPERM)
        self._add(target, node)

    def rename(self, source: PathNames, target: PathNames, flags: int) -> None:
        from_entries, to_entries = self._parent(source), self._parent(target)
        moved = self._find(source)
        replaced = to_entries.get(target[-1])
        if flags == NOREPLACE and replaced is not None:
            raise _error(errno.EEXIST)
        if flags == EXCHANGE and replaced is None:
            raise _error(errno.ENOENT)
        if target != source and target[: len(source)] == source:
            raise _error(errno.EINVAL)
        if target != source and source[: len(target)] == target:
            raise _error(errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY)
        if replaced is moved:
            return
        if replaced is None or flags != EXCHANGE:
            self._check_replaceable(moved, replaced)
            del from_entries[source[-1]]
        else:
            from_entries[source[-1]] = replaced
        to_entries[target[-1]] = moved

    def _check_replaceable(self, moved: _Node, replaced: _Node | None) -> None:
        if replaced is None:
            return
        if replaced.kind == "directory" != moved.kind:
            raise _error(errno.EISDIR)
        if moved.kind == "directory" != replaced.kind:
            raise _error(errno.ENOTDIR)
        if replaced.entries:
            raise _error(errno.ENOTEMPTY)

    def _follow(self, path: PathNames) -> _Node:
        node = self._find(path)
        return self._absent() if node.kind == "symlink" else node

    def chmod(self, path: PathNames, mode: int) -> None:
        self._follow(path).mode = mode

    def truncate(self, path: PathNames, size: int) -> None:
        node = self.open(path)
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))

    def open(self, path: PathNames) -> _Node:
        node = self._follow(path)
        if node.kind == "directory":
            raise _error(errno.EISDIR)
        return node

    def write(self, handle: _Node, offset: int, data: bytes) -> None:
        handle.data.extend(bytes(max(0, offset - len(handle.data))))
        handle.data[offset : offset + len(data)] = data

    def fallocate(self, handle: _Node, mode: int, offset: int, length: int) -> None:
        if mode & PUNCH_HOLE and not mode & KEEP_SIZE:
            raise _error(errno.EOPNOTSUPP)
        size = len(handle.data)
        end = offset + length if not mode & KEEP_SIZE else min(size, offset + length)
        handle.data.extend(bytes(max(0, end - size)))
        if mode & (PUNCH_HOLE | ZERO_RANGE) and end > offset:
            handle.data[offset:end] = bytes(end - offset)

    def copy(self, source: _Node, offset: int, target: _Node, target_offset: int, length: int) -> int:
        data = bytes(source.data[offset : offset + length])
        if source is target and abs(offset - target_offset) < len(data):
            raise _error(errno.EINVAL)
        if data:
            self.write(target, target_offset, data)
        return len(data)

    def content(self, handle: _Node) -> bytes:
        return bytes(handle.data)

    def close(self, handle: _Node) -> None:
        """Nothing: what nothing refers to is gone."""

    def tree(self) -> dict[PathNames, Description]:
        nodes: list[tuple[PathNames, _Node]] = []
        self._collect((), self._root, nodes)
        found: dict[PathNames, Description] = {}
        for path, node in nodes:
            if node.kind == "directory":
                links = 2 + sum(1 for below in node.entries.values() if below.kind == "directory")
                found[path] = ("directory", node.mode, links, 0, b"")
            else:
                links = sum(1 for _, other in nodes if other is node)
                held = node.target or bytes(node.data)
                found[path] = (node.kind, node.mode, links, len(held), held)
        return found

    def _collect(self, path: PathNames, node: _Node, nodes: list[tuple[PathNames, _Node]]) -> None:
        nodes.append((path, node))
        for name, below in node.entries.items():
            self._collect((*path, name), below, nodes)
