"""Which leases are granted, recalled and waited for (docs/internals/sessions-and-leases.md)."""

from dataclasses import replace
from typing import Any

import pytest

from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import ROOT, Client, Cluster

NONE, READ, WRITE = pb.LEASE_KIND_NONE, pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def kind(cluster: Cluster, client: Client, ino: int) -> int:
    return cluster.conductor.context.leases.kind(client.session_id, ino)


def file_known_to_all(cluster: Cluster, maker: Client, *readers: Client) -> int:
    """A file without any WRITE lease, with READ leases of `readers`."""
    ino = maker.ok(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644)).entry.attr.ino
    for reader in readers:
        assert reader.ok(get_attr=pb.GetAttr(ino=ino)).attr.lease == READ
    return ino


def test_create_and_open_gives_the_write_lease(cluster: Cluster) -> None:
    a = cluster.client("a")
    reply = a.ok(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644, open=True))
    assert reply.entry.lease == WRITE
    assert reply.entry.parent_leased
    assert kind(cluster, a, reply.entry.attr.ino) == WRITE


def test_create_without_open_gives_a_read_lease(cluster: Cluster) -> None:
    a = cluster.client("a")
    reply = a.ok(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644))
    assert reply.entry.lease == READ


def test_an_existing_file_is_not_created_with_the_write_lease(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    file_known_to_all(cluster, a)
    seq = b.send(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644, open=True))
    while a.recalls:
        a.answer()
    assert b.replies[seq].entry.lease != WRITE


def test_negative_lookup_caches_the_absence(cluster: Cluster) -> None:
    reply = cluster.client("a").call(lookup=pb.Lookup(parent=ROOT, name=b"nothing"))
    assert reply.error == common.ERROR_CODE_NOT_FOUND
    assert reply.entry.parent_leased
    assert not reply.entry.HasField("attr")


def test_create_recalls_only_the_name_from_others(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    b.call(lookup=pb.Lookup(parent=ROOT, name=b"f"))
    seq = a.send(mkdir=pb.MkDir(parent=ROOT, name=b"f", mode=0o755))
    assert seq not in a.replies, "the reply must wait for the recall"
    recall = b.answer()
    assert [(item.ino, list(item.names)) for item in recall.items] == [(ROOT, [b"f"])]
    assert a.replies[seq].error == common.ERROR_CODE_OK
    assert kind(cluster, b, ROOT) == READ, "the lease on the directory stays"


def test_a_change_is_not_committed_before_its_recalls_are_answered(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    b.call(lookup=pb.Lookup(parent=ROOT, name=b"f"))
    cluster.held = True
    a.send(mkdir=pb.MkDir(parent=ROOT, name=b"f", mode=0o755))
    assert not cluster.commits
    b.answer()
    assert len(cluster.commits) == 1


def test_the_changing_session_keeps_its_own_leases(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = file_known_to_all(cluster, a, a)
    reply = a.ok(set_attr=pb.SetAttr(ino=ino, mode=0o600))
    assert not a.recalls
    assert reply.attr.lease == READ


def test_chmod_leaves_pages_of_others_alone(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a, b)
    a.send(set_attr=pb.SetAttr(ino=ino, mode=0o600))
    (item,) = b.answer().items
    assert item.attributes_only
    assert kind(cluster, b, ino) == READ


def test_truncation_recalls_the_whole_lease(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a, b)
    seq = a.send(set_attr=pb.SetAttr(ino=ino, size=0))
    (item,) = b.answer().items
    assert (item.keep, item.attributes_only, list(item.names)) == (NONE, False, [])
    assert kind(cluster, b, ino) == NONE
    assert a.replies[seq].error == common.ERROR_CODE_OK


def test_attributes_only_change_still_takes_the_whole_write_lease(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = b.create(b"f")
    a.send(set_attr=pb.SetAttr(ino=ino, mode=0o600))
    (item,) = b.answer(still_open=(ino,), writing=(ino,)).items
    assert (item.keep, item.attributes_only) == (NONE, False)


def test_reading_flushes_the_writer_and_leaves_it_a_read_lease(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    assert seq not in b.replies
    (item,) = a.answer(still_open=(ino,), writing=(ino,)).items
    assert item.keep == READ
    assert b.replies[seq].attr.lease == READ
    assert kind(cluster, a, ino) == READ


@pytest.mark.parametrize("operation", ["lookup", "readdir", "get_extents", "get_xattr", "open"])
def test_every_read_that_tells_of_a_file_flushes_its_writer(cluster: Cluster, operation: str) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    requests: dict[str, Any] = {
        "lookup": pb.Lookup(parent=ROOT, name=b"f"),
        "readdir": pb.ReadDir(ino=ROOT, limit=10),
        "get_extents": pb.GetExtents(ino=ino, length=1),
        "get_xattr": pb.ListXattr(ino=ino),
        "open": pb.Open(ino=ino),
    }
    field = {"get_xattr": "list_xattr"}.get(operation, operation)
    seq = b.send(**{field: requests[operation]})
    assert seq not in b.replies
    assert len(a.recalls) == 1
    a.answer(still_open=(ino,), writing=(ino,))
    assert b.replies[seq].error == common.ERROR_CODE_OK


def test_the_writer_itself_reads_without_recall(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"f")
    assert a.ok(get_attr=pb.GetAttr(ino=ino)).attr.lease == WRITE
    assert a.ok(get_extents=pb.GetExtents(ino=ino, length=1)).extents.lease == WRITE
    assert not a.recalls


def test_one_recall_for_several_waiting_reads(cluster: Cluster) -> None:
    a, b, c = cluster.client("a"), cluster.client("b"), cluster.client("c")
    ino = a.create(b"f")
    waiting = [(b, b.send(get_attr=pb.GetAttr(ino=ino))), (c, c.send(get_attr=pb.GetAttr(ino=ino)))]
    assert len(a.recalls) == 1
    a.answer()
    assert all(seq in client.replies for client, seq in waiting)


def test_recalls_of_one_step_are_one_message(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    inos = [a.create(name) for name in (b"f", b"g", b"h")]
    b.send(readdir=pb.ReadDir(ino=ROOT, limit=10))
    (recall,) = a.recalls
    assert {item.ino for item in recall.items} == set(inos)


def test_a_file_opened_for_writing_by_two_is_shared(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(open=pb.Open(ino=ino, write=True))
    (item,) = a.answer(still_open=(ino,), writing=(ino,)).items
    assert item.keep == NONE
    reply = b.replies[seq].open
    assert (reply.shared, reply.lease) == (True, NONE)
    again = a.ok(open=pb.Open(ino=ino, write=True)).open
    assert again.shared, "also the first writer's next handle"


def test_sharing_ends_when_the_others_have_closed(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    b.send(open=pb.Open(ino=ino, write=True))
    a.answer(still_open=(ino,), writing=(ino,))
    a.ok(release=pb.Release(ino=ino))
    reply = b.ok(open=pb.Open(ino=ino, write=True)).open
    assert (reply.shared, reply.lease) == (False, WRITE)


def test_an_idle_write_lease_passes_on(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(open=pb.Open(ino=ino, write=True))
    a.answer()  # closed already
    assert (b.replies[seq].open.shared, b.replies[seq].open.lease) == (False, WRITE)


def test_open_for_writing_recalls_readers_whole(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a, b)
    seq = a.send(open=pb.Open(ino=ino, write=True))
    assert seq not in a.replies
    (item,) = b.answer(still_open=(ino,)).items
    assert (item.keep, item.attributes_only) == (NONE, False)
    assert a.replies[seq].open.lease == WRITE
    assert kind(cluster, b, ino) == NONE


def test_two_who_open_for_writing_at_once_do_not_wait_for_each_other(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a, a, b)
    first = a.send(open=pb.Open(ino=ino, write=True))
    second = b.send(open=pb.Open(ino=ino, write=True))
    b.answer()
    assert a.replies[first].open.lease == WRITE
    while a.recalls:
        a.answer(still_open=(ino,), writing=(ino,))
    assert b.replies[second].open.shared


def test_a_reader_that_keeps_reading_makes_the_writer_share(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a, b)
    seq = a.send(open=pb.Open(ino=ino, write=True))
    rounds = 0
    while seq not in a.replies:
        b.ok(get_extents=pb.GetExtents(ino=ino, length=1))
        b.answer(still_open=(ino,))
        rounds += 1
        assert rounds < 10
    assert a.replies[seq].open.shared


def test_no_grant_while_a_change_is_pending(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a)
    cluster.held = True
    a.send(set_attr=pb.SetAttr(ino=ino, mode=0o600))
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    assert b.replies[seq].attr.lease == NONE
    assert b.replies[seq].attr.attr.mode == 0o100644, "older than the change, which nobody was told of"
    cluster.held = False
    cluster.settle()
    assert not b.recalls


def test_lookups_of_other_names_are_cached_while_an_entry_changes(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    cluster.held = True
    a.send(mkdir=pb.MkDir(parent=ROOT, name=b"f", mode=0o755))
    same = b.send(lookup=pb.Lookup(parent=ROOT, name=b"f"))
    other = b.send(lookup=pb.Lookup(parent=ROOT, name=b"g"))
    assert not b.replies[same].entry.parent_leased
    assert b.replies[other].entry.parent_leased
    attr = b.send(get_attr=pb.GetAttr(ino=ROOT))
    assert b.replies[attr].attr.lease == NONE


def test_pages_read_during_a_change_are_recalled_before_its_reply(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a)
    cluster.held = True
    change = a.send(set_attr=pb.SetAttr(ino=ino, size=0))
    read = b.send(get_extents=pb.GetExtents(ino=ino, length=1))
    assert b.replies[read].extents.lease == READ
    assert not b.recalls
    cluster.commit_all()
    assert change not in a.replies, "the provisional grant must be recalled first"
    (item,) = b.answer().items
    assert item.ino == ino
    assert change in a.replies
    assert kind(cluster, b, ino) == NONE


def test_a_lease_granted_after_a_recall_survives_its_answer(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a, b)
    cluster.held = True
    change = a.send(set_attr=pb.SetAttr(ino=ino, size=0))
    b.send(get_extents=pb.GetExtents(ino=ino, length=1))
    b.answer()  # of the first recall; the provisional lease came later
    assert kind(cluster, b, ino) == READ
    cluster.commit_all()
    assert change not in a.replies
    b.answer()
    assert change in a.replies


def test_an_entry_changed_by_two_is_recalled_from_who_was_told_it_first(cluster: Cluster) -> None:
    """a makes the name, b removes it in the same group: what a's reply tells must not stay cached."""
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.ok(mkdir=pb.MkDir(parent=ROOT, name=b"d", mode=0o755)).entry.attr.ino
    b.send(lookup=pb.Lookup(parent=ino, name=b"other"))
    a.answer()
    a.call(lookup=pb.Lookup(parent=ino, name=b"other"))
    cluster.held = True
    made = a.send(mkdir=pb.MkDir(parent=ino, name=b"x", mode=0o755))
    b.answer()
    removed = b.send(mkdir=pb.MkDir(parent=ino, name=b"x", mode=0o700))
    a.answer()
    cluster.commit_all()
    assert a.replies[made].error == common.ERROR_CODE_OK
    failed = b.replies.get(removed)
    assert failed is not None
    assert failed.error == common.ERROR_CODE_EXISTS


def test_shared_writes_recall_the_readers(cluster: Cluster) -> None:
    a, b, c = cluster.client("a"), cluster.client("b"), cluster.client("c")
    ino = a.create(b"f")
    b.send(open=pb.Open(ino=ino, write=True))
    a.answer(still_open=(ino,), writing=(ino,))
    c.ok(get_extents=pb.GetExtents(ino=ino, length=1))
    seq = b.send(commit_write=pb.CommitWrite(ino=ino, size=5))
    assert seq not in b.replies
    (item,) = c.answer(still_open=(ino,)).items
    assert item.ino == ino
    assert b.replies[seq].commit_write.attr.size == 5


def test_a_flush_for_a_recall_recalls_nobody(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_extents=pb.GetExtents(ino=ino, length=1))
    a.ok(commit_write=pb.CommitWrite(ino=ino, size=7))
    assert seq not in b.replies
    a.answer()
    assert b.replies[seq].extents.attr.size == 7


def test_no_lease_reads_extents_without_any(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = file_known_to_all(cluster, a)
    reply = b.ok(get_extents=pb.GetExtents(ino=ino, length=1, no_lease=True))
    assert reply.extents.lease == NONE
    assert kind(cluster, b, ino) == NONE


def test_a_listing_passes_over_write_leases_younger_than_itself(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    a.create(b"f")
    seq = b.send(readdir=pb.ReadDir(ino=ROOT, limit=10))
    a.recalls.clear()
    young = a.send(mknod=pb.MkNod(parent=ROOT, name=b"g", mode=0o100644, open=True))
    assert a.replies[young].entry.lease == WRITE
    recall_id = next(event.recall.id for event in a.events if event.HasField("recall"))
    a.message(recalls_done=[pb.RecallDone(id=recall_id)])
    listing = b.replies[seq].readdir
    leases = {entry.name: entry.lease for entry in listing.entries}
    assert leases == {b"f": READ, b"g": NONE}


def test_answers_of_other_sessions_and_unknown_recalls_count_for_nothing(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    b.message(recalls_done=[pb.RecallDone(id=a.recalls[0].id), pb.RecallDone(id=99)])
    assert seq not in b.replies
    assert kind(cluster, a, ino) == WRITE


@pytest.mark.announces_warnings("operation_failed_unexpectedly")
@pytest.mark.parametrize("operation", ["list_xattr", "unlink"])
def test_a_bug_in_an_operation_is_an_answer(operation: str) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("no such thing")

    registry = dict(OPERATIONS)
    registry[operation] = replace(registry[operation], run=broken)
    a = Cluster(registry=registry).client("a")
    a.create(b"f")
    requests = {"list_xattr": pb.ListXattr(ino=ROOT), "unlink": pb.Unlink(parent=ROOT, name=b"f")}
    assert a.call(**{operation: requests[operation]}).error == common.ERROR_CODE_INTERNAL
    assert a.ok(get_attr=pb.GetAttr(ino=ROOT)).attr.attr.ino == ROOT, "the stream lives on"
