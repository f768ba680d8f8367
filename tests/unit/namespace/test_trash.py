"""The trash as a set of rules: what comes into it, who sees it, how it is restored, and that fsck agrees."""

import stat

import pytest

from cairnfs.base.limits import NAME_MAX_BYTES, ROOT_INO, TRASH_INO
from cairnfs.base.reserved import TRASH
from cairnfs.coordinator import keys
from cairnfs.coordinator.namespace import policy, restoring, trash, trash_list, tree, usage
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.records import AS_AROUND, Trashed
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace, fails

WEEK_S = 7 * 86_400
OWNER, OTHER, ADMIN = pb.Caller(uid=1000, gid=1000), pb.Caller(uid=2000, gid=2000), pb.Caller()


@pytest.fixture
def fs() -> Namespace:
    fs = Namespace()
    keep(fs, ROOT, WEEK_S)
    fs.run(pb.SetAttr(ino=ROOT, mode=0o777))
    return fs


def keep(fs: Namespace, directory: int, trash_s: int) -> None:
    """Set how long a directory keeps what is removed."""
    fs.write(lambda txn: policy.change(txn, pb.SetPolicyRequest(trash_s=trash_s), directory, fs.now_ns))


def entries(fs: Namespace, caller: pb.Caller = ADMIN, path: str = "") -> dict[bytes, pb.TrashEntry]:
    """What a caller is told of the trash, by where it was."""
    request = pb.ListTrashRequest(caller=caller, path=path)
    reply = fs.engine.read(lambda txn: trash_list.read(txn, request))
    assert reply.end
    return {entry.path: entry for entry in reply.entries}


def restore(fs: Namespace, path: bytes, to: str = "", caller: pb.Caller = ADMIN) -> None:
    """Restore what was there."""
    name = entries(fs)[path].name
    moves = fs.engine.read(lambda txn: restoring.plan(txn, name, to, caller))
    env = Env(caller, fs.now_ns, restoring.footprint(moves))
    fs.write(lambda txn: restoring.apply(txn, moves, env))


def unlink(fs: Namespace, name: bytes, parent: int = ROOT) -> common_pb2.Attr:
    reply: pb.RemoveReply = fs.run(pb.Unlink(parent=parent, name=name))
    return reply.attr


def rmdir(fs: Namespace, name: bytes, parent: int = ROOT) -> None:
    fs.run(pb.RmDir(parent=parent, name=name))


# ------------------------------------------------------------------ into the trash


def test_a_removed_file_keeps_its_bytes_under_a_name_in_the_trash(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    ino = fs.create(b"f", directory)
    fs.commit(ino, 0, b"content")
    attr = unlink(fs, b"f", directory)
    assert (attr.nlink, attr.realm) == (1, TRASH_INO)
    [(path, entry)] = entries(fs).items()
    assert (path, entry.attr.ino, entry.removed_by) == (b"/d/f", ino, fs.caller.uid)
    assert entry.expires_ms - entry.removed_ms == WEEK_S * 1000
    assert entry.name.endswith(b"-%d-f" % ino)
    assert fs.find(entry.name, TRASH_INO) == ino
    assert fs.content(ino) == b"content"
    assert fs.find(TRASH) == TRASH_INO
    fs.assert_sound()


def test_without_a_policy_there_is_no_trash() -> None:
    fs = Namespace()
    fs.create(b"f")
    assert unlink(fs, b"f").nlink == 0
    assert fs.find(TRASH) is None
    fs.assert_sound()


def test_only_the_last_name_goes_into_the_trash(fs: Namespace) -> None:
    ino = fs.create(b"a")
    fs.run(pb.Link(ino=ino, parent=ROOT, name=b"b"))
    assert (unlink(fs, b"a").nlink, entries(fs)) == (1, {})
    unlink(fs, b"b")
    assert list(entries(fs)) == [b"/b"]
    fs.assert_sound()


def test_what_a_rename_replaces_goes_into_the_trash(fs: Namespace) -> None:
    old, new = fs.create(b"f"), fs.create(b"new")
    reply = fs.run(pb.Rename(parent=ROOT, name=b"new", new_parent=ROOT, new_name=b"f"))
    assert (reply.replaced.ino, reply.replaced.realm, fs.find(b"f")) == (old, TRASH_INO, new)
    assert entries(fs)[b"/f"].attr.ino == old
    fs.assert_sound()


@pytest.mark.parametrize("name", [b"a~", b".f.swp", b"x.tmp", b".nfs0001", b"~$doc.docx", b"4913"])
def test_files_that_programs_remove_themselves_are_not_kept(fs: Namespace, name: bytes) -> None:
    fs.create(name)
    assert unlink(fs, name).nlink == 0
    assert entries(fs) == {}


def test_a_socket_is_not_kept_and_a_symbolic_link_is(fs: Namespace) -> None:
    fs.run(pb.MkNod(parent=ROOT, name=b"s", mode=stat.S_IFSOCK | 0o600, exclusive=True))
    fs.run(pb.Symlink(parent=ROOT, name=b"l", target=b"there"))
    unlink(fs, b"s")
    unlink(fs, b"l")
    assert list(entries(fs)) == [b"/l"]
    fs.reap()
    fs.assert_sound()


def test_a_directory_may_keep_nothing_in_a_tree_that_keeps(fs: Namespace) -> None:
    scratch = fs.mkdir(b"scratch")
    keep(fs, scratch, 0)
    fs.create(b"f", scratch)
    assert unlink(fs, b"f", scratch).nlink == 0
    keep(fs, scratch, AS_AROUND)
    assert fs.attr(scratch).realm == ROOT


def test_a_long_name_is_cut_between_characters(fs: Namespace) -> None:
    name = "ä".encode() * (NAME_MAX_BYTES // 2)
    fs.create(name)
    unlink(fs, name)
    [(path, entry)] = entries(fs).items()
    assert path == b"/" + name
    assert len(entry.name) in (NAME_MAX_BYTES, NAME_MAX_BYTES - 1)
    assert "ä" in entry.name.decode()


def test_the_policy_of_a_single_file_ends_with_its_name(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.write(lambda txn: policy.change(txn, pb.SetPolicyRequest(replicas=3), ino, fs.now_ns))
    unlink(fs, b"f")
    assert fs.engine.read(lambda txn: usage.find_realm(txn, ino)) is None
    fs.assert_sound()
    restore(fs, b"/f")
    assert fs.attr(ino).realm == ROOT
    fs.assert_sound()


def test_trash_counts_to_no_quota_but_to_the_file_system(fs: Namespace) -> None:
    home = fs.mkdir(b"team")
    fs.write(lambda txn: policy.change(txn, pb.SetPolicyRequest(inodes_limit=2), home, fs.now_ns))
    ino = fs.create(b"f", home)
    fs.commit(ino, 0, b"x" * 100)
    before = fs.engine.read(usage.read)
    unlink(fs, b"f", home)
    assert fs.engine.read(lambda txn: usage.read(txn, home)) == usage.Usage(1, 0)
    assert fs.engine.read(lambda txn: usage.read(txn, TRASH_INO)) == usage.Usage(2, 100)
    assert fs.engine.read(usage.read) == before
    fs.create(b"other", home)
    with fails(common_pb2.ERROR_CODE_QUOTA):
        restore(fs, b"/team/f")
    fs.assert_sound()


# ------------------------------------------------------------------ in the trash


def test_each_user_sees_what_he_owns_or_removed(fs: Namespace) -> None:
    fs.create(b"owned")
    fs.caller = OTHER
    fs.create(b"foreign")
    ino = fs.find(b"owned")
    unlink(fs, b"owned")  # as the directory lets him
    unlink(fs, b"foreign")
    assert list(entries(fs, OWNER)) == [b"/owned"]
    assert sorted(entries(fs, OTHER)) == [b"/foreign", b"/owned"]
    foreign, owned = entries(fs)[b"/foreign"].name, entries(fs)[b"/owned"].name
    fs.caller = OWNER
    assert fs.names(TRASH_INO) == [owned]
    assert (fs.find(foreign, TRASH_INO), fs.find(owned, TRASH_INO)) == (None, ino)
    for op in (
        pb.Unlink(parent=TRASH_INO, name=foreign),
        pb.Rename(parent=TRASH_INO, name=foreign, new_parent=ROOT, new_name=b"mine"),
    ):
        with fails(common_pb2.ERROR_CODE_NOT_FOUND):
            fs.run(op)
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        restore(fs, b"/foreign", caller=OWNER)


def test_a_listing_goes_on_behind_what_it_does_not_show(fs: Namespace) -> None:
    for number in range(7):
        fs.caller = OTHER if number < 5 else OWNER
        fs.create(b"%d" % number)
        unlink(fs, b"%d" % number)
    fs.caller = OWNER
    seen, after, pages = [], b"", 0
    while True:
        reply = fs.run(pb.ReadDir(ino=TRASH_INO, after=after, limit=2))
        seen += [entry.name[-1:] for entry in reply.entries]
        after, pages = reply.behind, pages + 1
        if reply.end:
            break
    assert (sorted(seen), pages) == ([b"5", b"6"], 4)


def test_nothing_is_made_or_exchanged_in_the_trash(fs: Namespace) -> None:
    removed = fs.mkdir(b"d")
    rmdir(fs, b"d")
    file = fs.create(b"f")
    fs.create(b"g")
    unlink(fs, b"g")
    name = entries(fs)[b"/g"].name
    for op in (
        pb.MkNod(parent=TRASH_INO, name=b"x", mode=0o600, exclusive=True),
        pb.MkDir(parent=TRASH_INO, name=b"x"),
        pb.Link(ino=file, parent=TRASH_INO, name=b"x"),
        pb.Rename(parent=ROOT, name=b"f", new_parent=TRASH_INO, new_name=b"x"),
        pb.Rename(parent=TRASH_INO, name=name, new_parent=TRASH_INO, new_name=b"x"),
        pb.Rename(parent=TRASH_INO, name=name, new_parent=ROOT, new_name=b"f", flags=2),
    ):
        with fails(common_pb2.ERROR_CODE_NOT_PERMITTED):
            fs.run(op)
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        fs.create(b"x", removed)
    with fails(common_pb2.ERROR_CODE_NOT_PERMITTED):
        keep(fs, TRASH_INO, 1)
    fs.assert_sound()


def test_a_name_of_the_trash_is_removed_for_good(fs: Namespace) -> None:
    ino = fs.create(b"f")
    fs.commit(ino, 0, b"content")
    unlink(fs, b"f")
    fs.mkdir(b"d")
    rmdir(fs, b"d")
    assert unlink(fs, entries(fs)[b"/f"].name, TRASH_INO).nlink == 0
    rmdir(fs, entries(fs)[b"/d"].name, TRASH_INO)
    assert entries(fs) == {}
    fs.reap()
    assert fs.engine.read(usage.read) == usage.Usage(2, 0)
    fs.assert_sound()


def test_what_has_been_kept_long_enough_ends_in_order(fs: Namespace) -> None:
    inos = [fs.create(b"%d" % number) for number in range(3)]
    for number in range(3):
        if number == 2:
            keep(fs, ROOT, WEEK_S * 2)  # what is in the trash already stays as long as was said then
        unlink(fs, b"%d" % number)
    assert fs.engine.read(lambda txn: trash.list_ended(txn, fs.now_ns, 9)) == []
    later_ns = fs.now_ns + WEEK_S * 1_000_000_000
    ended = fs.engine.read(lambda txn: trash.list_ended(txn, later_ns, 9))
    assert ended == inos[:2]
    env = Env(ADMIN, fs.now_ns, trash.footprint(ended))
    assert fs.write(lambda txn: trash.end(txn, [*ended, 999], env)) == ended
    assert list(entries(fs)) == [b"/2"]
    fs.reap()
    assert fs.engine.read(lambda txn: tree.find_inode(txn, inos[0])) is None
    fs.assert_sound()


# ------------------------------------------------------------------ out of the trash


def test_a_rename_takes_an_entry_out(fs: Namespace) -> None:
    ino = fs.create(b"f")
    unlink(fs, b"f")
    name = entries(fs)[b"/f"].name
    reply = fs.run(pb.Rename(parent=TRASH_INO, name=name, new_parent=ROOT, new_name=b"back"))
    assert (reply.moved.realm, reply.moved.nlink) == (ROOT, 1)
    assert (fs.find(b"back"), entries(fs)) == (ino, {})
    fs.mkdir(b"d")
    rmdir(fs, b"d")
    name = entries(fs)[b"/d"].name
    fs.run(pb.Rename(parent=TRASH_INO, name=name, new_parent=ROOT, new_name=b"d"))
    fs.create(b"inside", fs.find(b"d") or 0)
    assert (fs.attr(ROOT).nlink, fs.attr(TRASH_INO).nlink) == (3, 2)
    fs.assert_sound()


def test_a_removed_tree_comes_back_with_its_directories(fs: Namespace) -> None:
    outer = fs.mkdir(b"outer", mode=0o750)
    inner = fs.mkdir(b"inner", outer)
    files = [fs.create(name, inner) for name in (b"a", b"b")]
    fs.run(pb.SetXattr(ino=inner, name=b"user.x", value=b"1"))
    for name in (b"a", b"b"):
        unlink(fs, name, inner)
    rmdir(fs, b"inner", outer)
    rmdir(fs, b"outer")
    assert sorted(entries(fs, path="/outer/inner")) == [b"/outer/inner", b"/outer/inner/a", b"/outer/inner/b"]
    fs.assert_sound()
    restore(fs, b"/outer/inner/a")
    assert (fs.find(b"outer"), fs.find(b"inner", outer), fs.find(b"a", inner)) == (outer, inner, files[0])
    assert stat.S_IMODE(fs.attr(outer).mode) == 0o750
    restore(fs, b"/outer/inner/b")
    assert (fs.names(inner), entries(fs)) == ([b"a", b"b"], {})
    fs.assert_sound()


def test_a_directory_that_was_made_again_takes_what_was_in_the_old_one(fs: Namespace) -> None:
    old = fs.mkdir(b"d")
    file = fs.create(b"f", old)
    unlink(fs, b"f", old)
    rmdir(fs, b"d")
    new = fs.mkdir(b"d")
    restore(fs, b"/d/f")
    assert (fs.find(b"f", new), list(entries(fs))) == (file, [b"/d"])
    fs.assert_sound()


def test_a_name_that_is_taken_is_told_and_another_can_be_given(fs: Namespace) -> None:
    old = fs.create(b"f")
    unlink(fs, b"f")
    fs.create(b"f")
    target = fs.mkdir(b"t")
    with fails(common_pb2.ERROR_CODE_EXISTS):
        restore(fs, b"/f")
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        restore(fs, b"/f", "/nowhere/f")
    with fails(common_pb2.ERROR_CODE_NOT_PERMITTED):
        restore(fs, b"/f", "/.trash/f")
    restore(fs, b"/f", "/t")
    assert fs.find(b"f", target) == old
    unlink(fs, b"f", target)
    restore(fs, b"/t/f", "/t/other")
    assert fs.find(b"other", target) == old
    fs.assert_sound()


def test_what_was_in_a_directory_that_is_gone_for_good_needs_a_place(fs: Namespace) -> None:
    directory = fs.mkdir(b"d")
    file = fs.create(b"f", directory)
    unlink(fs, b"f", directory)
    rmdir(fs, b"d")
    rmdir(fs, entries(fs)[b"/d"].name, TRASH_INO)
    [(path, entry)] = entries(fs).items()
    assert (path, entry.gone) == (b"(gone)/f", True)
    with fails(common_pb2.ERROR_CODE_NOT_FOUND):
        restore(fs, path)
    restore(fs, path, "/f")
    assert fs.find(b"f") == file


def test_users_restore_where_they_may_write(fs: Namespace) -> None:
    closed = fs.mkdir(b"closed")
    fs.create(b"f", closed)
    unlink(fs, b"f", closed)
    fs.run(pb.SetAttr(ino=closed, uid=0, gid=0, mode=0o755))
    with fails(common_pb2.ERROR_CODE_ACCESS):
        restore(fs, b"/closed/f", caller=OWNER)
    restore(fs, b"/closed/f", "/mine", caller=OWNER)
    fs.assert_sound()


# ------------------------------------------------------------------ damage


def damaged(fs: Namespace, harm: str) -> None:
    """Break the trash, which has /f, in one way."""
    ino = next(iter(entries(fs).values())).attr.ino

    def apply(txn: Transaction) -> None:
        record = trash.find_record(txn, ino)
        assert record is not None
        if harm == "no record":
            trash.forget(txn, ino)
        elif harm == "no end":
            txn.delete(keys.trash_end(record.expires_ns, ino))
        elif harm == "stray record":
            trash.write_record(txn, 777, Trashed(ROOT_INO, 1, 2, 3, b"x"))
        elif harm == "stray end":
            txn.put(keys.trash_end(5, ino), b"")
        elif harm == "no name":
            txn.delete(keys.dentry(ROOT, TRASH))

    fs.write(apply)


@pytest.mark.parametrize("harm", ["no record", "no end", "stray record", "stray end", "no name"])
def test_fsck_finds_and_mends_damage_of_the_trash(fs: Namespace, harm: str) -> None:
    fs.create(b"f")
    unlink(fs, b"f")
    damaged(fs, harm)
    assert list(fs.check().problems) != []
    for _ in range(3):
        for mend in fs.checker().mends:
            fs.write(lambda txn, mend=mend: mend.apply(txn, fs.now_ns))  # type: ignore[misc]
    fs.assert_sound()
    kept = fs.find(b"lost+found") is None
    assert list(entries(fs)) == ([b"/f"] if kept else [])
    assert kept == (harm != "no record")
