"""The end of an inode: with its last name, or later and in steps; the result is the same."""

from collections.abc import Callable
from typing import Any

import pytest

from cairnfs.base.limits import BLOCK_BYTES, REAP_AT_ONCE_SLICES_MAX
from cairnfs.coordinator.namespace import reap
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace

Make = Callable[[Namespace, bytes], int]


class Everything:
    """No inode is open anywhere."""

    def __contains__(self, ino: object) -> bool:
        return True


def empty_file(fs: Namespace, name: bytes) -> int:
    """Nothing in it."""
    return fs.create(name)


def small_file(fs: Namespace, name: bytes) -> int:
    """Slices of several chunks, one of which another file has as well."""
    ino = fs.create(name)
    other = fs.create(b"shares")
    fs.commit(ino, 0, b"first")
    fs.commit(ino, 100, b"second")
    fs.commit(ino, 200, b"first")
    fs.commit(other, 0, b"first")
    return ino


def directory(fs: Namespace, name: bytes) -> int:
    """An empty directory."""
    return fs.mkdir(name)


def link(fs: Namespace, name: bytes) -> int:
    """A symbolic link."""
    reply: pb.EntryReply = fs.run(pb.Symlink(parent=ROOT, name=name, target=b"there"))
    return reply.attr.ino


def large_file(fs: Namespace, name: bytes) -> int:
    """More than one block."""
    ino = fs.create(name)
    fs.commit(ino, BLOCK_BYTES - 1, b"over the border")
    return ino


def fragmented_file(fs: Namespace, name: bytes) -> int:
    """More slices than go with the name."""
    ino = fs.create(name)
    for number in range(REAP_AT_ONCE_SLICES_MAX + 1):
        fs.commit(ino, 2 * number, b"%c" % number)
    return ino


def attributed_file(fs: Namespace, name: bytes) -> int:
    """An extended attribute."""
    ino = fs.create(name)
    fs.run(pb.SetXattr(ino=ino, name=b"user.a", value=b"1"))
    return ino


def contents(fs: Namespace) -> dict[bytes, bytes]:
    """Every key of the engine."""
    return fs.engine.read(lambda txn: dict(txn.scan(b"", b"\xff")))


def removed(make: Make, op: Any, *, closed: bool) -> tuple[Namespace, list[int]]:
    """A file system in which `op` was run on `make`, and the orphans before they were reaped."""
    fs = Namespace()
    make(fs, b"gone")
    fs.create(b"other")
    fs.closed = Everything() if closed else ()
    fs.run(op)
    orphans = fs.engine.read(reap.list_orphans)
    fs.reap()
    return fs, orphans


UNLINK = pb.Unlink(parent=ROOT, name=b"gone")
RMDIR = pb.RmDir(parent=ROOT, name=b"gone")
REPLACE = pb.Rename(parent=ROOT, name=b"other", new_parent=ROOT, new_name=b"gone")


@pytest.mark.parametrize(
    ("make", "op"),
    [(empty_file, UNLINK), (small_file, UNLINK), (link, UNLINK), (directory, RMDIR), (small_file, REPLACE)],
)
def test_what_nobody_has_open_ends_with_its_last_name(make: Make, op: Any) -> None:
    at_once, none_left = removed(make, op, closed=True)
    later, one_left = removed(make, op, closed=False)
    assert (len(none_left), len(one_left)) == (0, 1)
    assert contents(at_once) == contents(later)
    at_once.assert_sound()


@pytest.mark.parametrize("make", [large_file, fragmented_file, attributed_file])
def test_what_holds_much_goes_in_steps(make: Make) -> None:
    fs, orphans = removed(make, UNLINK, closed=True)
    assert len(orphans) == 1
    fs.assert_sound()


def test_what_has_another_name_stays() -> None:
    fs = Namespace()
    ino = small_file(fs, b"gone")
    fs.run(pb.Link(ino=ino, parent=ROOT, name=b"stays"))
    fs.closed = Everything()
    fs.run(UNLINK)
    assert fs.attr(ino).nlink == 1
    assert fs.content(ino)[:5] == b"first"
    fs.run(pb.Unlink(parent=ROOT, name=b"stays"))
    assert not fs.engine.read(reap.list_orphans)
    fs.assert_sound()
