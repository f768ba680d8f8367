"""Reserved names: no user gives or takes one, and what has one is found, counted and mended."""

import pytest

from cairnfs.base.reserved import SNAPSHOTS, TRASH, is_hidden
from cairnfs.coordinator.namespace import tree
from cairnfs.coordinator.namespace.create import create_hidden
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace, fails

NOT_PERMITTED = common_pb2.ERROR_CODE_NOT_PERMITTED


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def hide(fs: Namespace, parent: int, name: bytes) -> int:
    """Make a hidden directory."""
    ino = fs.new_ino()
    fs.write(lambda txn: create_hidden(txn, fs.now_ns, parent, name, ino, permissions=0o555, realm=ROOT))
    return ino


@pytest.mark.parametrize("name", [TRASH, SNAPSHOTS])
def test_nobody_makes_an_entry_of_a_reserved_name(fs: Namespace, name: bytes) -> None:
    file = fs.create(b"f")
    for op in (
        pb.MkNod(parent=ROOT, name=name, mode=0o600, exclusive=True),
        pb.MkNod(parent=ROOT, name=name, mode=0o600),
        pb.MkDir(parent=ROOT, name=name, mode=0o700),
        pb.Symlink(parent=ROOT, name=name, target=b"t"),
        pb.Link(ino=file, parent=ROOT, name=name),
        pb.Rename(parent=ROOT, name=b"f", new_parent=ROOT, new_name=name),
        pb.Rename(parent=ROOT, name=b"f", new_parent=ROOT, new_name=name, flags=1),
    ):
        with fails(NOT_PERMITTED):
            fs.run(op)
    assert fs.find(name) is None


def test_nobody_removes_or_moves_a_hidden_entry(fs: Namespace) -> None:
    directory, target = fs.mkdir(b"d"), fs.mkdir(b"target")
    hidden = hide(fs, directory, SNAPSHOTS)
    fs.create(b"f", target)
    for op in (
        pb.RmDir(parent=directory, name=SNAPSHOTS),
        pb.Unlink(parent=directory, name=SNAPSHOTS),
        pb.Rename(parent=directory, name=SNAPSHOTS, new_parent=target, new_name=b"mine"),
        pb.Rename(parent=directory, name=SNAPSHOTS, new_parent=target, new_name=b"f", flags=2),
        pb.Rename(parent=target, name=b"f", new_parent=directory, new_name=SNAPSHOTS, flags=2),
    ):
        with fails(NOT_PERMITTED):
            fs.run(op)
    assert fs.find(SNAPSHOTS, directory) == hidden


def test_the_trash_is_reserved_in_the_root_only(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    assert not is_hidden(directory, TRASH)
    assert is_hidden(directory, SNAPSHOTS)
    fs.mkdir(TRASH, directory)
    fs.run(pb.RmDir(parent=directory, name=TRASH))


def test_a_hidden_directory_does_not_show_in_its_parent_and_keeps_it(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    before = fs.attr(directory)
    hide(fs, directory, SNAPSHOTS)
    after = fs.attr(directory)
    assert (after.nlink, after.mtime_ns, after.ctime_ns) == (2, before.mtime_ns, before.ctime_ns)
    assert after.change > before.change
    fs.mkdir(b"e")
    for op in (
        pb.RmDir(parent=ROOT, name=b"d"),
        pb.Rename(parent=ROOT, name=b"e", new_parent=ROOT, new_name=b"d"),
    ):
        with fails(common_pb2.ERROR_CODE_NOT_EMPTY):
            fs.run(op)
    assert list(fs.check().problems) == []


def test_fsck_counts_links_without_hidden_directories(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    hide(fs, directory, SNAPSHOTS)
    fs.mkdir(b"below", directory)
    fs.write(lambda txn: tree.save(txn, directory, tree.load(txn, directory)._replace(nlink=4)))
    assert list(fs.check().problems) == [f"inode {directory} counts 4 links instead of 3"]
