"""Sessions: Welcome, resending, coming back, fencing, recovery after a restart."""

from typing import Any

import pytest

from cairnfs.base.limits import REPLIES_PURGED_AT_ONCE, TRUST_LEASES_MAX
from cairnfs.coordinator import keys
from cairnfs.coordinator.sessions import ended_sessions, known_sessions
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.unit.coordinator.harness import LEASE_S, ROOT, Client, Cluster

READ, WRITE = pb.LEASE_KIND_READ, pb.LEASE_KIND_WRITE
FENCED = pytest.mark.announces_warnings("session_fenced")


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def mkdir(name: bytes) -> dict[str, Any]:
    return {"mkdir": pb.MkDir(parent=ROOT, name=name, mode=0o755)}


def records(cluster: Cluster, client: Client) -> int:
    return cluster.engine.read(lambda txn: sum(1 for _ in txn.scan(*keys.reply_range(client.session_id))))


def names(client: Client) -> list[bytes]:
    listing = client.ok(readdir=pb.ReadDir(ino=ROOT, limit=100)).readdir
    return [entry.name for entry in listing.entries]


# ---------------------------------------------------------------------- beginning


def test_welcome_follows_the_durable_record(cluster: Cluster) -> None:
    cluster.held = True
    a = Client(cluster, "a")
    assert not a.events
    cluster.commit_all()
    assert a.welcome is not None
    assert not a.welcome.resumed
    assert a.welcome.root.ino == ROOT
    assert a.welcome.lease_ms == LEASE_S * 1_000
    known = cluster.engine.read(known_sessions)
    assert known == [(a.session_id, "a")]


def test_a_subdirectory_is_mounted_by_its_path(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.ok(**mkdir(b"d")).entry.attr.ino
    connection = cluster.new_connection(a)
    cluster.do(cluster.conductor.connect(connection, pb.Hello(subdir="/d/")))
    assert a.welcome is not None
    assert a.welcome.root.ino == ino


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (pb.Hello(subdir="/nothing"), common.ERROR_CODE_NOT_FOUND),
        (pb.Hello(subdir="/", cluster_id="other"), common.ERROR_CODE_WRONG_CLUSTER),
        (pb.Hello(subdir="/", description="x" * 5_000), common.ERROR_CODE_INVALID),
        (pb.Hello(subdir="/", session_id="a\0b"), common.ERROR_CODE_INVALID),
    ],
)
def test_a_hello_that_cannot_be_served_is_refused(
    cluster: Cluster, hello: pb.Hello, code: "common.ErrorCode.ValueType"
) -> None:
    a = cluster.client("a")
    connection = cluster.new_connection(a)
    cluster.do(cluster.conductor.connect(connection, hello))
    assert a.end is not None
    assert a.end.code == code
    assert connection in cluster.closed


def test_an_empty_message_is_answered_by_a_heartbeat(cluster: Cluster) -> None:
    a = cluster.client("a")
    a.message()
    assert a.events[-1].HasField("heartbeat")


@pytest.mark.parametrize(
    "operation",
    [
        mkdir(b"d"),
        {"open": pb.Open(ino=ROOT, write=True)},
        {"open": pb.Open(ino=ROOT, truncate=True)},
        {"set_attr": pb.SetAttr(ino=ROOT, mode=0)},
    ],
)
def test_a_session_mounted_read_only_changes_nothing(cluster: Cluster, operation: dict[str, Any]) -> None:
    a = cluster.client("a", read_only=True)
    assert a.call(**operation).error == common.ERROR_CODE_READ_ONLY


def test_a_request_without_operation_is_answered(cluster: Cluster) -> None:
    a = cluster.client("a")
    assert a.call().error == common.ERROR_CODE_NOT_SUPPORTED


def test_a_message_with_too_many_requests_ends_the_session(cluster: Cluster) -> None:
    a = cluster.client("a")
    a.message(requests=[pb.Request(seq=number + 1, get_attr=pb.GetAttr(ino=ROOT)) for number in range(300)])
    assert a.end is not None
    assert a.end.code == common.ERROR_CODE_INVALID
    assert not a.replies


# ---------------------------------------------------------------------- exactly once


def test_a_change_sent_again_on_a_new_stream_is_answered_from_its_record(cluster: Cluster) -> None:
    a = cluster.client("a")
    seq = a.send(**mkdir(b"d"))
    first = a.replies.pop(seq)
    a.disconnect()
    a.connect()
    assert a.welcome is not None
    assert a.welcome.resumed
    a.send(seq, **mkdir(b"d"))
    again = a.replies[seq]
    assert again.error == common.ERROR_CODE_OK
    assert again.entry.attr == first.entry.attr
    assert not again.entry.parent_leased, "leases may have gone since"
    assert names(a) == [b"d"]


def test_a_change_that_is_being_committed_is_not_run_again(cluster: Cluster) -> None:
    a = cluster.client("a")
    cluster.held = True
    seq = a.send(**mkdir(b"d"))
    a.disconnect()
    a.connect()
    a.send(seq, **mkdir(b"d"))
    assert len(cluster.commits) == 1
    cluster.held = False
    cluster.settle()
    assert a.replies[seq].error == common.ERROR_CODE_OK


def test_a_change_committed_while_disconnected_is_not_run_again(cluster: Cluster) -> None:
    a = cluster.client("a")
    cluster.held = True
    seq = a.send(**mkdir(b"d"))
    a.disconnect()
    cluster.held = False
    cluster.settle()
    assert seq not in a.replies
    a.connect()
    a.send(seq, **mkdir(b"d"))
    assert a.replies[seq].error == common.ERROR_CODE_OK


def test_a_change_that_failed_is_run_again(cluster: Cluster) -> None:
    a = cluster.client("a")
    a.ok(**mkdir(b"d"))
    seq = a.send(**mkdir(b"d"))
    assert a.replies[seq].error == common.ERROR_CODE_EXISTS
    a.ok(rmdir=pb.RmDir(parent=ROOT, name=b"d"))
    a.disconnect()
    a.connect()
    a.send(seq, **mkdir(b"d"))
    assert a.replies[seq].error == common.ERROR_CODE_OK


def test_records_survive_a_restart(cluster: Cluster) -> None:
    a = cluster.client("a")
    seq = a.send(**mkdir(b"d"))
    cluster.restart()
    a.connect(incarnation=1)
    a.replies.clear()
    a.send(seq, **mkdir(b"d"))
    assert a.replies[seq].error == common.ERROR_CODE_OK
    assert names(a) == [b"d"]


def test_truncation_sent_again_opens_once_more(cluster: Cluster) -> None:
    a = cluster.client("a")
    ino = a.create(b"f")
    seq = a.send(open=pb.Open(ino=ino, write=True, truncate=True))
    assert a.replies[seq].open.lease == WRITE
    a.disconnect()
    a.connect(write_leases=[ino])
    a.ok(commit_write=pb.CommitWrite(ino=ino, size=9))
    a.send(seq, open=pb.Open(ino=ino, write=True, truncate=True))
    assert a.replies[seq].open.lease == WRITE
    assert a.replies[seq].open.attr.size == 9, "not truncated again"


def test_acknowledged_records_are_deleted(cluster: Cluster) -> None:
    a = cluster.client("a")
    for number in range(10):
        a.ok(**mkdir(b"d%d" % number))
    assert records(cluster, a) == 10
    a.acknowledged = 7
    a.message()
    cluster.advance(1.0)
    assert records(cluster, a) == 3


def test_goodbye_ends_the_session_and_its_records(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    a.message(goodbye=True)
    assert cluster.conductor.context.sessions.get(a.session_id) is None
    assert records(cluster, a) == 0
    assert a.connection in cluster.closed
    assert b.ok(open=pb.Open(ino=ino, write=True)).open.lease == WRITE


@pytest.mark.parametrize("commits", range(4))
def test_replies_of_a_session_are_deleted_also_when_the_coordinator_dies_meanwhile(
    cluster: Cluster, commits: int
) -> None:
    """A session that comes back finds all its replies, or has ended; nothing stays of one that has ended."""
    a = cluster.client("a")
    count = 2 * REPLIES_PURGED_AT_ONCE + 1
    for number in range(count):
        a.send(**mkdir(b"d%d" % number))
    cluster.held = True
    a.message(goodbye=True)
    for _ in range(commits):
        cluster.commit_all()
    assert records(cluster, a) == max(0, count - commits * REPLIES_PURGED_AT_ONCE)
    cluster.held = False
    cluster.restart()
    a.connect(incarnation=1)
    assert a.welcome is not None
    assert a.welcome.resumed == (commits == 0)
    assert cluster.engine.read(lambda txn: sum(1 for _ in txn.scan(*keys.all_replies()))) == (
        0 if commits else count
    )
    assert cluster.engine.read(ended_sessions) == []


# ---------------------------------------------------------------------- coming back


def test_leases_the_client_does_not_know_of_end_when_it_comes_back(cluster: Cluster) -> None:
    a = cluster.client("a")
    known, lost = a.create(b"f"), a.create(b"g")
    a.disconnect()
    a.connect(write_leases=[known])
    leases = cluster.conductor.context.leases
    assert leases.kind(a.session_id, known) == WRITE
    assert leases.kind(a.session_id, lost) == pb.LEASE_KIND_NONE


def test_recalls_that_were_lost_are_sent_again(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    a.disconnect()
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    assert seq not in b.replies
    a.connect()  # it may have begun to answer, and so claims nothing
    assert [event.WhichOneof("kind") for event in a.events[-2:]] == ["welcome", "recall"]
    assert seq not in b.replies, "unsent writes may still be on their way"
    a.answer()
    assert seq in b.replies


def test_a_second_stream_replaces_the_first(cluster: Cluster) -> None:
    a = cluster.client("a")
    old = a.connection
    a.connect()
    assert old in cluster.closed
    cluster.do(cluster.conductor.disconnect(old))
    a.ok(**mkdir(b"d"))


def test_messages_of_a_replaced_stream_are_ignored(cluster: Cluster) -> None:
    a = cluster.client("a")
    old = a.connection
    a.connect()
    late = pb.ClientMessage(requests=[pb.Request(seq=1, **mkdir(b"late"))])
    cluster.do(cluster.conductor.message(old, late))
    assert names(a) == []


# ---------------------------------------------------------------------- fencing


@FENCED
def test_a_silent_session_is_fenced_after_the_lease_time(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    a.disconnect()
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    cluster.heartbeats(LEASE_S - 1, b)
    assert seq not in b.replies
    cluster.heartbeats(2, b)
    assert b.replies[seq].error == common.ERROR_CODE_OK
    a.connect(write_leases=[ino])
    assert a.welcome is not None
    assert not a.welcome.resumed


@FENCED
def test_a_session_that_does_not_answer_a_recall_is_fenced_although_it_is_heard(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    cluster.heartbeats(LEASE_S + 1, a, b)
    assert a.end is not None
    assert a.end.code == common.ERROR_CODE_SESSION_FENCED
    cluster.heartbeats(LEASE_S * TRUST_LEASES_MAX, b)
    assert b.replies[seq].error == common.ERROR_CODE_OK


@FENCED
def test_nothing_is_given_away_while_a_fenced_client_may_not_know_of_its_end(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """What it was told is still on its way; until its trust ends by itself it may answer from its caches."""
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    cluster.heartbeats(LEASE_S, a, b)
    assert a.end is not None
    cluster.heartbeats(LEASE_S / 2 - 1, b)  # it was heard a second before its end
    assert seq not in b.replies
    cluster.heartbeats(LEASE_S, b)
    assert b.replies[seq].error == common.ERROR_CODE_OK
    assert len([record for record in caplog.records if "session_fenced" in record.getMessage()]) == 1


@FENCED
def test_saving_data_earns_more_time_but_not_for_ever(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    b.send(get_attr=pb.GetAttr(ino=ino))
    for _ in range(3):
        cluster.heartbeats(LEASE_S - 2, a, b)
        a.ok(commit_write=pb.CommitWrite(ino=ino, size=1))
    assert a.end is None
    cluster.heartbeats(LEASE_S, a, b)
    assert a.end is not None


@FENCED
def test_what_a_fenced_session_held_is_given_away_only_when_its_end_is_durable(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    cluster.held = True
    cluster.heartbeats(LEASE_S + 1, b)
    assert seq not in b.replies
    cluster.commit_all()
    assert seq in b.replies
    assert known_ids(cluster) == [b.session_id]


def known_ids(cluster: Cluster) -> list[str]:
    return [session_id for session_id, _ in cluster.engine.read(known_sessions)]


@FENCED
def test_a_change_waiting_when_its_session_is_fenced_never_happens(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    b.call(lookup=pb.Lookup(parent=ROOT, name=b"d"))
    a.send(**mkdir(b"d"))
    a.disconnect()
    for _ in range(int(LEASE_S) + 1):
        b.message()
        cluster.clock.advance(0.9)
        cluster.do(cluster.conductor.tick())
    cluster.advance(1.2)
    assert a.session_id not in known_ids(cluster)
    if b.recalls:
        b.answer()
    c = cluster.client("c")
    assert names(c) == []


@FENCED
def test_a_client_that_does_not_take_its_events_is_fenced(cluster: Cluster) -> None:
    a = cluster.client("a")
    cluster.do(cluster.conductor.overflow(a.connection))
    assert a.end is not None
    cluster.advance(LEASE_S * TRUST_LEASES_MAX)
    assert a.session_id not in known_ids(cluster)


# ---------------------------------------------------------------------- recovery


def test_after_a_restart_nothing_runs_until_all_have_come_back(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    cluster.restart()
    b.connect(incarnation=1)
    read = b.send(get_attr=pb.GetAttr(ino=ino))
    change = b.send(**mkdir(b"d"))
    opened = b.send(open=pb.Open(ino=ino, write=True))
    assert not {read, change, opened} & b.replies.keys()
    a.connect(incarnation=1, write_leases=[ino], open_inodes=[ino], open_for_write=[ino])
    assert b.replies[change].error == common.ERROR_CODE_OK
    assert read not in b.replies, "the reclaimed WRITE lease must be flushed first"
    while a.recalls:
        a.answer(still_open=(ino,), writing=(ino,))
    assert b.replies[read].error == common.ERROR_CODE_OK
    assert b.replies[opened].open.shared


@FENCED
def test_recovery_ends_after_the_lease_time_without_those_who_did_not_come_back(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    cluster.restart()
    b.connect(incarnation=1)
    change = b.send(**mkdir(b"d"))
    cluster.heartbeats(LEASE_S - 1, b)
    assert change not in b.replies
    cluster.heartbeats(2, b)
    assert b.replies[change].error == common.ERROR_CODE_OK
    a.connect(incarnation=1, write_leases=[ino])
    assert a.welcome is not None
    assert not a.welcome.resumed


def test_a_flush_need_not_wait_for_recovery(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    cluster.restart()
    a.connect(incarnation=1, write_leases=[ino])
    assert a.ok(commit_write=pb.CommitWrite(ino=ino, size=3)).commit_write.attr.size == 3
    b.connect(incarnation=1)


def test_a_new_coordinator_without_sessions_serves_at_once() -> None:
    a = Cluster().client("a")
    a.ok(**mkdir(b"d"))


def test_a_coordinator_that_restarts_twice_still_knows_the_sessions(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    cluster.restart()
    b.connect(incarnation=1)
    cluster.restart()
    a.connect(incarnation=1, write_leases=[ino])
    b.connect(incarnation=2)
    assert a.welcome is not None
    assert a.welcome.resumed
    assert not a.welcome.lost_write_leases
    seq = b.send(get_attr=pb.GetAttr(ino=ino))
    assert seq not in b.replies
    a.answer()
    assert seq in b.replies


def test_conflicting_claims_are_lost(cluster: Cluster) -> None:
    a, b = cluster.client("a"), cluster.client("b")
    ino = a.create(b"f")
    lock = pb.HeldLock(ino=ino, owner=1, range=pb.LockRange(type=pb.LOCK_TYPE_WRITE, end=9))
    cluster.restart()
    a.connect(write_leases=[ino], locks=[lock])
    b.connect(write_leases=[ino], read_leases=[ino], locks=[lock])
    assert b.welcome is not None
    assert list(b.welcome.lost_write_leases) == [ino]
    assert list(b.welcome.lost_read_leases) == [ino]
    assert list(b.welcome.lost_locks) == [lock]


# ---------------------------------------------------------------------- news


def test_membership_changes_and_low_space_are_told(cluster: Cluster) -> None:
    a = cluster.client("a")
    update = common.NodeUpdate(version=5, info=common.NodeInfo(node=1))
    cluster.do(cluster.conductor.node_updates([update]))
    assert a.events[-1].node_update == update
    cluster.do(cluster.conductor.low_space(True))
    cluster.do(cluster.conductor.low_space(True))
    assert [event.WhichOneof("kind") for event in a.events].count("notice") == 1
    b = cluster.client("b")
    assert b.events[-1].notice.low_space


def test_sessions_are_shown_to_people(cluster: Cluster) -> None:
    a = cluster.client("a")
    a.create(b"f")
    (info,) = cluster.conductor.session_infos()
    assert (info.description, info.write_leases, info.connected) == ("a", 1, True)
    assert info.read_leases == 1, "on the directory"
