"""The checker: sound metadata pass, every kind of damage is found, changes meanwhile are no faults."""

from collections.abc import Callable

import pytest

from cairnfs.base.limits import REPLIES_PURGED_AT_ONCE
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import tree, usage
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.coordinator.records import Dentry, decode_slices, encode_slices
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace

FILE, DIRECTORY, LINK = b"file", b"directory", b"link"


@pytest.fixture
def fs() -> Namespace:
    fs = Namespace()
    directory = fs.mkdir(DIRECTORY)
    fs.mkdir(b"below", directory)
    for name in (FILE, b"other"):
        fs.commit(fs.create(name), 0, b"content of " + name)
        fs.commit(fs.create(name, directory), 0, b"shared")
    fs.run(pb.Symlink(parent=ROOT, name=LINK, target=b"t"))
    fs.run(pb.SetXattr(ino=directory, name=b"user.x", value=b"1"))
    fs.create(b"gone")
    fs.run(pb.Unlink(parent=ROOT, name=b"gone"))
    return fs


def ino_of(fs: Namespace, name: bytes) -> int:
    ino = fs.find(name)
    assert ino is not None
    return ino


def alter(fs: Namespace, name: bytes, **fields: int) -> None:
    """Change fields of an inode behind everybody's back."""
    ino = ino_of(fs, name)
    fs.write(lambda txn: tree.save(txn, ino, tree.load(txn, ino)._replace(**fields)))


def test_a_sound_file_system_is_counted(fs: Namespace) -> None:
    report = fs.check()
    assert list(report.problems) == []
    assert (report.inodes, report.directories, report.chunks) == (9, 3, 3)
    assert (report.missing, report.under_replicated, report.over_replicated, report.unreferenced) == (0,) * 4


def test_replicas_are_counted(fs: Namespace) -> None:
    assert fs.check(wanted_replicas=3).under_replicated == 3
    assert fs.check(wanted_replicas=1).over_replicated == 3
    checker = Checker(2, lambda node: node == 1)
    while not fs.engine.read(lambda txn: checker.step(txn)):
        pass
    assert checker.report.under_replicated == 3
    fs.run(pb.SetAttr(ino=ino_of(fs, FILE), size=0))
    assert fs.check().unreferenced == 1


def _drop_entry(fs: Namespace, txn: Transaction) -> None:
    txn.delete(keys.dentry(ROOT, FILE))


def _drop_inode(fs: Namespace, txn: Transaction) -> None:
    txn.delete(keys.inode(ino_of(fs, LINK)))


def _drop_target(fs: Namespace, txn: Transaction) -> None:
    txn.delete(keys.symlink(ino_of(fs, LINK)))


def _forget_orphan(fs: Namespace, txn: Transaction) -> None:
    for key, _ in txn.scan(*keys.orphan_range()):
        txn.delete(key)


def _add_entry(fs: Namespace, txn: Transaction) -> None:
    txn.put(keys.dentry(ROOT, b"second"), Dentry(ino_of(fs, FILE), 8).encode())


def _add_wrong_type(fs: Namespace, txn: Transaction) -> None:
    txn.put(keys.dentry(ROOT, FILE), Dentry(ino_of(fs, FILE), 4).encode())


def _add_stray_entry(fs: Namespace, txn: Transaction) -> None:
    txn.put(keys.dentry(9_999, b"x"), Dentry(ino_of(fs, FILE), 8).encode())


def _drop_extent(fs: Namespace, txn: Transaction) -> None:
    txn.delete(keys.extent(ino_of(fs, FILE), 0))


def _move_extent(fs: Namespace, txn: Transaction) -> None:
    key = keys.extent(ino_of(fs, FILE), 0)
    value = txn.get(key)
    assert value is not None
    txn.delete(key)
    txn.put(keys.extent(9_999, 0), value)


def _drop_chunk(fs: Namespace, txn: Transaction) -> None:
    [(chunk_id, _)] = chunk_table.scan_chunks(txn, b"", 1)
    txn.delete(keys.chunk(chunk_id))


def _drop_replicas(fs: Namespace, txn: Transaction) -> None:
    [(chunk_id, record)] = chunk_table.scan_chunks(txn, b"", 1)
    txn.put(keys.chunk(chunk_id), record._replace(nodes=()).encode())


def _add_reference(fs: Namespace, txn: Transaction) -> None:
    [(chunk_id, _)] = chunk_table.scan_chunks(txn, b"", 1)
    chunk_table.add_references(txn, chunk_id, len(fs.chunk_bytes[chunk_id]), (), 1)


def _lose_garbage(fs: Namespace, txn: Transaction) -> None:
    chunk_table.add_references(txn, b"g" * 32, 1, (1, 2), 1)
    chunk_table.drop_reference(txn, b"g" * 32, 5)
    txn.delete(keys.garbage(5, b"g" * 32))


def _change_usage(fs: Namespace, txn: Transaction) -> None:
    usage.change(txn, ROOT, inodes=1)


def _drop_xattr(fs: Namespace, txn: Transaction) -> None:
    txn.delete(keys.xattr(ino_of(fs, DIRECTORY), b"user.x"))


def _list_living_chunk(fs: Namespace, txn: Transaction) -> None:
    [(chunk_id, _)] = chunk_table.scan_chunks(txn, b"", 1)
    txn.put(keys.garbage(7, chunk_id), b"")


def _break_slice(fs: Namespace, txn: Transaction) -> None:
    key = keys.extent(ino_of(fs, FILE), 0)
    [one] = decode_slices(txn.get(key) or b"")
    txn.put(key, encode_slices([one._replace(length=one.chunk_length + 5)]))


def _misplace_directory(fs: Namespace, txn: Transaction) -> None:
    ino = ino_of(fs, DIRECTORY)
    tree.save(txn, ino, tree.load(txn, ino)._replace(parent=7_777))


def _name_directory_twice(fs: Namespace, txn: Transaction) -> None:
    txn.put(keys.dentry(ROOT, b"again"), Dentry(ino_of(fs, DIRECTORY), 4).encode())


def _lose_directory(fs: Namespace, txn: Transaction) -> None:
    txn.delete(keys.dentry(ROOT, DIRECTORY))


def _leave_replies(fs: Namespace, txn: Transaction) -> None:
    for seq in range(REPLIES_PURGED_AT_ONCE + 1):
        txn.put(keys.reply("stray", seq), b"reply")


Damage = Callable[[Namespace, Transaction], None]
DAMAGES: list[tuple[Damage, str, str]] = [
    (_drop_entry, "orphaned", "has no name"),
    (_drop_inode, "dangling", "missing inode"),
    (_drop_target, "dangling", "no target"),
    (_forget_orphan, "orphaned", "not to be reaped"),
    (_add_entry, "wrong_links", "1 links instead of 2"),
    (_add_wrong_type, "wrong_links", "another type"),
    (_add_stray_entry, "dangling", "does not exist"),
    (_drop_extent, "wrong_usage", "bytes, holds 0"),
    (_move_extent, "wrong_usage", "missing inode 9999"),
    (_drop_chunk, "wrong_references", "unknown chunk"),
    (_drop_replicas, "missing", "no replica"),
    (_add_reference, "wrong_references", "references, has"),
    (_lose_garbage, "wrong_references", "never be collected"),
    (_change_usage, "wrong_usage", "usage counts"),
    (_drop_xattr, "wrong_usage", "extended attributes"),
    (_list_living_chunk, "wrong_references", "and is not"),
    (_break_slice, "wrong_references", "bad slice"),
    (_misplace_directory, "wrong_links", "with parent 7777"),
    (_name_directory_twice, "wrong_links", "a second name"),
    (_lose_directory, "orphaned", "has no name"),
    (_leave_replies, "dangling", "session stray, which has ended"),
]


@pytest.mark.parametrize(("damage", "field", "text"), DAMAGES)
def test_damage_is_found(fs: Namespace, damage: Damage, field: str, text: str) -> None:
    fs.write(lambda txn: damage(fs, txn))
    report = fs.check()
    assert getattr(report, field) >= 1
    assert any(text in problem for problem in report.problems), report.problems


@pytest.mark.parametrize(("name", "fields"), [(FILE, {"nlink": 2}), (DIRECTORY, {"nlink": 2})])
def test_wrong_link_counts_are_found(fs: Namespace, name: bytes, fields: dict[str, int]) -> None:
    alter(fs, name, **fields)
    assert fs.check().wrong_links == 1


def test_a_wrong_parent_is_found(fs: Namespace) -> None:
    alter(fs, DIRECTORY, parent=77)
    assert fs.check().wrong_links == 1


def test_replies_to_sessions_that_exist_or_are_being_deleted_are_no_faults(fs: Namespace) -> None:
    def body(txn: Transaction) -> None:
        txn.put(keys.session("connected"), b"")
        txn.put(keys.ended_session("ended"), b"")
        for session_id in ("connected", "ended"):
            txn.put(keys.reply(session_id, 1), b"reply")

    fs.write(body)
    assert list(fs.check().problems) == []


def test_changes_during_the_check_are_no_faults(fs: Namespace) -> None:
    checker = Checker(2, lambda _node: True)
    number = 0
    while not fs.engine.read(lambda txn: checker.step(txn, 1)):
        number += 1
        directory = fs.mkdir(b"new%d" % number)
        file = fs.create(b"f", directory)
        fs.commit(file, 0, b"shared")
        fs.commit(file, 0, b"own %d" % number)
        if number % 3 == 0:
            fs.run(pb.Unlink(parent=directory, name=b"f"))
            fs.run(pb.RmDir(parent=ROOT, name=b"new%d" % number))
            fs.reap()
        if number == 200:
            break
    while not fs.engine.read(lambda txn: checker.step(txn, 1_000)):
        pass
    assert list(checker.report.problems) == []
