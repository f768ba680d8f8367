"""Batches of changes made under WRITE leases (docs/internals/leases.md)."""

import pytest

from cairnfs.base.checksums import chunk_id
from cairnfs.base.limits import BATCH_ENTRIES_MAX, BLOCK_BYTES, COMMIT_SLICES_MAX, TRANSACTION_MAX_KEYS
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import ROOT, Client, Cluster
from tests.unit.coordinator.journals import (
    NOW_NS,
    chmod,
    directory,
    entry,
    errors,
    kind,
    make,
    make_directory,
    names,
    reserve,
    send,
    settle,
    unlink,
    write,
)

NONE, READ, WRITE = pb.LEASE_KIND_NONE, pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE
CONFLICT = common.ERROR_CODE_CONFLICT


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


# ---------------------------------------------------------------------- inode numbers


def test_reserved_inode_numbers_are_never_given_twice(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    numbers = [*reserve(a), *reserve(b), *reserve(a), a.create(b"f")]
    assert len(set(numbers)) == len(numbers)


def test_reserved_inode_numbers_survive_a_restart(cluster: Cluster) -> None:
    before = reserve(cluster.client("a"))
    cluster.restart()
    assert not set(before) & set(reserve(cluster.client("b")))


def test_a_reservation_is_answered_after_it_is_durable(cluster: Cluster) -> None:
    a = cluster.client("a")
    cluster.held = True
    seq = a.send(reserve_inodes=pb.ReserveInodes(count=7))
    assert seq not in a.replies
    cluster.settle()
    assert a.replies[seq].reserve_inodes.count == 7


def test_a_reservation_is_bounded(cluster: Cluster) -> None:
    a = cluster.client("a")
    assert len(reserve(a, 1 << 30)) == 4_096
    assert a.call(reserve_inodes=pb.ReserveInodes()).error == common.ERROR_CODE_INVALID


# ---------------------------------------------------------------------- what a batch does


def test_a_batch_makes_names_and_removes_renames_and_writes_files(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent = directory(a)
    first, second, third, fourth = reserve(a)[:4]
    reply = settle(
        a,
        make(parent, b"one", first),
        write(first),
        make_directory(parent, b"sub", second),
        make(second, b"below", third),
        entry(parent, new=fourth, symlink=pb.Symlink(parent=parent, name=b"link", target=b"one")),
        entry(second, third, link=pb.Link(ino=third, parent=second, name=b"again")),
        entry(
            parent, first, rename=pb.Rename(parent=parent, name=b"one", new_parent=parent, new_name=b"two")
        ),
        chmod(first, 0o600),
    )
    (written,) = reply.results
    assert (written.index, written.allocated_bytes, written.most_slices) == (1, 9, 1)
    assert names(a, parent) == [b"link", b"sub", b"two"]
    assert names(a, second) == [b"again", b"below"]
    attr = a.ok(get_attr=pb.GetAttr(ino=first)).attr.attr
    assert (attr.size, attr.mode & 0o777, attr.ctime_ns) == (BLOCK_BYTES, 0o600, NOW_NS)
    assert a.ok(get_attr=pb.GetAttr(ino=third)).attr.attr.nlink == 2


def test_new_inodes_are_leased_to_their_maker(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, numbers = directory(a), reserve(a)
    settle(a, make(parent, b"f", numbers[0]), make_directory(parent, b"d", numbers[1]))
    assert kind(cluster, a, numbers[0]) == kind(cluster, a, numbers[1]) == WRITE
    settle(a, chmod(numbers[0], 0o600), make(numbers[1], b"below", numbers[2]))


def test_an_entry_that_fails_leaves_nothing_and_the_others_stand(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, numbers = directory(a), reserve(a)
    reply = a.ok(
        batch=pb.Batch(
            entries=[
                make(parent, b"one", numbers[0]),
                make(parent, b"one", numbers[1]),
                chmod(numbers[1], 0o600),
                make(parent, b"two", numbers[2]),
            ]
        )
    ).batch
    assert reply.executed == 4
    assert errors(reply) == {1: common.ERROR_CODE_EXISTS, 2: CONFLICT}
    assert names(a, parent) == [b"one", b"two"]
    assert kind(cluster, a, numbers[1]) == NONE
    assert kind(cluster, a, numbers[2]) == WRITE


def test_mknod_in_a_batch_never_takes_an_existing_file(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, numbers = directory(a), reserve(a)
    settle(a, make(parent, b"f", numbers[0]))
    reply = a.ok(batch=pb.Batch(entries=[make(parent, b"f", numbers[1])])).batch
    assert errors(reply) == {0: common.ERROR_CODE_EXISTS}


def test_a_batch_changes_nothing_that_is_not_leased(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    other = b.create(b"other")
    parent, numbers = directory(a, b), reserve(a)
    reply = a.ok(
        batch=pb.Batch(
            entries=[
                make(ROOT, b"f", numbers[0]),
                chmod(other, 0o600),
                make(parent, b"f", numbers[1]),
                entry(parent, other, link=pb.Link(ino=other, parent=parent, name=b"x")),
            ]
        )
    ).batch
    assert errors(reply) == {0: CONFLICT, 1: CONFLICT, 3: CONFLICT}
    assert names(a, parent) == [b"f"]
    assert not b.recalls


def test_an_undeclared_inode_that_a_name_leads_to_is_not_changed(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent = directory(a)
    a.ok(mknod=pb.MkNod(parent=parent, name=b"f", mode=0o100644))  # gives a READ lease
    reply = a.ok(batch=pb.Batch(entries=[entry(parent, unlink=pb.Unlink(parent=parent, name=b"f"))])).batch
    assert errors(reply) == {0: CONFLICT}
    assert names(a, parent) == [b"f"]


def test_numbers_that_exist_or_were_never_reserved_are_refused(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    theirs = b.create(b"f")
    unknown = b.ok(mknod=pb.MkNod(parent=ROOT, name=b"g", mode=0o100644)).entry.attr.ino
    parent, numbers = directory(a, b), reserve(a)
    reply = a.ok(
        batch=pb.Batch(
            entries=[
                make(parent, b"1", theirs),
                make(parent, b"2", unknown),
                make(parent, b"3", 1 << 40),
                make(parent, b"4", 0),
                chmod(theirs, 0),
                entry(parent, new=numbers[0], unlink=pb.Unlink(parent=parent, name=b"x")),
            ]
        )
    ).batch
    assert errors(reply) == dict.fromkeys(range(5), CONFLICT) | {5: common.ERROR_CODE_INVALID}
    assert kind(cluster, b, theirs) == WRITE


def test_what_goes_in_steps_of_its_own_is_refused(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"f")
    reply = a.ok(
        batch=pb.Batch(
            entries=[
                entry(ino, set_attr=pb.SetAttr(ino=ino, size=0)),
                entry(ino, commit_write=pb.CommitWrite(ino=ino, if_size=0)),
            ]
        )
    ).batch
    assert errors(reply) == {0: common.ERROR_CODE_INVALID, 1: common.ERROR_CODE_INVALID}


def test_a_read_only_session_sends_no_batch(cluster: Cluster) -> None:
    a = cluster.client("a", read_only=True)
    for op in (pb.Request(batch=pb.Batch()), pb.Request(reserve_inodes=pb.ReserveInodes(count=1))):
        name = op.WhichOneof("op") or ""
        assert a.call(**{name: getattr(op, name)}).error == common.ERROR_CODE_READ_ONLY


def test_a_batch_of_too_many_entries_is_refused(cluster: Cluster) -> None:
    a = cluster.client("a")
    reply = a.call(batch=pb.Batch(entries=[chmod(ROOT, 0)] * (BATCH_ENTRIES_MAX + 1)))
    assert reply.error == common.ERROR_CODE_INVALID


# ---------------------------------------------------------------------- bounds and steps


def test_a_batch_that_exceeds_a_transaction_is_executed_up_to_there(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, numbers = directory(a), reserve(a, 600)
    entries = [make(parent, b"%d" % number, number) for number in numbers[:BATCH_ENTRIES_MAX]]
    first = a.ok(batch=pb.Batch(entries=entries)).batch
    assert TRANSACTION_MAX_KEYS // 2 - 10 < first.executed < BATCH_ENTRIES_MAX
    assert kind(cluster, a, numbers[first.executed - 1]) == WRITE
    assert kind(cluster, a, numbers[first.executed]) == NONE
    settle(a, *entries[first.executed :])
    assert len(names(a, parent)) == BATCH_ENTRIES_MAX


def test_a_large_commit_ends_the_batch_before_it(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, numbers = directory(a), reserve(a, 400)
    entries = [make(parent, b"%d" % number, number) for number in numbers[:250]]
    entries.append(write(numbers[0], count=COMMIT_SLICES_MAX))
    reply = a.ok(batch=pb.Batch(entries=entries)).batch
    assert reply.executed == 250
    assert a.ok(get_attr=pb.GetAttr(ino=numbers[0])).attr.attr.size == 0
    assert settle(a, *entries[250:]).results[0].allocated_bytes == COMMIT_SLICES_MAX * 9


def overlaid(cluster: Cluster, a: Client) -> tuple[int, pb.BatchEntry]:
    """A file, and a commit that needs several steps: every slice replaces many chunks by another."""
    ino = a.create(b"f")
    small = pb.CommitWrite(ino=ino)
    for number in range(COMMIT_SLICES_MAX):
        identity = chunk_id(b"small %d" % number)
        small.chunks.append(pb.StoredChunk(chunk_id=identity, length=9, nodes=[1]))
        small.slices.append(common.Slice(offset=number * 16, length=9, chunk_id=identity))
    for _ in range(3):
        settle(a, entry(ino, commit_write=small))
        for one in small.slices:
            one.offset += 16 * COMMIT_SLICES_MAX
        for number in range(COMMIT_SLICES_MAX):
            identity = chunk_id(b"small %d %d" % (small.slices[0].offset, number))
            small.chunks[number].chunk_id = small.slices[number].chunk_id = identity
    large = pb.CommitWrite(ino=ino, size=BLOCK_BYTES)
    identity = chunk_id(b"large")
    large.chunks.append(pb.StoredChunk(chunk_id=identity, length=BLOCK_BYTES, nodes=[1]))
    large.slices.append(common.Slice(offset=0, length=BLOCK_BYTES, chunk_id=identity))
    return ino, entry(ino, commit_write=large)


def test_a_first_commit_goes_in_steps_and_the_rest_follows(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino, large = overlaid(cluster, a)
    cluster.held = True
    seq = send(a, large, chmod(ino, 0o600))
    steps = 0
    while seq not in a.replies:
        cluster.commit_all()
        steps += 1
    assert steps > 1
    reply = a.replies[seq].batch
    assert (reply.executed, reply.results[0].allocated_bytes) == (2, BLOCK_BYTES)
    cluster.held = False
    assert a.ok(get_attr=pb.GetAttr(ino=ino)).attr.attr.mode & 0o777 == 0o600


def test_a_commit_that_needs_steps_ends_the_batch_before_it(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino, large = overlaid(cluster, a)
    assert a.ok(batch=pb.Batch(entries=[chmod(ino, 0o600), large])).batch.executed == 1
    assert settle(a, large).results[0].allocated_bytes == BLOCK_BYTES


def test_a_batch_in_steps_survives_a_crash_between_them(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino, large = overlaid(cluster, a)
    cluster.held = True
    seq = send(a, large, chmod(ino, 0o600))
    cluster.commit_all()
    assert seq not in a.replies
    cluster.held = False
    cluster.restart()
    a.connect(write_leases=[ino])
    send(a, large, chmod(ino, 0o600), seq=seq)
    assert a.replies[seq].batch.executed == 2
    assert a.replies[seq].batch.results[0].allocated_bytes == BLOCK_BYTES


# ---------------------------------------------------------------------- removal


def inode_exists(cluster: Cluster, ino: int) -> bool:
    return cluster.conductor.context.exists(ino)


def test_a_file_removed_in_a_batch_is_reaped(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, other, *_) = directory(a), reserve(a)
    settle(a, make(parent, b"f", ino), make_directory(parent, b"d", other))
    settle(a, unlink(parent, b"f", ino), entry(parent, other, rmdir=pb.RmDir(parent=parent, name=b"d")))
    assert not inode_exists(cluster, ino)
    assert not inode_exists(cluster, other)
    assert kind(cluster, a, ino) == kind(cluster, a, other) == NONE


def test_a_file_made_and_removed_in_one_batch_is_reaped(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, *_) = directory(a), reserve(a)
    settle(a, make(parent, b"f", ino), unlink(parent, b"f", ino))
    assert not inode_exists(cluster, ino)
    assert kind(cluster, a, ino) == NONE


def test_a_file_removed_while_open_stays_until_it_is_closed(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, other, *_) = directory(a), reserve(a)
    settle(a, make(parent, b"f", ino), make(parent, b"g", other))
    settle(
        a,
        entry(
            parent,
            ino,
            other,
            rename=pb.Rename(parent=parent, name=b"g", new_parent=parent, new_name=b"f", keep_open=True),
        ),
    )
    settle(a, write(ino))
    a.ok(release=pb.Release(ino=ino))
    assert not inode_exists(cluster, ino)
    assert inode_exists(cluster, other)


def test_what_a_batch_removes_ends_in_the_same_commit(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, other, *_) = directory(a), reserve(a)
    settle(a, make(parent, b"f", ino), write(ino), make_directory(parent, b"d", other))
    cluster.held = True
    send(a, unlink(parent, b"f", ino), entry(parent, other, rmdir=pb.RmDir(parent=parent, name=b"d")))
    cluster.commit_all()
    assert not inode_exists(cluster, ino)
    assert not inode_exists(cluster, other)
    assert not cluster.commits


def test_a_file_that_another_session_has_open_outlives_its_removal_in_a_batch(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, ino = _open_at_b_and_written_by_a(cluster, a, b)
    settle(a, unlink(parent, b"f", ino))
    assert inode_exists(cluster, ino)
    b.ok(release=pb.Release(ino=ino))
    assert not inode_exists(cluster, ino)


def test_who_has_not_come_back_may_have_a_file_open_that_a_batch_removes(cluster: Cluster) -> None:
    """The coordinator that was told of the open file has died, and the next one does not know yet."""
    a, b = cluster.client("a"), cluster.client("b")
    parent, ino = _open_at_b_and_written_by_a(cluster, a, b)
    cluster.restart()
    a.connect(write_leases=[parent, ino])
    settle(a, unlink(parent, b"f", ino))
    assert inode_exists(cluster, ino)
    b.connect(incarnation=1, open_inodes=[ino])
    assert inode_exists(cluster, ino)
    b.ok(release=pb.Release(ino=ino))
    assert not inode_exists(cluster, ino)


def _open_at_b_and_written_by_a(cluster: Cluster, a: Client, b: Client) -> tuple[int, int]:
    """A directory of a's and a file in it that b reads, without a lease, while a has the WRITE lease."""
    parent, (ino, *_) = directory(a), reserve(a)
    settle(a, make(parent, b"f", ino))
    opened = b.send(open=pb.Open(ino=ino))
    a.answer()
    assert b.replies[opened].error == common.ERROR_CODE_OK
    taken = a.send(open=pb.Open(ino=ino, write=True))
    b.answer(still_open=(ino,))
    cluster.settle()
    assert a.replies[taken].open.lease == pb.LEASE_KIND_WRITE
    return parent, ino
