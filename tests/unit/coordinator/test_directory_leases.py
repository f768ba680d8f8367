"""WRITE leases on directories: how they are given, what they exclude, and who must flush for whom."""

from typing import Any

import pytest

from cairnfs.base.limits import (
    CONTENDED_DIRECTORIES_MAX,
    UPGRADE_CHILDREN_MAX,
    UPGRADE_PAUSE_MAX_S,
    UPGRADE_PAUSE_MIN_S,
)
from cairnfs.coordinator.contentions import Contentions
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import ROOT, Client, Cluster
from tests.unit.coordinator.journals import directory, kind, make_directory, reserve, send, settle

NONE, READ, WRITE = pb.LEASE_KIND_NONE, pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def upgrade(client: Client, ino: int, *children: int) -> pb.UpgradeReply:
    """An Upgrade that is answered at once."""
    return client.ok(upgrade=pb.Upgrade(directory=ino, children=children)).upgrade


# ---------------------------------------------------------------------- reads of others


@pytest.mark.parametrize("operation", ["lookup", "readdir", "get_attr", "get_xattr", "open"])
def test_every_read_that_tells_of_a_directory_flushes_its_writer(cluster: Cluster, operation: str) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = directory(a)
    requests: dict[str, Any] = {
        "lookup": pb.Lookup(parent=ino, name=b"absent"),
        "readdir": pb.ReadDir(ino=ino),
        "get_attr": pb.GetAttr(ino=ino),
        "get_xattr": pb.GetXattr(ino=ino, name=b"user.x"),
        "open": pb.Open(ino=ino),
    }
    if operation == "get_xattr":
        requests = {"list_xattr": pb.ListXattr(ino=ino)}
        operation = "list_xattr"
    seq = b.send(**{operation: requests[operation]})
    assert seq not in b.replies
    (item,) = a.answer().items
    assert (item.ino, item.keep) == (ino, READ)
    assert seq in b.replies
    assert kind(cluster, a, ino) == kind(cluster, b, ino) == READ


def test_a_look_up_of_the_writers_directory_entry_flushes_both(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent, (ino, *_) = directory(a), reserve(a)
    settle(a, make_directory(parent, b"sub", ino))
    seq = b.send(lookup=pb.Lookup(parent=parent, name=b"sub"))
    assert [item.ino for item in a.answer().items] == [parent, ino]
    assert b.replies[seq].entry.parent_leased
    assert b.replies[seq].entry.lease == READ


def test_the_writer_itself_is_told_entries_under_its_lease(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent = directory(a)
    reply = a.call(lookup=pb.Lookup(parent=parent, name=b"absent"))
    assert reply.entry.parent_leased
    assert kind(cluster, a, parent) == WRITE
    assert a.ok(readdir=pb.ReadDir(ino=parent)).readdir.leased


def test_the_writer_whose_lease_is_being_recalled_is_told_no_more_than_is_left(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent = directory(a)
    b.send(mkdir=pb.MkDir(parent=parent, name=b"x", mode=0o755))
    assert a.recalls
    assert not a.call(lookup=pb.Lookup(parent=parent, name=b"other")).entry.parent_leased


def test_a_change_by_another_takes_the_directorys_write_lease(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent = directory(a)
    seq = b.send(mknod=pb.MkNod(parent=parent, name=b"f", mode=0o100644, open=True))
    assert seq not in b.replies
    (item,) = a.answer().items
    assert (item.ino, item.keep, list(item.names)) == (parent, NONE, [])
    assert b.replies[seq].entry.parent_leased
    assert kind(cluster, a, parent) == NONE


def test_a_removed_directory_takes_its_lease_along(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    parent = directory(a)
    seq = b.send(rmdir=pb.RmDir(parent=ROOT, name=b"d"))
    while a.recalls:
        a.answer()
    assert b.replies[seq].error == common.ERROR_CODE_OK
    assert cluster.conductor.context.leases.holders(parent) == ()


# ---------------------------------------------------------------------- mounting below


def mount(cluster: Cluster, subdir: str) -> tuple[list[pb.Event], int]:
    """A Hello of a new client for `subdir`; what it is sent arrives in the list."""
    events: list[pb.Event] = []

    class Arriving(Client):
        def connect(self, **_hello: Any) -> None:
            self.connection = cluster.new_connection(self)

        def receive(self, event: pb.Event) -> None:
            events.append(event)

    client = Arriving(cluster, "mount")
    cluster.do(cluster.conductor.connect(client.connection, pb.Hello(subdir=subdir)))
    return events, client.connection


def test_a_mount_finds_a_directory_that_another_has_not_sent(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, *_) = directory(a), reserve(a)
    events, _ = mount(cluster, "/d/sub")
    assert not events
    settle(a, make_directory(parent, b"sub", ino))
    (item,) = a.answer().items
    assert (item.ino, item.keep) == (parent, READ)
    assert events[0].welcome.root.ino == ino


def test_a_mount_of_nothing_fails_after_everybody_was_asked(cluster: Cluster) -> None:
    a = cluster.client("a")
    directory(a)
    events, _ = mount(cluster, "/d/nothing")
    assert not events
    a.answer()
    assert events[0].end.code == common.ERROR_CODE_NOT_FOUND


def test_a_mount_that_went_while_others_flushed_begins_no_session(cluster: Cluster) -> None:
    a = cluster.client("a")
    directory(a)
    _, connection = mount(cluster, "/d/sub")
    cluster.do(cluster.conductor.disconnect(connection))
    a.answer()
    assert len(cluster.conductor.context.sessions) == 1


def test_a_mount_during_recovery_waits_for_those_who_may_know_its_root(cluster: Cluster) -> None:
    a = cluster.client("a")
    parent, (ino, *_) = directory(a), reserve(a)
    cluster.restart()
    events, _ = mount(cluster, "/d/sub")
    assert not events
    a.connect(write_leases=[parent, ino])
    settle(a, make_directory(parent, b"sub", ino))
    a.answer()
    assert events[0].welcome.root.ino == ino


# ---------------------------------------------------------------------- Upgrade


def shared_directory(cluster: Cluster, maker: Client, *readers: Client) -> int:
    """A directory without a WRITE lease; `readers` have READ leases."""
    ino = directory(maker)
    context = cluster.conductor.context
    context.leases.downgrade(maker.session_id, ino)
    for reader in readers:
        assert reader.ok(get_attr=pb.GetAttr(ino=ino)).attr.lease == READ
    return ino


def test_a_directory_that_nobody_else_has_is_upgraded_at_once(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = shared_directory(cluster, a)
    reply = upgrade(a, ino)
    assert reply.granted
    assert reply.attr.ino == ino
    assert kind(cluster, a, ino) == WRITE


def test_readers_are_asked_to_give_up_a_directory(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = shared_directory(cluster, a, b)
    seq = a.send(upgrade=pb.Upgrade(directory=ino))
    assert seq not in a.replies
    # While they are asked, nobody is given anything new.
    assert not b.call(lookup=pb.Lookup(parent=ino, name=b"x")).entry.parent_leased
    (item,) = b.answer().items
    assert (item.ino, item.keep) == (ino, NONE)
    assert a.replies[seq].upgrade.granted
    assert (kind(cluster, a, ino), kind(cluster, b, ino)) == (WRITE, NONE)


def test_another_writer_is_asked_as_well(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = directory(b)
    seq = a.send(upgrade=pb.Upgrade(directory=ino))
    b.answer()
    assert a.replies[seq].upgrade.granted


def test_only_a_living_directory_is_upgraded(cluster: Cluster) -> None:
    a = cluster.client("a")
    file = a.ok(mknod=pb.MkNod(parent=ROOT, name=b"f", mode=0o100644)).entry.attr.ino
    gone = directory(a)
    a.ok(rmdir=pb.RmDir(parent=ROOT, name=b"d", keep_open=True))
    for ino in (file, gone, 1 << 40):
        assert not upgrade(a, ino).granted
        assert kind(cluster, a, ino) != WRITE or ino == gone


def test_nothing_is_upgraded_while_another_changes_it(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = shared_directory(cluster, a)
    cluster.held = True
    b.send(mkdir=pb.MkDir(parent=ino, name=b"x", mode=0o755))
    a.answer()
    seq = a.send(upgrade=pb.Upgrade(directory=ino))
    assert not a.replies[seq].upgrade.granted


def test_a_change_that_arrives_while_others_are_asked_comes_first(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = shared_directory(cluster, a, b)
    cluster.held = True
    seq = a.send(upgrade=pb.Upgrade(directory=ino))
    b.send(mkdir=pb.MkDir(parent=ino, name=b"x", mode=0o755))
    b.answer()
    assert not a.replies[seq].upgrade.granted
    assert kind(cluster, a, ino) == READ


def test_a_lease_that_is_being_recalled_is_not_upgraded(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = directory(a)
    b.send(readdir=pb.ReadDir(ino=ino))
    assert not upgrade(a, ino).granted
    a.answer()
    assert kind(cluster, a, ino) == READ


def test_children_come_along_if_nobody_else_has_anything_of_them(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = shared_directory(cluster, a, b)

    def file(name: bytes) -> int:
        seq = a.send(mknod=pb.MkNod(parent=ino, name=name, mode=0o100644))
        while b.recalls:
            b.answer()
        return a.replies[seq].entry.attr.ino

    mine, read, opened, unknown = file(b"mine"), file(b"read"), file(b"opened"), file(b"unknown")
    b.ok(get_attr=pb.GetAttr(ino=read))
    cluster.conductor.context.leases.note_open(b.session_id, opened, write=False)
    cluster.conductor.context.leases.drop(a.session_id, unknown)
    seq = a.send(upgrade=pb.Upgrade(directory=ino, children=[mine, read, opened, unknown, 1 << 40]))
    recalled = [item.ino for recall in b.recalls for item in recall.items]
    assert recalled == [ino], "children are never recalled for it"
    b.answer()
    assert list(a.replies[seq].upgrade.children) == [mine]
    assert [kind(cluster, a, child) for child in (mine, read, opened, unknown)] == [WRITE, READ, READ, NONE]


def test_a_read_only_session_upgrades_nothing(cluster: Cluster) -> None:
    a = cluster.client("a", read_only=True)
    assert a.call(upgrade=pb.Upgrade(directory=ROOT)).error == common.ERROR_CODE_READ_ONLY


def test_an_upgrade_with_too_many_children_is_refused(cluster: Cluster) -> None:
    a = cluster.client("a")
    reply = a.call(upgrade=pb.Upgrade(directory=ROOT, children=[5] * (UPGRADE_CHILDREN_MAX + 1)))
    assert reply.error == common.ERROR_CODE_INVALID


def test_a_session_that_ends_while_others_are_asked_gets_nothing(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = shared_directory(cluster, a, b)
    a.send(upgrade=pb.Upgrade(directory=ino))
    a.message(goodbye=True)
    b.answer()
    leases = cluster.conductor.context.leases
    assert leases.holders(ino) == ()
    assert not leases.blocked(ino)


# ---------------------------------------------------------------------- contention


def test_a_contended_directory_changes_hands_ever_more_slowly(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = shared_directory(cluster, a)
    pause_s = 0.0
    for expected_s in (1.0, 2.0, 4.0):
        cluster.heartbeats(pause_s + 1, a, b)
        seq = a.send(upgrade=pb.Upgrade(directory=ino))
        if b.recalls:
            b.answer()
        assert a.replies[seq].upgrade.granted
        seq = b.send(readdir=pb.ReadDir(ino=ino))
        a.answer()
        assert seq in b.replies
        pause_s = expected_s
        cluster.heartbeats(pause_s - 1, a, b)
        assert not upgrade(a, ino).granted, "too early"
        assert not b.recalls


def test_the_pause_is_bounded_and_forgotten_in_time() -> None:
    contentions, now_s = Contentions(), 1_000.0
    contentions.watch(7)
    for _ in range(20):
        contentions.lost(7, now_s)
    assert not contentions.may_change_hands(7, now_s + UPGRADE_PAUSE_MAX_S - 0.1)
    assert contentions.may_change_hands(7, now_s + UPGRADE_PAUSE_MAX_S)
    now_s += 10 * UPGRADE_PAUSE_MAX_S
    contentions.lost(7, now_s)
    assert contentions.may_change_hands(7, now_s + UPGRADE_PAUSE_MIN_S)


def test_one_recall_is_one_loss_however_many_wait_for_it(cluster: Cluster) -> None:
    a, b, c = cluster.client("a"), cluster.client("b"), cluster.client("c")
    ino = shared_directory(cluster, a)
    assert upgrade(a, ino).granted
    for reader in (b, c):
        for _ in range(5):
            reader.send(readdir=pb.ReadDir(ino=ino))
    a.answer()
    now_s = cluster.clock.monotonic()
    assert cluster.conductor.context.contentions.may_change_hands(ino, now_s + UPGRADE_PAUSE_MIN_S)


def test_the_table_of_contended_directories_is_bounded() -> None:
    contentions = Contentions()
    for ino in range(2 * CONTENDED_DIRECTORIES_MAX):
        contentions.watch(ino)
    assert len(contentions) == CONTENDED_DIRECTORIES_MAX


def test_a_reader_of_a_busy_directory_is_answered(cluster: Cluster) -> None:
    """The lease that its writer gets back meanwhile covers changes that the reader need not see."""
    a, b = cluster.client("a"), cluster.client("b")
    ino = directory(a)
    seq = b.send(readdir=pb.ReadDir(ino=ino))
    a.answer()
    assert seq in b.replies
    send(a, make_directory(ino, b"x", reserve(a)[0]))
    assert not a.recalls
