"""The state that the model keeps: inodes, entries, open files; and how a path is walked."""

import os
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Self

from tests.torture.locks import LockBook
from tests.torture.operations import Stat

ROOT = 0
FILE, DIRECTORY, LINK = "f", "d", "l"
LINKS_MAX = 40
NAME_MAX = 255


class Refusal(Exception):
    """The call fails with this errno."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error


@dataclass(slots=True, eq=False)
class Node:
    """One inode."""

    number: int
    kind: str
    mode: int
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    ctime: int = 0
    data: bytes = b""
    target: str = ""
    parent: int = ROOT
    entries: dict[str, int] = field(default_factory=dict[str, int])
    xattrs: dict[str, str] = field(default_factory=dict[str, str])

    def copy(self) -> "Node":
        """An independent copy."""
        made = Node(self.number, self.kind, self.mode, self.nlink, self.uid, self.gid, self.mtime, self.ctime)
        made.data, made.target, made.parent = self.data, self.target, self.parent
        made.entries, made.xattrs = dict(self.entries), dict(self.xattrs)
        return made

    def stat(self) -> Stat:
        """As stat(2) tells it, with the model's numbers and tags."""
        size = -1 if self.kind == DIRECTORY else len(self.target or self.data)
        return Stat(
            self.kind, self.mode, self.nlink, self.uid, self.gid, size, self.number, self.mtime, self.ctime
        )


@dataclass(frozen=True, slots=True)
class OpenFile:
    """What a slot of an actor stands for."""

    node: int
    flags: int

    @property
    def readable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def writable(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: a name in a directory, and the inode there (None: nothing)."""

    directory: int
    name: str
    node: int | None


class Tree:
    """Everything there is, without the calls that change it."""

    def __init__(self, mounts: int) -> None:
        self.mounts = mounts
        self.nodes: dict[int, Node] = {ROOT: Node(ROOT, DIRECTORY, 0o755, nlink=2)}
        self.files: dict[tuple[int, int], OpenFile] = {}
        self.locks = LockBook()
        self.number = 0  # of the operation that takes a step

    def copy(self) -> Self:
        """An independent copy."""
        made = type(self)(self.mounts)
        made.nodes = {number: node.copy() for number, node in self.nodes.items()}
        made.files = dict(self.files)
        made.locks = self.locks.copy()
        return made

    def collect(self) -> list[int]:
        """Forget what has no name and is not open, and say what; only while no call is under way."""
        opened = {file.node for file in self.files.values()}
        gone = [n.number for n in self.nodes.values() if not n.nlink and n.number not in opened]
        for number in gone:
            del self.nodes[number]
        return gone

    def fingerprint(self) -> str:
        """Equal for equal states."""
        nodes = [(n.number, n.stat(), n.data, n.target, n.entries, n.xattrs) for n in self.nodes.values()]
        return repr((sorted(nodes, key=lambda n: n[0]), sorted(self.files.items()), self.locks.key()))

    # ------------------------------------------------------------------ paths

    def _walk(self, path: str, follow: bool = True) -> Generator[None, None, Place]:
        pending = [part for part in reversed(path.split("/")) if part]
        place, here, links = Place(ROOT, "", ROOT), ROOT, 0
        while pending:
            name = pending.pop()
            directory = self._directory(here)
            if len(name) > NAME_MAX:
                raise Refusal("ENAMETOOLONG")
            yield
            found = directory.entries.get(name)
            place = Place(here, name, found)
            if found is None:
                if pending:
                    raise Refusal("ENOENT")
                return place
            node = self.nodes[found]
            if node.kind == LINK and (pending or follow):
                links += 1
                if links > LINKS_MAX:
                    raise Refusal("ELOOP")
                pending.extend(part for part in reversed(node.target.split("/")) if part)
                continue
            here = found
        return place

    def _directory(self, number: int) -> Node:
        node = self.nodes[number]
        if node.kind != DIRECTORY:
            raise Refusal("ENOTDIR")
        return node

    def _parent(self, path: str) -> Generator[None, None, tuple[Node, str]]:
        """The directory that the last name of a path is in, and that name."""
        head, _, name = path.rpartition("/")
        place = yield from self._walk(head)
        if place.node is None:
            raise Refusal("ENOENT")
        return self._directory(place.node), name

    def _find(self, path: str, follow: bool = True) -> Generator[None, None, Node]:
        place = yield from self._walk(path, follow)
        if place.node is None:
            raise Refusal("ENOENT")
        return self.nodes[place.node]

    def _entry(self, directory: Node, name: str) -> Node:
        found = directory.entries.get(name)
        if found is None:
            raise Refusal("ENOENT")
        return self.nodes[found]

    def _touch(self, *nodes: Node, content: bool = True) -> None:
        for node in nodes:
            node.ctime = -self.number
            if content:
                node.mtime = -self.number
