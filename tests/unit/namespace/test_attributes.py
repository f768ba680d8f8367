"""set_attr, extended attributes and access control lists."""

import stat

import pytest

from cairnfs.base.limits import FILE_SIZE_MAX_BYTES, XATTR_LIST_MAX_BYTES, XATTR_VALUE_MAX_BYTES
from cairnfs.coordinator.namespace import acl, reap
from cairnfs.coordinator.namespace.acl import Entry, Tag
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace, fails

INVALID = common_pb2.ERROR_CODE_INVALID
NO_DATA = common_pb2.ERROR_CODE_NO_DATA
CREATE, REPLACE = 1, 2

EXTENDED = (
    Entry(Tag.USER_OBJ, 6),
    Entry(Tag.USER, 7, 1001),
    Entry(Tag.GROUP_OBJ, 5),
    Entry(Tag.MASK, 7),
    Entry(Tag.OTHER, 0),
)
MINIMAL = (Entry(Tag.USER_OBJ, 7), Entry(Tag.GROUP_OBJ, 5), Entry(Tag.OTHER, 1))


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def set_xattr(fs: Namespace, ino: int, name: bytes, value: bytes, flags: int = 0) -> common_pb2.Attr:
    reply: pb.AttrReply = fs.run(pb.SetXattr(ino=ino, name=name, value=value, flags=flags))
    return reply.attr


def get_xattr(fs: Namespace, ino: int, name: bytes) -> bytes:
    reply: pb.XattrReply = fs.run(pb.GetXattr(ino=ino, name=name))
    return reply.value


def test_set_attr_changes_only_what_is_given(fs: Namespace) -> None:
    ino = fs.create(b"f")
    before = fs.attr(ino)
    after = fs.run(pb.SetAttr(ino=ino, uid=5)).attr
    assert (after.uid, after.gid, after.mode, after.mtime_ns) == (5, before.gid, before.mode, before.mtime_ns)
    assert after.ctime_ns == fs.now_ns
    after = fs.run(pb.SetAttr(ino=ino, mode=stat.S_IFDIR | 0o4711)).attr
    assert after.mode == stat.S_IFREG | 0o4711
    later_ns = fs.now_ns + 1_000_000
    after = fs.run(pb.SetAttr(ino=ino, atime_ns=-1, mtime_ns=2, ctime_ns=later_ns)).attr
    assert (after.atime_ns, after.mtime_ns, after.ctime_ns) == (-1, 2, later_ns)
    after = fs.run(pb.SetAttr(ino=ino, ctime_ns=3)).attr
    assert after.ctime_ns == later_ns  # a change that had waited at its client


def test_killing_set_id_bits_spares_the_group_bit_without_group_execution(fs: Namespace) -> None:
    ino = fs.create(b"f")
    for mode, expected in ((0o6755, 0o755), (0o6745, 0o2745), (0o755, 0o755)):
        fs.run(pb.SetAttr(ino=ino, mode=mode))
        assert fs.run(pb.SetAttr(ino=ino, kill_suid_sgid=True)).attr.mode == stat.S_IFREG | expected


def test_a_size_belongs_to_regular_files(fs: Namespace) -> None:
    with fails(common_pb2.ERROR_CODE_IS_DIRECTORY):
        fs.run(pb.SetAttr(ino=fs.mkdir(b"d"), size=0))
    link = fs.run(pb.Symlink(parent=ROOT, name=b"l", target=b"t")).attr.ino
    with fails(INVALID):
        fs.run(pb.SetAttr(ino=link, size=0))
    with fails(common_pb2.ERROR_CODE_FILE_TOO_LARGE):
        fs.run(pb.SetAttr(ino=fs.create(b"f"), size=FILE_SIZE_MAX_BYTES + 1))
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        fs.run(pb.SetAttr(ino=4_444, mode=0))


def test_xattrs_are_set_listed_replaced_and_removed(fs: Namespace) -> None:
    ino = fs.create(b"f")
    assert set_xattr(fs, ino, b"user.b", b"\0\xff").has_xattrs
    set_xattr(fs, ino, b"user.a", b"")
    assert get_xattr(fs, ino, b"user.b") == b"\0\xff"
    assert get_xattr(fs, ino, b"user.a") == b""
    assert list(fs.run(pb.ListXattr(ino=ino)).names) == [b"user.a", b"user.b"]
    with fails(common_pb2.ERROR_CODE_EXISTS):
        set_xattr(fs, ino, b"user.a", b"x", CREATE)
    with fails(NO_DATA):
        set_xattr(fs, ino, b"user.c", b"x", REPLACE)
    set_xattr(fs, ino, b"user.a", b"y", REPLACE)
    assert get_xattr(fs, ino, b"user.a") == b"y"
    fs.run(pb.RemoveXattr(ino=ino, name=b"user.a"))
    assert not fs.run(pb.RemoveXattr(ino=ino, name=b"user.b")).attr.has_xattrs
    for op in (pb.GetXattr(ino=ino, name=b"user.a"), pb.RemoveXattr(ino=ino, name=b"user.a")):
        with fails(NO_DATA):
            fs.run(op)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"", common_pb2.ERROR_CODE_RANGE),
        (b"user." + b"x" * 251, common_pb2.ERROR_CODE_RANGE),
        (b"user.", INVALID),
        (b"other.x", common_pb2.ERROR_CODE_NOT_SUPPORTED),
        (b"system.x", common_pb2.ERROR_CODE_NOT_SUPPORTED),
    ],
)
def test_xattr_names_are_checked(fs: Namespace, name: bytes, code: "common_pb2.ErrorCode.ValueType") -> None:
    ino = fs.create(b"f")
    for op in (
        pb.SetXattr(ino=ino, name=name, value=b"x"),
        pb.GetXattr(ino=ino, name=name),
        pb.RemoveXattr(ino=ino, name=name),
    ):
        with fails(code):
            fs.run(op)


def test_xattrs_are_bounded_in_value_and_number(fs: Namespace) -> None:
    ino = fs.create(b"f")
    set_xattr(fs, ino, b"user.a", b"x" * XATTR_VALUE_MAX_BYTES)
    with fails(common_pb2.ERROR_CODE_TOO_BIG):
        set_xattr(fs, ino, b"user.b", b"x" * (XATTR_VALUE_MAX_BYTES + 1))
    names = [b"user.%0250d" % number for number in range(XATTR_LIST_MAX_BYTES // 256)]
    for name in names[:-1]:
        set_xattr(fs, ino, name, b"")
    with fails(common_pb2.ERROR_CODE_NO_SPACE):
        set_xattr(fs, ino, names[-1], b"")
    fs.run(pb.Unlink(parent=ROOT, name=b"f"))
    fs.reap()
    assert fs.engine.read(reap.list_orphans) == []


def test_an_access_list_sets_the_mode_and_chmod_sets_its_mask(fs: Namespace) -> None:
    ino = fs.create(b"f", mode=0o600)
    assert set_xattr(fs, ino, acl.ACCESS_NAME, acl.serialise(EXTENDED)).mode == stat.S_IFREG | 0o670
    fs.run(pb.SetAttr(ino=ino, mode=0o640))
    stored = {entry.tag: entry.perm for entry in acl.parse(get_xattr(fs, ino, acl.ACCESS_NAME))}
    assert stored == {Tag.USER_OBJ: 6, Tag.USER: 7, Tag.GROUP_OBJ: 5, Tag.MASK: 4, Tag.OTHER: 0}


def test_an_access_list_that_says_no_more_than_the_mode_is_not_stored(fs: Namespace) -> None:
    ino = fs.create(b"f")
    set_xattr(fs, ino, acl.ACCESS_NAME, acl.serialise(EXTENDED))
    attr = set_xattr(fs, ino, acl.ACCESS_NAME, acl.serialise(MINIMAL))
    assert attr.mode == stat.S_IFREG | 0o751
    assert not attr.has_xattrs
    with fails(NO_DATA):
        get_xattr(fs, ino, acl.ACCESS_NAME)


def test_a_default_list_belongs_to_directories(fs: Namespace) -> None:
    file, directory = fs.create(b"f"), fs.mkdir(b"d")
    with fails(common_pb2.ERROR_CODE_ACCESS):
        set_xattr(fs, file, acl.DEFAULT_NAME, acl.serialise(EXTENDED))
    set_xattr(fs, file, acl.DEFAULT_NAME, acl.serialise(()))
    before = fs.attr(directory).mode
    assert set_xattr(fs, directory, acl.DEFAULT_NAME, acl.serialise(EXTENDED)).mode == before
    assert not set_xattr(fs, directory, acl.DEFAULT_NAME, acl.serialise(())).has_xattrs
    link = fs.run(pb.Symlink(parent=ROOT, name=b"l", target=b"t")).attr.ino
    with fails(common_pb2.ERROR_CODE_NOT_SUPPORTED):
        set_xattr(fs, link, acl.ACCESS_NAME, acl.serialise(EXTENDED))


def test_new_inodes_inherit_the_default_list_and_ignore_the_umask(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    set_xattr(fs, directory, acl.DEFAULT_NAME, acl.serialise(EXTENDED))
    file = fs.attr(fs.create(b"f", directory, mode=0o666))
    assert file.mode == stat.S_IFREG | 0o660
    access = {entry.tag: entry.perm for entry in acl.parse(get_xattr(fs, file.ino, acl.ACCESS_NAME))}
    assert access == {Tag.USER_OBJ: 6, Tag.USER: 7, Tag.GROUP_OBJ: 5, Tag.MASK: 6, Tag.OTHER: 0}
    below = fs.attr(fs.mkdir(b"below", directory, mode=0o777))
    assert below.mode == stat.S_IFDIR | 0o670
    assert get_xattr(fs, below.ino, acl.DEFAULT_NAME) == acl.serialise(EXTENDED)
    link = fs.run(pb.Symlink(parent=directory, name=b"l", target=b"t")).attr
    assert not link.has_xattrs


def test_a_minimal_default_list_only_limits_the_mode(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    set_xattr(fs, directory, acl.DEFAULT_NAME, acl.serialise(MINIMAL))
    file = fs.attr(fs.create(b"f", directory, mode=0o666))
    assert file.mode == stat.S_IFREG | 0o640
    assert not file.has_xattrs


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", INVALID),
        (b"\2\0\0\0x", INVALID),
        (b"\1\0\0\0", common_pb2.ERROR_CODE_NOT_SUPPORTED),
        (acl.serialise(MINIMAL[1:]), INVALID),
        (acl.serialise((MINIMAL[1], MINIMAL[0], MINIMAL[2])), INVALID),
        (acl.serialise((*MINIMAL[:2], Entry(Tag.OTHER, 9))), INVALID),
        (acl.serialise((*MINIMAL, Entry(0x40, 1))), INVALID),
        (acl.serialise(tuple(entry for entry in EXTENDED if entry.tag != Tag.MASK)), INVALID),
        (acl.serialise((MINIMAL[0], Entry(Tag.USER, 1, 0xFFFFFFFF), *EXTENDED[2:])), INVALID),
    ],
)
def test_malformed_lists_are_refused(
    fs: Namespace, value: bytes, code: "common_pb2.ErrorCode.ValueType"
) -> None:
    with fails(code):
        set_xattr(fs, fs.create(b"f"), acl.ACCESS_NAME, value)
