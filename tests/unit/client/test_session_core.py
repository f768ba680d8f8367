"""The session's state machine, one step at a time."""

import pytest

from cairnfs.base import limits
from cairnfs.client import session_core as core_
from cairnfs.client.interface import Holdings
from cairnfs.client.session_core import Identity, Pending, SessionCore
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


def _welcome(session: str = "s1", *, resumed: bool = False, incarnation: int = 1) -> pb.Event:
    return pb.Event(
        welcome=pb.Welcome(
            session_id=session, resumed=resumed, incarnation=incarnation, cluster_id="c", lease_ms=10_000
        )
    )


def _reply(seq: int) -> pb.Event:
    return pb.Event(reply=pb.Reply(seq=seq))


def _drain(core: SessionCore, now: float) -> list[pb.ClientMessage]:
    messages: list[pb.ClientMessage] = []
    while (message := core.take_message(now)) is not None:
        messages.append(message)
    return messages


def _connect(core: SessionCore, event: pb.Event, now: float, held: Holdings | None = None) -> pb.Hello:
    core.connected(held or Holdings(), now)
    [message] = _drain(core, now)
    core.receive(event, now)
    return message.hello


@pytest.fixture
def core() -> SessionCore:
    """A core welcomed to session s1 at time 0."""
    core = SessionCore(Identity(host_id="host"))
    _connect(core, _welcome(), 0.0)
    return core


def _lookup() -> pb.Request:
    return pb.Request(lookup=pb.Lookup(parent=1, name=b"a"))


def _mkdir() -> pb.Request:
    return pb.Request(mkdir=pb.MkDir(parent=1, name=b"d"))


def _submit(core: SessionCore, *requests: pb.Request) -> list[Pending]:
    return [core.submit(request, object()) for request in requests]


def test_nothing_is_sent_before_the_welcome() -> None:
    core = SessionCore(Identity(host_id="host", subdir="/a"))
    core.submit(_lookup())
    core.connected(Holdings(read_leases=[5]), 0.0)
    [hello] = _drain(core, 0.0)
    assert hello.hello.subdir == "/a"
    assert hello.hello.session_id == ""
    assert not hello.hello.read_leases, "a new session has nothing to reclaim"
    core.receive(_welcome(), 0.0)
    [batch] = _drain(core, 0.0)
    assert [request.seq for request in batch.requests] == [1]


def test_everything_queued_travels_in_one_message(core: SessionCore) -> None:
    _submit(core, *(_lookup() for _ in range(5)))
    [message] = _drain(core, 0.0)
    assert [request.seq for request in message.requests] == [1, 2, 3, 4, 5]


def test_a_message_has_a_bound_of_requests_and_of_bytes(core: SessionCore) -> None:
    _submit(core, *(_lookup() for _ in range(limits.REQUESTS_PER_MESSAGE_MAX + 1)))
    assert [len(m.requests) for m in _drain(core, 0.0)] == [limits.REQUESTS_PER_MESSAGE_MAX, 1]
    value = bytes(limits.XATTR_VALUE_MAX_BYTES)
    _submit(
        core, *(pb.Request(set_xattr=pb.SetXattr(ino=1, name=b"user.a", value=value)) for _ in range(200))
    )
    messages = _drain(core, 0.0)
    assert sum(len(m.requests) for m in messages) == 200
    assert all(m.ByteSize() < limits.GRPC_MESSAGE_MAX_BYTES for m in messages)


def test_acknowledged_seq_stops_at_the_first_gap(core: SessionCore) -> None:
    _submit(core, _lookup(), _lookup(), _lookup())
    _drain(core, 0.0)
    core.receive(_reply(1), 0.1)
    core.receive(_reply(3), 0.1)
    assert core.acknowledged_seq == 1
    core.receive(_reply(2), 0.2)
    assert core.acknowledged_seq == 3


def test_a_resumed_session_sends_the_unanswered_again_in_order(core: SessionCore) -> None:
    _submit(core, _mkdir(), _lookup(), _mkdir())
    _drain(core, 0.0)
    core.receive(_reply(2), 0.1)
    core.disconnected()
    _submit(core, _lookup())
    hello = _connect(core, _welcome(resumed=True), 1.0, Holdings(read_leases=[7], open_inodes=[8]))
    assert (hello.session_id, hello.incarnation, hello.acknowledged_seq) == ("s1", 1, 0)
    assert (list(hello.read_leases), list(hello.open_inodes)) == ([7], [8])
    [message] = _drain(core, 1.0)
    assert [(r.seq, r.WhichOneof("op")) for r in message.requests] == [
        (1, "mkdir"),
        (3, "mkdir"),
        (4, "lookup"),
    ]


def test_a_second_break_does_not_send_anything_twice(core: SessionCore) -> None:
    _submit(core, _mkdir())
    _drain(core, 0.0)
    for now in (1.0, 2.0):
        core.disconnected()
        _connect(core, _welcome(resumed=True), now)
    [message] = _drain(core, 2.0)
    assert [request.seq for request in message.requests] == [1]


def test_a_reply_that_comes_twice_is_applied_once(core: SessionCore) -> None:
    _submit(core, _mkdir())
    _drain(core, 0.0)
    assert len(core.receive(_reply(1), 0.1)) == 1
    assert core.receive(_reply(1), 0.1) == []


def test_a_new_session_fails_mutations_and_repeats_reads(core: SessionCore) -> None:
    mkdir, lookup = _submit(core, _mkdir(), _lookup())
    _drain(core, 0.0)
    core.disconnected()
    unsent_mkdir, unsent_commit = _submit(core, _mkdir(), pb.Request(commit_write=pb.CommitWrite(ino=2)))
    core.connected(Holdings(), 20.0)
    _drain(core, 20.0)
    welcomed, *failed = core.receive(_welcome("s2"), 20.0)
    assert isinstance(welcomed, core_.Welcomed)
    assert [effect.pending for effect in failed if isinstance(effect, core_.Failed)] == [mkdir, unsent_commit]
    [message] = _drain(core, 20.0)
    assert list(message.requests) == [lookup.request, unsent_mkdir.request]
    assert [request.seq for request in message.requests] == [1, 2]


def test_an_abandoned_request_that_was_never_sent_takes_no_number(core: SessionCore) -> None:
    first, _ = _submit(core, _mkdir(), _lookup())
    core.abandon(first)
    [message] = _drain(core, 0.0)
    assert [(r.seq, r.WhichOneof("op")) for r in message.requests] == [(1, "lookup")]


def test_an_abandoned_request_that_was_sent_is_still_resent(core: SessionCore) -> None:
    [pending] = _submit(core, _mkdir())
    _drain(core, 0.0)
    core.abandon(pending)
    core.disconnected()
    _connect(core, _welcome(resumed=True), 1.0)
    [message] = _drain(core, 1.0)
    assert [request.seq for request in message.requests] == [1]


def test_doubt_counts_from_when_the_answered_message_was_sent(core: SessionCore) -> None:
    _submit(core, _lookup())
    _drain(core, 1.0)
    core.receive(_reply(1), 4.0)
    assert core.trusted(5.9)
    assert core.tick(5.9) == []
    assert not core.trusted(6.0)
    assert [type(effect) for effect in core.tick(6.0)] == [core_.Doubted]
    assert core.tick(6.5) == [], "told once"


def test_a_late_answer_does_not_restore_trust_and_a_timely_one_does(core: SessionCore) -> None:
    _submit(core, _lookup())
    _drain(core, 1.0)
    core.tick(6.0)
    late = core.receive(_reply(1), 6.5)
    assert [type(effect) for effect in late] == [core_.Answered]
    _submit(core, _lookup())
    _drain(core, 7.0)
    timely = core.receive(_reply(2), 7.1)
    assert [type(effect) for effect in timely] == [core_.Trusted, core_.Answered]


def test_a_heartbeat_is_due_after_a_second_without_answers_and_only_one_at_a_time(core: SessionCore) -> None:
    assert _drain(core, 0.9) == []
    assert core.next_tick() == pytest.approx(1.0)
    [heartbeat] = _drain(core, 1.0)
    assert not heartbeat.requests
    assert _drain(core, 2.5) == []
    core.receive(pb.Event(heartbeat=pb.Heartbeat()), 2.6)
    assert core.contact_s == 1.0
    assert len(_drain(core, 2.6)) == 1


def test_a_request_that_waits_long_does_not_keep_heartbeats_away(core: SessionCore) -> None:
    _submit(core, pb.Request(set_lock=pb.SetLock(ino=1, wait=True)))
    assert [len(message.requests) for message in _drain(core, 1.5)] == [1, 0]


def test_an_unanswered_heartbeat_gives_the_stream_up(core: SessionCore) -> None:
    _drain(core, 1.0)
    assert core.tick(1.0 + limits.SESSION_SILENCE_S - 0.1) == []
    effects = core.tick(1.0 + limits.SESSION_SILENCE_S)
    assert any(isinstance(effect, core_.Broken) for effect in effects)


def test_no_welcome_gives_the_stream_up() -> None:
    core = SessionCore(Identity(host_id="host"))
    core.connected(Holdings(), 0.0)
    _drain(core, 0.0)
    [broken] = core.tick(limits.WELCOME_DEADLINE_S)
    assert isinstance(broken, core_.Broken)


def test_recall_answers_are_sent_again_to_the_same_coordinator_only(core: SessionCore) -> None:
    core.receive(pb.Event(recall=pb.Recall(id=9)), 0.1)
    core.recall_done(pb.RecallDone(id=9))
    [message] = _drain(core, 0.2)
    assert [done.id for done in message.recalls_done] == [9]
    core.disconnected()
    _connect(core, _welcome(resumed=True), 0.5)
    [message] = _drain(core, 0.5)
    assert [done.id for done in message.recalls_done] == [9]
    core.disconnected()
    _connect(core, _welcome(resumed=True, incarnation=2), 0.8)
    assert _drain(core, 0.8) == []


def test_a_recall_of_an_earlier_coordinator_is_not_answered(core: SessionCore) -> None:
    core.receive(pb.Event(recall=pb.Recall(id=9)), 0.1)
    core.disconnected()
    _connect(core, _welcome(resumed=True, incarnation=2), 0.5)
    core.recall_done(pb.RecallDone(id=9))
    assert _drain(core, 0.5) == []


def test_a_confirmed_recall_answer_is_not_sent_again(core: SessionCore) -> None:
    core.receive(pb.Event(recall=pb.Recall(id=9)), 0.1)
    core.recall_done(pb.RecallDone(id=9))
    _submit(core, _lookup())
    _drain(core, 0.2)
    core.receive(_reply(1), 0.3)
    core.disconnected()
    _connect(core, _welcome(resumed=True), 0.5)
    assert _drain(core, 0.5) == []


def test_a_fenced_session_is_doubted_at_once(core: SessionCore) -> None:
    end = pb.SessionEnd(code=common_pb2.ERROR_CODE_SESSION_FENCED)
    effects = core.receive(pb.Event(end=end), 0.1)
    assert [type(effect) for effect in effects] == [core_.Doubted, core_.Broken]
    assert not core.trusted(0.1)


def test_the_cluster_map_follows_updates_and_ignores_old_ones(core: SessionCore) -> None:
    core.receive(
        pb.Event(
            cluster_map=common_pb2.ClusterMap(version=5, nodes=[common_pb2.NodeInfo(node=1, address="a:1")])
        ),
        0.1,
    )

    def update(version: int, address: str, *, removed: bool = False) -> None:
        info = common_pb2.NodeInfo(node=1, address=address)
        change = common_pb2.NodeUpdate(version=version, info=info, removed=removed)
        core.receive(pb.Event(node_update=change), 0.1)

    update(4, "old:1")
    node = core.cluster.node(1)
    assert node is not None
    assert node.address == "a:1"
    update(6, "b:1")
    node = core.cluster.node(1)
    assert node is not None
    assert node.address == "b:1"
    update(7, "b:1", removed=True)
    assert core.cluster.node(1) is None
