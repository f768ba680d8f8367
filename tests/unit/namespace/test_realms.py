"""Realms: what belongs to them, what is counted, what their limits refuse, and how they come and go."""

from typing import Any

import pytest

from cairnfs.base.limits import REPLICAS_MAX
from cairnfs.coordinator.namespace import policy, retag, tree, usage
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.records import RealmState
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.namespace.harness import ROOT, Namespace, fails

EXCHANGE = 2


def set_policy(fs: Namespace, ino: int, **what: Any) -> None:
    fs.write(lambda txn: policy.change(txn, pb.SetPolicyRequest(**what), ino, fs.now_ns))


def walk(fs: Namespace, realm: int) -> int:
    """Do all steps that are left; returns how many there were."""
    steps = 0
    while not fs.engine.read(lambda txn: retag.is_walked(txn, realm)):
        one_step(fs, realm)
        steps += 1
    one_step(fs, realm)
    return steps


def one_step(fs: Namespace, realm: int) -> None:
    footprint = fs.engine.read(lambda txn: retag.footprint(txn, realm))
    fs.write(lambda txn: retag.step(txn, realm, Env(pb.Caller(), fs.now_ns, footprint)))


def used(fs: Namespace, realm: int) -> tuple[int, int]:
    return tuple(fs.engine.read(lambda txn: usage.read(txn, realm)))  # type: ignore[return-value]


def realm_of(fs: Namespace, ino: int) -> int:
    return fs.engine.read(lambda txn: tree.load(txn, ino).realm)


@pytest.fixture
def fs() -> Namespace:
    return Namespace()


def test_an_inode_belongs_to_the_realm_that_it_is_made_in(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, inodes_limit=10)
    inside = fs.create(b"f", fs.mkdir(b"d", top))
    assert realm_of(fs, top) == realm_of(fs, inside) == top
    assert fs.attr(inside).realm == top
    assert used(fs, top) == (3, 0)
    assert used(fs, ROOT) == (4, 0)
    fs.assert_sound()


def test_a_limit_on_inodes_is_exact(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, inodes_limit=3)
    fs.create(b"a", top)
    fs.mkdir(b"b", top)
    for _ in range(2):
        with fails(common_pb2.ERROR_CODE_QUOTA):
            fs.create(b"c", top)
    fs.run(pb.Unlink(parent=top, name=b"a"))
    with fails(common_pb2.ERROR_CODE_QUOTA):
        fs.create(b"c", top)
    fs.reap()
    fs.create(b"c", top)
    fs.create(b"elsewhere")
    fs.assert_sound()


def test_a_limit_on_space_is_exact_and_lets_what_is_there_be_overwritten(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, space_limit_bytes=10)
    ino = fs.create(b"a", top)
    fs.commit(ino, 0, b"0123456789")
    with fails(common_pb2.ERROR_CODE_QUOTA):
        fs.commit(ino, 10, b"x")
    fs.commit(ino, 3, b"abc")
    assert fs.content(ino) == b"012abc6789"
    with fails(common_pb2.ERROR_CODE_QUOTA):
        fs.run(pb.CopyRange(source=ino, target=fs.create(b"b", top), length=1))
    fs.run(pb.SetAttr(ino=ino, size=4))
    fs.commit(ino, 4, b"uvwxyz")
    assert used(fs, top) == (3, 10)
    fs.assert_sound()


def test_realms_around_count_and_limit_what_is_inside(fs: Namespace) -> None:
    outer = fs.mkdir(b"outer")
    inner = fs.mkdir(b"inner", outer)
    set_policy(fs, inner, inodes_limit=100)
    set_policy(fs, outer, inodes_limit=4)
    walk(fs, outer)
    fs.create(b"a", inner)
    fs.create(b"b", inner)
    with fails(common_pb2.ERROR_CODE_QUOTA):
        fs.create(b"c", inner)
    assert used(fs, inner) == (3, 0)
    assert used(fs, outer) == (4, 0)
    fs.assert_sound()


def test_a_file_takes_its_usage_along_and_a_directory_does_not_move(fs: Namespace) -> None:
    top, other = fs.mkdir(b"top"), fs.mkdir(b"other")
    set_policy(fs, top, space_limit_bytes=5)
    ino, directory = fs.create(b"a"), fs.mkdir(b"d")
    fs.commit(ino, 0, b"12345")
    move = pb.Rename(parent=ROOT, name=b"a", new_parent=top, new_name=b"a")
    fs.run(move)
    assert used(fs, top) == (2, 5)
    large = fs.create(b"large")
    fs.commit(large, 0, b"1")
    with fails(common_pb2.ERROR_CODE_QUOTA):
        fs.run(pb.Rename(parent=ROOT, name=b"large", new_parent=top, new_name=b"large"))
    with fails(common_pb2.ERROR_CODE_CROSS_DEVICE):
        fs.run(pb.Rename(parent=ROOT, name=b"d", new_parent=top, new_name=b"d"))
    with fails(common_pb2.ERROR_CODE_CROSS_DEVICE):
        fs.run(pb.Rename(parent=ROOT, name=b"d", new_parent=top, new_name=b"a", flags=EXCHANGE))
    with fails(common_pb2.ERROR_CODE_CROSS_DEVICE):
        fs.run(pb.Link(ino=ino, parent=ROOT, name=b"linked"))
    fs.run(pb.Rename(parent=top, name=b"a", new_parent=ROOT, new_name=b"large", flags=EXCHANGE))
    assert used(fs, top) == (2, 1)
    fs.run(pb.Rename(parent=ROOT, name=b"top", new_parent=other, new_name=b"top"))
    assert realm_of(fs, directory) == ROOT
    fs.assert_sound()


def test_a_file_with_names_elsewhere_does_not_leave_its_realm(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, inodes_limit=9)
    ino = fs.create(b"a", top)
    fs.run(pb.Link(ino=ino, parent=top, name=b"b"))
    with fails(common_pb2.ERROR_CODE_CROSS_DEVICE):
        fs.run(pb.Rename(parent=top, name=b"a", new_parent=ROOT, new_name=b"a"))
    fs.assert_sound()


def test_a_directory_with_a_policy_is_not_removed(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    fs.mkdir(b"d")
    set_policy(fs, top, inodes_limit=9)
    with fails(common_pb2.ERROR_CODE_BUSY):
        fs.run(pb.RmDir(parent=ROOT, name=b"top"))
    with fails(common_pb2.ERROR_CODE_BUSY):
        fs.run(pb.Rename(parent=ROOT, name=b"d", new_parent=ROOT, new_name=b"top"))
    set_policy(fs, top, remove=True)
    walk(fs, top)
    fs.run(pb.RmDir(parent=ROOT, name=b"top"))
    fs.assert_sound()


def test_what_is_in_a_directory_follows_while_it_is_in_use(
    fs: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retag, "RETAG_STEP_ENTRIES", 2)
    top = fs.mkdir(b"top")
    below = fs.mkdir(b"m", top)
    for name in (b"b", b"d", b"f", b"z"):
        fs.commit(fs.create(name, top), 0, b"12345")
        fs.create(name, below)
    set_policy(fs, top, inodes_limit=1)
    one_step(fs, top)  # b and d
    fs.create(b"a", top)
    fs.run(pb.Rename(parent=top, name=b"z", new_parent=top, new_name=b"aa"))  # behind the walk
    fs.run(pb.Rename(parent=top, name=b"m", new_parent=top, new_name=b"ab"))
    fs.run(pb.Unlink(parent=top, name=b"f"))
    fs.create(b"new", below)
    fs.run(pb.Rename(parent=below, name=b"b", new_parent=top, new_name=b"ac"))
    walk(fs, top)
    fs.reap()
    assert used(fs, top) == (11, 15)
    with fails(common_pb2.ERROR_CODE_QUOTA):
        fs.create(b"late", top)
    fs.assert_sound()
    set_policy(fs, top, remove=True)
    one_step(fs, top)
    fs.create(b"later", below)
    fs.run(pb.Rename(parent=below, name=b"d", new_parent=top, new_name=b"0"))
    walk(fs, top)
    assert fs.engine.read(lambda txn: usage.find_realm(txn, top)) is None
    assert realm_of(fs, below) == ROOT
    fs.assert_sound()


def test_a_realm_without_a_policy_stays_until_nothing_belongs_to_it(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, inodes_limit=9)
    fs.create(b"a", top)
    fs.run(pb.Unlink(parent=top, name=b"a"))  # still open somewhere
    set_policy(fs, top, remove=True)
    walk(fs, top)
    realm = fs.engine.read(lambda txn: usage.load_realm(txn, top))
    assert (realm.state, realm.used_inodes) == (RealmState.REMOVING, 1)
    fs.assert_sound()
    fs.reap()
    walk(fs, top)
    assert fs.engine.read(lambda txn: usage.find_realm(txn, top)) is None
    fs.assert_sound()


@pytest.mark.parametrize("what", ["usage", "tag"])
def test_the_checker_finds_what_is_wrong(fs: Namespace, what: str) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, inodes_limit=9)
    ino = fs.create(b"a", top)
    if what == "usage":
        realm = fs.engine.read(lambda txn: usage.load_realm(txn, top))
        fs.write(lambda txn: usage.save_realm(txn, top, realm._replace(used_bytes=7)))
    else:
        inode = fs.engine.read(lambda txn: tree.load(txn, ino))
        fs.write(lambda txn: tree.save(txn, ino, inode._replace(realm=ROOT)))
    problems = list(fs.check().problems)
    assert any(f"realm {top}" in problem for problem in problems)


def realms(fs: Namespace) -> dict[int, tuple[int, int]]:
    """What each realm sets, and what holds in it."""

    def look(txn: ReadTransaction) -> dict[int, tuple[int, int]]:
        reports = [policy.report(txn, ino, realm) for ino, realm in policy.scan(txn)]
        return {report.realm: (report.replicas, report.wished_replicas) for report in reports}

    return fs.engine.read(look)


def test_a_replica_count_that_is_taken_back_leaves_no_border(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    set_policy(fs, top, replicas=3)
    inner = fs.mkdir(b"inner", top)
    set_policy(fs, inner, inodes_limit=5)
    assert realms(fs) == {ROOT: (0, 0), top: (3, 3), inner: (0, 3)}
    set_policy(fs, top, replicas=0)
    walk(fs, top)
    assert realms(fs) == {ROOT: (0, 0), inner: (0, 0)}
    set_policy(fs, inner, replicas=2)
    set_policy(fs, inner, replicas=0)
    assert realms(fs) == {ROOT: (0, 0), inner: (0, 0)}, "the limit stays"
    set_policy(fs, ROOT, replicas=4)
    set_policy(fs, ROOT, replicas=0)
    assert realms(fs)[ROOT] == (0, 0)
    with fails(common_pb2.ERROR_CODE_NO_DATA):
        set_policy(fs, top, replicas=0)
    with fails(common_pb2.ERROR_CODE_NO_DATA):
        set_policy(fs, fs.create(b"f"), replicas=0)
    fs.assert_sound()


def test_a_replica_count_has_an_upper_bound(fs: Namespace) -> None:
    """128 and more once fell together with the mark that a chunk keeps beside the number."""
    top = fs.mkdir(b"top")
    set_policy(fs, top, replicas=REPLICAS_MAX)
    for replicas in (REPLICAS_MAX + 1, 128, 2**32 - 1):
        with fails(common_pb2.ERROR_CODE_INVALID):
            set_policy(fs, top, replicas=replicas)
    assert realms(fs)[top] == (REPLICAS_MAX, REPLICAS_MAX)


def test_a_file_may_have_a_replica_count_of_its_own(fs: Namespace) -> None:
    top, elsewhere = fs.mkdir(b"top"), fs.mkdir(b"elsewhere")
    set_policy(fs, top, replicas=3)
    file = fs.create(b"file", top)
    fs.commit(file, 0, b"content")
    set_policy(fs, file, replicas=4)
    set_policy(fs, file, replicas=5)
    assert realms(fs) == {ROOT: (0, 0), top: (3, 3), file: (5, 5)}
    assert used(fs, file) == (1, 7)
    assert used(fs, top) == (2, 7)
    fs.commit(file, 7, b" and more")
    assert used(fs, file) == (1, 16)
    fs.run(pb.Link(ino=file, parent=top, name=b"second"))
    fs.run(pb.Rename(parent=top, name=b"file", new_parent=top, new_name=b"renamed"))
    with fails(common_pb2.ERROR_CODE_CROSS_DEVICE):
        fs.run(pb.Rename(parent=top, name=b"second", new_parent=elsewhere, new_name=b"second"))
    fs.assert_sound()
    set_policy(fs, file, replicas=0)
    assert realms(fs) == {ROOT: (0, 0), top: (3, 3)}
    assert realm_of(fs, file) == top
    with fails(common_pb2.ERROR_CODE_NO_DATA):
        set_policy(fs, file, replicas=0)
    fs.assert_sound()


def test_the_policy_of_a_file_ends_with_it(fs: Namespace) -> None:
    for name in (b"removed", b"replaced"):
        file = fs.create(name)
        fs.commit(file, 0, b"content")
        set_policy(fs, file, replicas=4)
    fs.create(b"fresh")
    fs.run(pb.Unlink(parent=ROOT, name=b"removed"))
    fs.run(pb.Rename(parent=ROOT, name=b"fresh", new_parent=ROOT, new_name=b"replaced"))
    fs.assert_sound()
    fs.reap()
    assert realms(fs) == {ROOT: (0, 0)}
    fs.assert_sound()


def test_the_realm_of_a_file_follows_those_around_it(fs: Namespace) -> None:
    top = fs.mkdir(b"top")
    file = fs.create(b"file", top)
    set_policy(fs, file, replicas=4)
    set_policy(fs, top, inodes_limit=9)
    walk(fs, top)
    assert used(fs, top) == (2, 0)
    fs.assert_sound()
    set_policy(fs, top, remove=True)
    walk(fs, top)
    assert realms(fs) == {ROOT: (0, 0), file: (4, 4)}
    fs.assert_sound()


@pytest.mark.parametrize("what", [{"inodes_limit": 5}, {"space_limit_bytes": 5, "replicas": 2}])
def test_a_file_has_no_limits(fs: Namespace, what: dict[str, int]) -> None:
    with fails(common_pb2.ERROR_CODE_INVALID):
        set_policy(fs, fs.create(b"file"), **what)


def test_what_is_neither_file_nor_directory_has_no_policy(fs: Namespace) -> None:
    fs.run(pb.Symlink(parent=ROOT, name=b"link", target=b"t"))
    ino = fs.find(b"link")
    assert ino is not None
    with fails(common_pb2.ERROR_CODE_INVALID):
        set_policy(fs, ino, replicas=2)
    assert realms(fs) == {ROOT: (0, 0)}
