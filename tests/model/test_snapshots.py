"""Random changes, snapshots, clones, removals, crashes and garbage collections, one transaction at a time.

Every copy must show what its original showed when it began, whatever happened to that since. In the end all
is removed, and nothing is left: no inode, no reference, no job.
"""

import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES
from cairnfs.base.reserved import SNAPSHOTS, is_hidden
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import copy_tree, remove_tree, snapshots, tree, tree_jobs, usage
from cairnfs.coordinator.namespace.operation import Env, Footprint
from cairnfs.coordinator.namespace.snapshots import Begun, Place
from cairnfs.coordinator.records import ChunkState, Dentry, TreeKind, TreeState
from cairnfs.coordinator.upkeep.garbage import Collector
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace

Path = tuple[bytes, ...]
Shown = dict[Path, tuple[Any, ...]]

NAMES = (b"a", b"b", b"c", b"d")
OFFSETS = (0, 7, 25, BLOCK_BYTES - 10, BLOCK_BYTES + 3)  # few bytes on both sides of a border
STEPS = 100
_CHANGES = (
    *["write", "write", "write", "link", "link", "unlink", "unlink"],
    *["mkdir", "truncate", "chmod", "xattr", "symlink", "rename", "rmdir"],
)
_ACTS = (
    *["snapshot", "clone", "restore", "portion", "portion", "portion", "portion", "portion", "finish"],
    *["delete", "remove", "remove", "collect", "collect", "check", "crash"],
)


def shown(fs: Namespace, top: int) -> Shown:
    """All that can be seen of a tree; files with several names by the first of them."""
    found: Shown = {}
    first: dict[int, Path] = {}

    def look(path: Path, ino: int) -> None:
        attr = fs.attr(ino)
        body: Any = b""
        if stat.S_ISREG(attr.mode):
            body = [
                (one.offset, fs.chunk_bytes[one.chunk_id][one.chunk_offset :][: one.length])
                for one in fs.slices(ino)
            ]
        elif stat.S_ISLNK(attr.mode):
            body = fs.run(pb.ReadLink(ino=ino)).target
        xattrs = []
        for name in fs.run(pb.ListXattr(ino=ino)).names:
            xattrs.append((name, fs.run(pb.GetXattr(ino=ino, name=name)).value))
        same = first.setdefault(ino, path)
        found[path] = (attr.mode, attr.uid, attr.gid, attr.size, attr.mtime_ns, body, tuple(xattrs), same)
        if stat.S_ISDIR(attr.mode):
            for name in fs.names(ino):
                if not is_hidden(ino, name):
                    below = fs.find(name, ino)
                    assert below is not None
                    look((*path, name), below)

    look((), top)
    return found


@dataclass
class Work:
    """A copy under way."""

    place: Place
    view: ExitStack
    begun: Begun
    copy: copy_tree.Copy
    expected: Shown
    complete: bool = False


class Trees:
    """One name space, in which trees are copied and removed while it changes."""

    def __init__(self) -> None:
        self.fs = Namespace()
        self.under_way: list[Work] = []
        self.made: list[tuple[Place, Shown]] = []
        self.removals: dict[int, remove_tree.Walk] = {}
        self.collector = Collector(cast(Any, None), cast(Any, None), cast(Any, None), 0.0)
        for name in (b"a", b"b"):
            top = self.fs.mkdir(name)
            self.fs.commit(self.fs.create(b"c", top), 0, b"content of " + name)
            linked = self.fs.create(b"a", self.fs.mkdir(b"d", top))
            for number in range(5):  # more chunks than one transaction refers to
                self.fs.commit(linked, number * BLOCK_BYTES // 2, b"%d of " % number + name)
            self.fs.run(pb.Link(ino=linked, parent=top, name=b"b"))

    # ------------------------------------------------------------------ changes of the live tree

    def directories(self) -> list[int]:
        """Every directory that is no part of a snapshot."""
        return [ino for ino, mode in self.inodes() if stat.S_ISDIR(mode)]

    def files(self) -> list[int]:
        """Every regular file of the live tree."""
        return [ino for ino, mode in self.inodes() if stat.S_ISREG(mode)]

    def inodes(self) -> list[tuple[int, int]]:
        """Every inode that users can reach and change, with its mode."""

        def look(txn: ReadTransaction) -> list[tuple[int, int]]:
            found = {ROOT: stat.S_IFDIR}
            left = [ROOT]
            while left:
                directory = left.pop()
                for key, value in txn.scan(*keys.dentry_range(directory)):
                    entry = Dentry.decode(value)
                    if not is_hidden(directory, keys.dentry_name(key)):
                        found[entry.ino] = entry.kind << 12
                        if entry.kind == tree.DIRECTORY_KIND:
                            left.append(entry.ino)
            return list(found.items())

        return self.fs.engine.read(look)

    def one_of(self, inos: list[int], which: int) -> int:
        return inos[which % len(inos)] if inos else ROOT

    def change(
        self, kind: str, which: int, other: int, name: bytes, new_name: bytes, offset: int, byte: int
    ) -> None:
        """One change; what is refused is none."""
        with suppress(CairnError):
            self.change_once(kind, which, other, name, new_name, offset, byte)

    def change_once(
        self, kind: str, which: int, other: int, name: bytes, new_name: bytes, offset: int, byte: int
    ) -> None:
        parent, new_parent = (self.one_of(self.directories(), one) for one in (which, other))
        file, anything = self.one_of(self.files(), which), self.one_of([i for i, _ in self.inodes()], which)
        run = self.fs.run
        match kind:
            case "mkdir":
                run(pb.MkDir(parent=parent, name=name, mode=0o755))
            case "write":
                ino = self.fs.find(name, parent) or self.fs.create(name, parent)
                self.fs.commit(ino, offset, bytes([byte]) * 20)
            case "truncate":
                run(pb.SetAttr(ino=file, size=offset))
            case "chmod":
                run(pb.SetAttr(ino=anything, mode=0o600 + byte))
            case "xattr":
                run(pb.SetXattr(ino=anything, name=b"user." + name, value=bytes([byte])))
            case "symlink":
                run(pb.Symlink(parent=parent, name=name, target=b"to " + name))
            case "link":
                run(pb.Link(ino=file, parent=new_parent, name=name))
            case "rename":
                run(pb.Rename(parent=parent, name=name, new_parent=new_parent, new_name=new_name))
            case "unlink":
                run(pb.Unlink(parent=parent, name=name))
            case _:
                run(pb.RmDir(parent=parent, name=name))

    # ------------------------------------------------------------------ copies

    def act(self, act: str, which: int, other: int, name: bytes) -> None:
        """Something about copies."""
        directory = self.one_of(self.directories(), other)
        done = [place for place, _ in self.made]
        match act:
            case "snapshot":
                self.begin(directory, Place(TreeKind.SNAPSHOT, directory, name))
            case "clone":
                sources = [ino for ino, _ in self.inodes() if ino != ROOT]
                self.begin(self.one_of(sources, which), Place(TreeKind.CLONE, directory, name))
            case "restore" if done:
                source = self.fs.engine.read(lambda txn: snapshots.find(txn, done[which % len(done)]))
                self.begin(source, Place(TreeKind.CLONE, directory, name))
            case "portion" if self.under_way:
                self.go_on(self.under_way[which % len(self.under_way)])
            case "finish" if self.under_way:
                work = self.under_way[which % len(self.under_way)]
                while work in self.under_way:
                    self.go_on(work)
            case "delete" if done:
                self.delete(which)
            case "remove":
                self.remove_some(which)
            case "collect":
                self.collect()
            case "check":
                self.fs.assert_sound()
            case "crash" if which % 4 == 0:
                self.crash()
            case _:
                pass

    def begin(self, source: int, place: Place) -> None:
        expected = shown(self.fs, source)
        try:
            begun = self.fs.write(lambda txn: snapshots.begin(txn, place, self.fs.now_ns))
        except CairnError:
            return
        view = ExitStack()
        seen = view.enter_context(self.fs.engine.snapshot())
        copy = copy_tree.Copy(seen, begun.number, source, begun.realm, begun.numbers)
        self.under_way.append(Work(place, view, begun, copy, expected))

    def go_on(self, work: Work) -> None:
        if work.complete:
            self.attach(work)
            return
        portion = self.fs.engine.read(work.copy.portion)

        def apply(txn: Any) -> range:
            return copy_tree.apply(txn, work.begun.number, work.begun.realm, portion, self.fs.now_ns)

        work.copy.more_numbers(self.fs.write(apply))
        with pytest.raises(CairnError):
            self.fs.write(apply)  # never twice
        work.complete = portion.last

    def attach(self, work: Work) -> None:
        self.under_way.remove(work)
        work.view.close()
        number, place = work.begun.number, work.place
        plan = self.fs.engine.read(lambda txn: snapshots.footprint(txn, place))
        try:
            self.fs.write(lambda txn: snapshots.attach(txn, number, self.env(plan)))
        except CairnError:
            self.give_up(number)
            return
        self.until(lambda txn: tree_jobs.end(txn, number))
        root = self.fs.attr(number)
        assert place.kind is TreeKind.CLONE or root.ctime_ns == work.begun.now_ns
        assert shown(self.fs, number) == work.expected
        if place.kind is TreeKind.SNAPSHOT:
            self.made.append((place, work.expected))

    def env(self, footprint: Footprint) -> Env:
        self.fs.now_ns += 1_000
        return Env(self.fs.caller, self.fs.now_ns, footprint)

    def until(self, body: Callable[[Any], bool]) -> None:
        while not self.fs.write(body):
            pass

    def give_up(self, number: int) -> None:
        if self.fs.write(lambda txn: tree_jobs.give_up(txn, number)):
            self.removals[number] = remove_tree.Walk(number)

    def crash(self) -> None:
        """Views are gone; the next coordinator finds the jobs."""
        for work in self.under_way:
            work.view.close()
        self.under_way.clear()
        self.removals.clear()
        for number, job in self.fs.engine.read(tree_jobs.scan):
            if job.state is TreeState.COPYING:
                self.give_up(number)
            elif not job.root:
                self.until(lambda txn, number=number: tree_jobs.end(txn, number))  # type: ignore[misc]
            else:
                self.removals[number] = remove_tree.Walk(job.root)

    # ------------------------------------------------------------------ removals and garbage

    def delete(self, which: int) -> None:
        if self.made:
            place, expected = self.made.pop(which % len(self.made))
            root = self.fs.engine.read(lambda txn: snapshots.find(txn, place))
            assert shown(self.fs, root) == expected, "a snapshot never changes"
            plan = self.fs.engine.read(lambda txn: snapshots.footprint(txn, place, root))
            found = self.fs.write(lambda txn: snapshots.detach(txn, place, self.env(plan)))
            self.removals[found.number] = remove_tree.Walk(found.number)

    def remove_some(self, which: int) -> None:
        if not self.removals:
            return
        number = sorted(self.removals)[which % len(self.removals)]
        step = self.fs.engine.read(self.removals[number].step)
        job = self.fs.engine.read(lambda txn: tree_jobs.find(txn, number))
        assert job is not None
        closed = {ino for _, ino in step.entries} if job.state is TreeState.ABANDONED else set[int]()
        env = self.env(step.footprint())
        if self.fs.write(lambda txn: remove_tree.apply(txn, number, step, closed, env)).over:
            del self.removals[number]
            self.until(lambda txn: tree_jobs.end(txn, number))

    def collect(self) -> None:
        """Reap what has no name, mark garbage of any age, as upkeep does, and forget what is marked."""
        fs = self.fs
        fs.reap()
        fs.now_ns += 1_000
        found = fs.engine.read(lambda txn: chunk_table.scan_garbage(txn, fs.now_ns, 1_000))
        fs.write(self.collector.marking([chunk_id for chunk_id, _ in found], fs.now_ns).body)
        for chunk_id, record in fs.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 1_000)):
            if record.state is ChunkState.DELETING:
                assert fs.write(lambda txn, one=chunk_id: chunk_table.remove(txn, one))  # type: ignore[misc]
                del fs.chunk_bytes[chunk_id]

    def finish(self) -> None:
        """Finish what is complete, remove everything, and look what is left."""
        self.fs.assert_sound()
        while len(self.under_way) > 1:
            self.go_on(self.under_way[0])
        self.crash()
        while self.made:
            self.delete(0)
        while self.removals:
            self.remove_some(0)
        self.remove_all(ROOT)
        self.fs.reap()
        self.fs.assert_sound()
        self.collect()
        read = self.fs.engine.read
        assert read(tree_jobs.scan) == []
        assert read(usage.read) == usage.Usage(1, 0)
        assert read(lambda txn: chunk_table.scan_chunks(txn, b"", 10)) == []

    def remove_all(self, directory: int) -> None:
        for name in self.fs.names(directory):
            assert name != SNAPSHOTS
            below = self.fs.find(name, directory)
            assert below is not None
            if stat.S_ISDIR(self.fs.attr(below).mode):
                self.remove_all(below)
                self.fs.run(pb.RmDir(parent=directory, name=name))
            else:
                self.fs.run(pb.Unlink(parent=directory, name=name))


@pytest.fixture
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One or two inodes in a transaction, so that everything can come in between."""
    for module, name, value in (
        (copy_tree, "STEP_KEYS_MAX", 40),
        (copy_tree, "COPY_STEP_INODES", 2),
        (snapshots, "COPY_STEP_INODES", 2),
        (copy_tree, "COPY_PAGE_ENTRIES", 2),
        (copy_tree, "_DEEP", 1),
        (remove_tree, "REMOVE_STEP_ENTRIES", 2),
        (tree_jobs, "_LINKS_PER_STEP", 1),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("_small_steps")
@pytest.mark.parametrize("seed", range(24))
def test_copies_show_their_moment_and_nothing_is_left_of_them(seed: int) -> None:
    rng = Random(seed)
    trees = Trees()
    for _ in range(STEPS):
        which, other, name = rng.randrange(1_000), rng.randrange(1_000), rng.choice(NAMES)
        if rng.random() < 0.5:
            trees.act(rng.choice(_ACTS), which, other, name)
        else:
            offset, new_name = rng.choice(OFFSETS), rng.choice(NAMES)
            trees.change(rng.choice(_CHANGES), which, other, name, new_name, offset, rng.randrange(4))
    trees.finish()
