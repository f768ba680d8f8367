"""`fsck --repair`: every kind of damage is mended, what is lost is named, and nothing else is touched."""

import asyncio
from collections.abc import Callable

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import policy, reap, tree, usage
from cairnfs.coordinator.namespace.mends import LOST_AND_FOUND, Mend
from cairnfs.coordinator.upkeep.fsck import run_fsck
from cairnfs.engine.interface import Transaction
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace
from tests.unit.namespace.test_check import DAMAGES, DIRECTORY, FILE, Damage, fs, ino_of
from tests.unit.upkeep.simulation import Cluster, DirectStore

__all__ = ["fs"]

_NOT_METADATA = {"inodes", "directories", "chunks", "missing", "under_replicated", "unreferenced"}
_NOT_FAULTS = {"problems", "repairs", "mended", "lost"}


def _nothing() -> None:
    """Nobody uses the file system meanwhile."""


class Mender:
    """Repairs at once: nobody has leases here, and nobody has orphans open."""

    def __init__(self, fs: Namespace) -> None:
        self._fs = fs
        self.before_mend: Callable[[], None] = _nothing

    async def mend(self, mend: Mend) -> bool:
        self.before_mend()
        return self._fs.write(lambda txn: mend.apply(txn, self._fs.now_ns))

    def look_for_orphans(self) -> None:
        for ino in self._fs.engine.read(lambda txn: list(reap.list_orphans(txn))):
            while not self._fs.write(lambda txn, ino=ino: reap.reap_step(txn, ino, self._fs.now_ns)):  # type: ignore[misc]
                pass


def fsck(fs: Namespace, mender: Mender, *, repair: bool) -> pb.FsckReport:
    """One run without datanodes: all chunks count as missing."""
    cluster = Cluster(nodes=0)
    request = pb.FsckRequest(repair=repair)

    async def main() -> pb.FsckReport:
        report = pb.FsckReport()
        async for progress in run_fsck(
            DirectStore(fs.engine), cluster.upkeep, cluster.clock, request, mender
        ):
            report = progress.report
        return report

    return asyncio.run(main())


def faults(report: pb.FsckReport) -> dict[str, int]:
    """Counts of what is wrong with the metadata."""
    skipped = _NOT_METADATA | _NOT_FAULTS
    return {field.name: value for field, value in report.ListFields() if field.name not in skipped}


@pytest.mark.parametrize(("damage", "field", "text"), DAMAGES)
def test_every_damage_is_mended_and_then_nothing_is_left_to_mend(
    fs: Namespace, damage: Damage, field: str, text: str
) -> None:
    fs.write(lambda txn: damage(fs, txn))
    mender = Mender(fs)
    dry = fsck(fs, mender, repair=False)
    assert dry.mended == 0
    assert fsck(fs, mender, repair=False).problems == dry.problems, "a dry run changed something"
    report = fsck(fs, mender, repair=True)
    assert faults(report) == {}, list(report.problems)
    if field != "missing":
        assert any(text in repair for repair in report.repairs), list(report.repairs)
    again = fsck(fs, mender, repair=True)
    assert (again.mended, faults(again)) == (0, {})


def test_all_damages_at_once_are_mended(fs: Namespace) -> None:
    for damage, _field, _text in DAMAGES:
        try:
            fs.write(lambda txn, damage=damage: damage(fs, txn))  # type: ignore[misc]
        except (AssertionError, ValueError, CairnError):
            continue  # what it would damage is gone
    report = fsck(fs, Mender(fs), repair=True)
    assert faults(report) == {}, list(report.problems)


def _miscount_realm(fs: Namespace, txn: Transaction, top: int) -> None:
    usage.save_realm(txn, top, usage.load_realm(txn, top)._replace(used_bytes=7, used_inodes=1))


def _lose_realm(fs: Namespace, txn: Transaction, top: int) -> None:
    txn.delete(keys.realm(top))


def _lose_root_realm(fs: Namespace, txn: Transaction, top: int) -> None:
    txn.delete(keys.realm(ROOT))


def _lose_realm_and_directory(fs: Namespace, txn: Transaction, top: int) -> None:
    for key in (keys.realm(top), keys.inode(top), keys.dentry(ROOT, b"top")):
        txn.delete(key)


def _belong_to_root(fs: Namespace, txn: Transaction, top: int) -> None:
    for name in (b"a", b"sub"):
        ino = fs.find(name, top)
        assert ino is not None
        tree.save(txn, ino, tree.load(txn, ino)._replace(realm=ROOT))


def _belong_to_nothing(fs: Namespace, txn: Transaction, top: int) -> None:
    ino = ino_of(fs, DIRECTORY)
    tree.save(txn, ino, tree.load(txn, ino)._replace(realm=4_711))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (_miscount_realm, "there are"),
        (_lose_realm, "missing realm"),
        (_lose_root_realm, "missing realm 1"),
        (_lose_realm_and_directory, "missing realm"),
        (_belong_to_root, "belongs to realm 1 instead of"),
        (_belong_to_nothing, "missing realm 4711"),
    ],
)
def test_realms_are_mended(
    fs: Namespace, damage: Callable[[Namespace, Transaction, int], None], text: str
) -> None:
    top = fs.mkdir(b"top")
    fs.write(lambda txn: policy.change(txn, pb.SetPolicyRequest(inodes_limit=9), top, fs.now_ns))
    for directory in (top, fs.mkdir(b"sub", top)):
        fs.commit(fs.create(b"a", directory), 0, b"a content")
    fs.write(lambda txn: damage(fs, txn, top))
    mender = Mender(fs)
    dry = fsck(fs, mender, repair=False)
    assert faults(dry)["wrong_usage"] > 0
    assert any(text in problem for problem in dry.problems), list(dry.problems)
    assert fsck(fs, mender, repair=False).problems == dry.problems, "a dry run changed something"
    report = fsck(fs, mender, repair=True)
    assert faults(report) == {}, list(report.problems)
    again = fsck(fs, mender, repair=True)
    assert (again.mended, faults(again)) == (0, {})
    fs.create(b"usable", ino_of(fs, DIRECTORY))
    fs.assert_sound()


def test_what_lost_its_name_is_found_again(fs: Namespace) -> None:
    file, directory = ino_of(fs, FILE), ino_of(fs, DIRECTORY)
    for name in (FILE, DIRECTORY):
        fs.write(lambda txn, name=name: txn.delete(keys.dentry(ROOT, name)))  # type: ignore[misc]
    fsck(fs, Mender(fs), repair=True)
    home = fs.find(LOST_AND_FOUND)
    assert home is not None
    assert fs.find(b"#%d" % file, home) == file
    assert fs.find(b"#%d" % directory, home) == directory
    assert fs.attr(file).nlink == 1
    assert fs.attr(home).nlink == 3
    assert fs.find(b"below", directory) is not None


def test_lost_bytes_are_named_by_path_and_range(fs: Namespace) -> None:
    inner = fs.create(b"inner", ino_of(fs, DIRECTORY))
    fs.commit(inner, 5_000_000, b"precious")
    report = fsck(fs, Mender(fs), repair=False)
    found = {(one.path, one.offset, one.length) for one in report.lost}
    assert ("/directory/inner", 5_000_000, 8) in found
    assert ("/file", 0, len(b"content of file")) in found


def test_a_finding_that_is_no_longer_true_is_left_alone(fs: Namespace) -> None:
    """Between check and repair the file is used: its count of references is right in the end."""
    [(chunk_id, record)] = fs.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 1))
    length = len(fs.chunk_bytes[chunk_id])
    fs.write(lambda txn: chunk_table.add_references(txn, chunk_id, length, (), 1))
    mender = Mender(fs)
    used: list[int] = []

    def use() -> None:
        if not used:
            used.append(fs.create(b"more"))
            fs.commit(used[0], 0, fs.chunk_bytes[chunk_id])

    mender.before_mend = use
    report = fsck(fs, mender, repair=True)
    assert faults(report) == {}
    [(_, after)] = fs.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 1))
    assert after.references == record.references + 1
