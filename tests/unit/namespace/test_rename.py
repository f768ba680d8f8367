"""rename: plain, replacing, NOREPLACE, EXCHANGE, and what must not move."""

import pytest

from cairnfs.coordinator.namespace import reap
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace, fails

NOREPLACE, EXCHANGE = 1, 2


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def rename(
    fs: Namespace, source: tuple[int, bytes], target: tuple[int, bytes], flags: int = 0
) -> pb.RenameReply:
    reply: pb.RenameReply = fs.run(
        pb.Rename(parent=source[0], name=source[1], new_parent=target[0], new_name=target[1], flags=flags)
    )
    return reply


def test_a_file_moves_between_directories(fs: Namespace) -> None:
    directory, file = fs.mkdir(b"d"), fs.create(b"f")
    reply = rename(fs, (ROOT, b"f"), (directory, b"g"))
    assert fs.names() == [b"d"]
    assert fs.find(b"g", directory) == file
    assert reply.moved.ctime_ns == reply.parent.mtime_ns == reply.new_parent.mtime_ns == fs.now_ns - 2_000
    assert not reply.HasField("replaced")


def test_a_directory_takes_its_link_to_the_new_parent(fs: Namespace) -> None:
    target, moved = fs.mkdir(b"target"), fs.mkdir(b"moved")
    reply = rename(fs, (ROOT, b"moved"), (target, b"m"))
    assert (reply.parent.nlink, reply.new_parent.nlink) == (3, 3)
    assert reply.moved.parent == target
    assert fs.run(pb.Lookup(parent=moved, name=b"..")).attr.ino == target


def test_the_replaced_file_becomes_an_orphan(fs: Namespace) -> None:
    old, new = fs.create(b"old"), fs.create(b"new")
    reply = rename(fs, (ROOT, b"new"), (ROOT, b"old"))
    assert (reply.replaced.ino, reply.replaced.nlink) == (old, 0)
    assert fs.find(b"old") == new
    assert fs.names() == [b"old"]
    assert fs.engine.read(reap.list_orphans) == [old]


def test_an_empty_directory_may_be_replaced_by_a_directory(fs: Namespace) -> None:
    fs.mkdir(b"old")
    fs.mkdir(b"new")
    reply = rename(fs, (ROOT, b"new"), (ROOT, b"old"))
    assert reply.parent.nlink == reply.new_parent.nlink == 3
    assert reply.replaced.nlink == 0
    below = fs.mkdir(b"below")
    fs.mkdir(b"x", below)
    reply = rename(fs, (ROOT, b"old"), (below, b"x"))
    assert (reply.parent.nlink, reply.new_parent.nlink) == (3, 3)


def test_types_and_content_of_the_replaced_are_checked(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    fs.create(b"f")
    fs.mkdir(b"e")
    with fails(common_pb2.ERROR_CODE_IS_DIRECTORY):
        rename(fs, (ROOT, b"f"), (ROOT, b"d"))
    with fails(common_pb2.ERROR_CODE_NOT_DIRECTORY):
        rename(fs, (ROOT, b"d"), (ROOT, b"f"))
    fs.create(b"x", directory)
    with fails(common_pb2.ERROR_CODE_NOT_EMPTY):
        rename(fs, (ROOT, b"e"), (ROOT, b"d"))
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        rename(fs, (ROOT, b"absent"), (ROOT, b"y"))


def test_two_names_of_one_file_stay_as_they_are(fs: Namespace) -> None:
    file = fs.create(b"a")
    fs.run(pb.Link(ino=file, parent=ROOT, name=b"b"))
    before = fs.attr(ROOT)
    reply = rename(fs, (ROOT, b"a"), (ROOT, b"b"))
    assert not reply.HasField("replaced")
    assert rename(fs, (ROOT, b"a"), (ROOT, b"a")).moved.nlink == 2
    assert fs.names() == [b"a", b"b"]
    assert fs.attr(ROOT) == before


def test_a_directory_cannot_move_below_itself_nor_replace_one_above(fs: Namespace) -> None:
    a = fs.mkdir(b"a")
    b = fs.mkdir(b"b", a)
    fs.mkdir(b"c", b)
    for target in (a, b):
        with fails(common_pb2.ERROR_CODE_INVALID):
            rename(fs, (ROOT, b"a"), (target, b"x"))
    with fails(common_pb2.ERROR_CODE_NOT_EMPTY):
        rename(fs, (b, b"c"), (ROOT, b"a"))
    with fails(common_pb2.ERROR_CODE_INVALID):
        rename(fs, (b, b"c"), (ROOT, b"a"), EXCHANGE)
    fs.create(b"f", b)
    with fails(common_pb2.ERROR_CODE_NOT_EMPTY):
        rename(fs, (b, b"f"), (ROOT, b"a"))


def test_noreplace_fails_on_an_existing_name(fs: Namespace) -> None:
    fs.create(b"a")
    fs.create(b"b")
    with fails(common_pb2.ERROR_CODE_EXISTS):
        rename(fs, (ROOT, b"a"), (ROOT, b"b"), NOREPLACE)
    with fails(common_pb2.ERROR_CODE_EXISTS):
        rename(fs, (ROOT, b"a"), (ROOT, b"a"), NOREPLACE)
    rename(fs, (ROOT, b"a"), (ROOT, b"c"), NOREPLACE)
    assert fs.names() == [b"b", b"c"]


def test_exchange_swaps_a_file_and_a_directory(fs: Namespace) -> None:
    there = fs.mkdir(b"there")
    directory, file = fs.mkdir(b"d"), fs.create(b"f", there)
    reply = rename(fs, (ROOT, b"d"), (there, b"f"), EXCHANGE)
    assert (fs.find(b"d"), fs.find(b"f", there)) == (file, directory)
    assert (reply.parent.nlink, reply.new_parent.nlink) == (3, 3)
    assert (reply.moved.parent, reply.replaced.ino, reply.replaced.nlink) == (there, file, 1)
    rename(fs, (ROOT, b"d"), (there, b"f"), EXCHANGE)
    assert (fs.find(b"d"), fs.find(b"f", there)) == (directory, file)
    assert fs.attr(there).nlink == 2
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        rename(fs, (ROOT, b"d"), (there, b"absent"), EXCHANGE)


@pytest.mark.parametrize("flags", [3, 4, 8])
def test_other_flags_are_invalid(fs: Namespace, flags: int) -> None:
    fs.create(b"a")
    with fails(common_pb2.ERROR_CODE_INVALID):
        rename(fs, (ROOT, b"a"), (ROOT, b"b"), flags)


@pytest.mark.parametrize("name", [b".", b"..", b"", b"a/b"])
def test_names_are_checked(fs: Namespace, name: bytes) -> None:
    fs.create(b"a")
    for source, target in ((name, b"b"), (b"a", name)):
        with fails(common_pb2.ERROR_CODE_INVALID):
            rename(fs, (ROOT, source), (ROOT, target))


def test_nothing_moves_into_a_removed_directory(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    fs.create(b"f")
    fs.run(pb.RmDir(parent=ROOT, name=b"d"))
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        rename(fs, (ROOT, b"f"), (directory, b"f"))
