"""lookup, mknod, mkdir, unlink, rmdir, symlink, readlink, link and readdir: results, times, errors."""

import stat

import pytest

from cairnfs.base.limits import LINK_MAX, NAME_MAX_BYTES, READDIR_LIMIT_MAX, SYMLINK_MAX_BYTES
from cairnfs.coordinator.namespace import reap, tree, usage
from cairnfs.coordinator.namespace.operation import Footprint, FootprintChanged, Touch
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace, fails

NOT_FOUND = common_pb2.ERROR_CODE_NOT_FOUND
EXISTS = common_pb2.ERROR_CODE_EXISTS
INVALID = common_pb2.ERROR_CODE_INVALID
NOT_DIRECTORY = common_pb2.ERROR_CODE_NOT_DIRECTORY
IS_DIRECTORY = common_pb2.ERROR_CODE_IS_DIRECTORY


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def test_a_new_file_has_the_callers_owner_and_masked_mode(fs: Namespace) -> None:
    reply = fs.run(pb.MkNod(parent=ROOT, name=b"f", mode=0o666, exclusive=True))
    attr = reply.attr
    assert attr.mode == stat.S_IFREG | 0o644
    assert (attr.uid, attr.gid, attr.nlink, attr.size, attr.parent) == (1000, 1000, 1, 0, 0)
    assert attr.atime_ns == attr.mtime_ns == attr.ctime_ns == fs.now_ns
    assert reply.parent.mtime_ns == reply.parent.ctime_ns == fs.now_ns
    assert reply.parent.change > 1
    assert fs.find(b"f") == attr.ino


def test_a_new_directory_counts_in_its_parent(fs: Namespace) -> None:
    reply = fs.run(pb.MkDir(parent=ROOT, name=b"d", mode=0o777))
    assert reply.attr.mode == stat.S_IFDIR | 0o755
    assert (reply.attr.nlink, reply.parent.nlink, reply.attr.parent) == (2, 3, ROOT)
    assert reply.attr.size == tree.DIRECTORY_SIZE_BYTES


def test_a_set_group_id_directory_hands_down_its_group(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    fs.run(pb.SetAttr(ino=directory, mode=0o2775, gid=55))
    below = fs.attr(fs.mkdir(b"below", directory))
    assert below.gid == 55
    assert below.mode & stat.S_ISGID
    file = fs.attr(fs.create(b"f", directory))
    assert file.gid == 55
    assert not file.mode & stat.S_ISGID


def test_special_files_keep_their_device_number_and_regular_ones_have_none(fs: Namespace) -> None:
    device = fs.run(pb.MkNod(parent=ROOT, name=b"c", mode=stat.S_IFCHR | 0o600, rdev=0x103, exclusive=True))
    assert device.attr.rdev == 0x103
    pipe = fs.run(pb.MkNod(parent=ROOT, name=b"p", mode=stat.S_IFIFO | 0o600, rdev=7, exclusive=True))
    assert pipe.attr.rdev == 0


@pytest.mark.parametrize(
    ("mode", "code"),
    [
        (stat.S_IFDIR, common_pb2.ERROR_CODE_NOT_PERMITTED),
        (stat.S_IFLNK, INVALID),
    ],
)
def test_mknod_refuses_other_types(fs: Namespace, mode: int, code: "common_pb2.ErrorCode.ValueType") -> None:
    with fails(code):
        fs.run(pb.MkNod(parent=ROOT, name=b"f", mode=mode | 0o600, exclusive=True))


def test_create_without_exclusive_returns_the_existing_file_unchanged(fs: Namespace) -> None:
    ino = fs.create(b"f")
    before, parent = fs.attr(ino), fs.attr(ROOT)
    reply = fs.run(pb.MkNod(parent=ROOT, name=b"f", mode=0o600))
    assert reply.attr == before
    assert fs.attr(ROOT) == parent
    fs.mkdir(b"d")
    with fails(IS_DIRECTORY):
        fs.run(pb.MkNod(parent=ROOT, name=b"d", mode=0o600))
    fs.run(pb.Symlink(parent=ROOT, name=b"l", target=b"t"))
    with fails(EXISTS):
        fs.run(pb.MkNod(parent=ROOT, name=b"l", mode=0o600))


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_bad_names_are_invalid(fs: Namespace, name: bytes) -> None:
    for op in (
        pb.MkNod(parent=ROOT, name=name, mode=0o600, exclusive=True),
        pb.MkDir(parent=ROOT, name=name, mode=0o700),
        pb.Symlink(parent=ROOT, name=name, target=b"t"),
        pb.Unlink(parent=ROOT, name=name),
        pb.RmDir(parent=ROOT, name=name),
        pb.Link(ino=fs.create(b"f%d" % fs.now_ns), parent=ROOT, name=name),
    ):
        with fails(INVALID):
            fs.run(op)


def test_a_name_has_at_most_255_bytes_of_any_value(fs: Namespace) -> None:
    every_byte = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    ino = fs.create(every_byte)
    assert fs.find(every_byte) == ino
    fs.create(b"x" * NAME_MAX_BYTES)
    with fails(common_pb2.ERROR_CODE_NAME_TOO_LONG):
        fs.create(b"x" * (NAME_MAX_BYTES + 1))
    with fails(common_pb2.ERROR_CODE_NAME_TOO_LONG):
        fs.run(pb.Lookup(parent=ROOT, name=b"x" * (NAME_MAX_BYTES + 1)))


def test_entries_belong_in_living_directories(fs: Namespace) -> None:
    file, directory = fs.create(b"f"), fs.mkdir(b"d")
    fs.run(pb.RmDir(parent=ROOT, name=b"d"))
    for parent, code in ((file, NOT_DIRECTORY), (directory, NOT_FOUND), (999_999, NOT_FOUND)):
        for op in (
            pb.MkNod(parent=parent, name=b"x", mode=0o600, exclusive=True),
            pb.MkDir(parent=parent, name=b"x", mode=0o700),
            pb.Symlink(parent=parent, name=b"x", target=b"t"),
            pb.Link(ino=file, parent=parent, name=b"x"),
        ):
            with fails(code):
                fs.run(op)


def test_lookup_knows_the_absent_and_the_directory_itself(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    assert not fs.run(pb.Lookup(parent=directory, name=b"x")).HasField("attr")
    assert fs.run(pb.Lookup(parent=directory, name=b".")).attr.ino == directory
    assert fs.run(pb.Lookup(parent=directory, name=b"..")).attr.ino == ROOT
    with fails(NOT_DIRECTORY):
        fs.run(pb.Lookup(parent=fs.create(b"f"), name=b"x"))
    with fails(NOT_FOUND):
        fs.run(pb.GetAttr(ino=424_242))


def test_unlink_leaves_an_orphan_until_it_is_reaped(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"content")
    reply = fs.run(pb.Unlink(parent=ROOT, name=b"f"))
    assert reply.attr.nlink == 0
    assert reply.attr.ctime_ns == reply.parent.mtime_ns == fs.now_ns
    assert fs.find(b"f") is None
    assert fs.engine.read(reap.list_orphans) == [ino]
    assert fs.content(ino) == b"content"
    fs.reap()
    with fails(NOT_FOUND):
        fs.attr(ino)
    assert fs.engine.read(reap.list_orphans) == []
    assert fs.engine.read(usage.read) == usage.Usage(1, 0)


def test_unlink_of_one_of_two_names_keeps_the_file(fs: Namespace) -> None:
    ino = fs.create(b"a")
    reply = fs.run(pb.Link(ino=ino, parent=ROOT, name=b"b"))
    assert (reply.attr.ino, reply.attr.nlink) == (ino, 2)
    assert fs.run(pb.Unlink(parent=ROOT, name=b"a")).attr.nlink == 1
    assert fs.engine.read(reap.list_orphans) == []
    assert fs.names() == [b"b"]


def test_removal_checks_the_type(fs: Namespace) -> None:
    fs.mkdir(b"d")
    fs.create(b"f")
    with fails(IS_DIRECTORY):
        fs.run(pb.Unlink(parent=ROOT, name=b"d"))
    with fails(NOT_DIRECTORY):
        fs.run(pb.RmDir(parent=ROOT, name=b"f"))
    for op in (pb.Unlink(parent=ROOT, name=b"x"), pb.RmDir(parent=ROOT, name=b"x")):
        with fails(NOT_FOUND):
            fs.run(op)


def test_rmdir_wants_an_empty_directory(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    fs.create(b"f", directory)
    with fails(common_pb2.ERROR_CODE_NOT_EMPTY):
        fs.run(pb.RmDir(parent=ROOT, name=b"d"))
    fs.run(pb.Unlink(parent=directory, name=b"f"))
    reply = fs.run(pb.RmDir(parent=ROOT, name=b"d"))
    assert (reply.attr.nlink, reply.parent.nlink) == (0, 2)
    fs.reap()
    assert fs.engine.read(usage.read).inodes == 1


def test_symlinks_hold_their_target(fs: Namespace) -> None:
    reply = fs.run(pb.Symlink(parent=ROOT, name=b"l", target=b"../\xff"))
    assert reply.attr.mode == stat.S_IFLNK | 0o777
    assert reply.attr.size == 4
    assert fs.run(pb.ReadLink(ino=reply.attr.ino)).target == b"../\xff"
    with fails(INVALID):
        fs.run(pb.ReadLink(ino=fs.create(b"f")))
    with fails(NOT_FOUND):
        fs.run(pb.Symlink(parent=ROOT, name=b"e", target=b""))
    with fails(common_pb2.ERROR_CODE_NAME_TOO_LONG):
        fs.run(pb.Symlink(parent=ROOT, name=b"e", target=b"x" * (SYMLINK_MAX_BYTES + 1)))


def test_link_refuses_directories_orphans_and_existing_names(fs: Namespace) -> None:
    file, directory = fs.create(b"f"), fs.mkdir(b"d")
    with fails(common_pb2.ERROR_CODE_NOT_PERMITTED):
        fs.run(pb.Link(ino=directory, parent=ROOT, name=b"x"))
    with fails(EXISTS):
        fs.run(pb.Link(ino=file, parent=ROOT, name=b"d"))
    fs.run(pb.Unlink(parent=ROOT, name=b"f"))
    with fails(NOT_FOUND):
        fs.run(pb.Link(ino=file, parent=ROOT, name=b"x"))


def test_link_counts_are_bounded_for_files_and_directories(fs: Namespace) -> None:
    file, directory = fs.create(b"f"), fs.mkdir(b"d")
    for ino in (file, directory):
        fs.write(lambda txn, ino=ino: tree.save(txn, ino, tree.load(txn, ino)._replace(nlink=LINK_MAX)))  # type: ignore[misc]
    with fails(common_pb2.ERROR_CODE_TOO_MANY_LINKS):
        fs.run(pb.Link(ino=file, parent=ROOT, name=b"x"))
    with fails(common_pb2.ERROR_CODE_TOO_MANY_LINKS):
        fs.mkdir(b"x", directory)
    fs.mkdir(b"other")
    with fails(common_pb2.ERROR_CODE_TOO_MANY_LINKS):
        fs.run(pb.Rename(parent=ROOT, name=b"other", new_parent=directory, new_name=b"x"))
    fs.create(b"file is fine", directory)


def test_readdir_goes_on_behind_a_name(fs: Namespace) -> None:
    names = [b"%03d" % number for number in range(10)]
    for name in names:
        fs.create(name)
    first = fs.run(pb.ReadDir(ino=ROOT, limit=4))
    assert [entry.name for entry in first.entries] == names[:4]
    assert not first.end
    rest = fs.run(pb.ReadDir(ino=ROOT, after=names[3], limit=6))
    assert [entry.name for entry in rest.entries] == names[4:]
    assert rest.end
    assert rest.entries[0].attr == fs.attr(rest.entries[0].attr.ino)
    assert fs.run(pb.ReadDir(ino=ROOT, limit=READDIR_LIMIT_MAX * 9)).end
    with fails(NOT_DIRECTORY):
        fs.run(pb.ReadDir(ino=first.entries[0].attr.ino))


def test_a_name_that_is_a_prefix_of_another_is_not_skipped(fs: Namespace) -> None:
    for name in (b"a", b"a\x01", b"a\xff", b"b"):
        fs.create(name)
    reply = fs.run(pb.ReadDir(ino=ROOT, after=b"a", limit=1))
    assert [entry.name for entry in reply.entries] == [b"a\x01"]


def test_an_operation_that_finds_another_inode_asks_for_a_new_footprint(fs: Namespace) -> None:
    fs.create(b"f")
    stale = Footprint((Touch(ROOT, names=(b"f",)), Touch(77, attributes_only=True)))
    with pytest.raises(FootprintChanged):
        fs.run(pb.Unlink(parent=ROOT, name=b"f"), stale)
    with pytest.raises(FootprintChanged):
        fs.run(pb.Rename(parent=ROOT, name=b"f", new_parent=ROOT, new_name=b"g"), stale)
    with pytest.raises(FootprintChanged):
        fs.run(pb.MkNod(parent=ROOT, name=b"new", mode=0o600), Footprint((Touch(77),)))
    fs.mkdir(b"d")
    with pytest.raises(FootprintChanged):
        fs.run(pb.RmDir(parent=ROOT, name=b"d"), stale)
    assert fs.names() == [b"d", b"f"]


def test_every_change_of_an_inode_raises_its_change_counter(fs: Namespace) -> None:
    ino = fs.create(b"f")
    operations = (
        pb.Link(ino=ino, parent=ROOT, name=b"g"),
        pb.Rename(parent=ROOT, name=b"g", new_parent=ROOT, new_name=b"h"),
        pb.SetAttr(ino=ino, mode=0o600),
        pb.SetAttr(ino=ino, size=100),
        pb.SetXattr(ino=ino, name=b"user.a", value=b"1"),
        pb.RemoveXattr(ino=ino, name=b"user.a"),
        pb.Fallocate(ino=ino, length=200),
        pb.CommitWrite(ino=ino, size=300),
        pb.Open(ino=ino, truncate=True),
        pb.Unlink(parent=ROOT, name=b"h"),
    )
    for op in operations:
        before = fs.attr(ino)
        fs.run(op)
        after = fs.attr(ino)
        assert after.change > before.change
        assert after.ctime_ns == fs.now_ns - 1_000
