"""The session's tasks over in-memory streams, with a clock that jumps."""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.client.memory import FakeCoordinator, MemoryMetadataTransport, RecordingListener

_LOOKUP = pb.Lookup(parent=1, name=b"a")
_MKDIR = pb.MkDir(parent=1, name=b"d")


@asynccontextmanager
async def _session(
    *coordinators: FakeCoordinator, listener: RecordingListener | None = None
) -> AsyncGenerator[Session]:
    transport = MemoryMetadataTransport({f"c{n}:1": each for n, each in enumerate(coordinators)})
    async with Session.open(
        transport,
        list(transport.coordinators),
        Identity(host_id="host"),
        listener or RecordingListener(),
        clock=trio.current_time,
    ) as session:
        yield session


async def test_call_returns_the_result_or_raises_its_error(autojump_clock: MockClock) -> None:
    async with _session(FakeCoordinator()) as session:
        result = await session.call(pb.GetAttr(ino=7))
        assert result.attr.ino == 7
        assert await session.call(pb.StatFs()) is None
        with pytest.raises(CairnError) as caught:
            await session.call(pb.Lookup(parent=1, name=b"absent"))
        assert caught.value.code == common_pb2.ERROR_CODE_NOT_FOUND
        assert "no such entry" in str(caught.value)


async def test_concurrent_calls_share_messages(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator()
    async with _session(coordinator) as session, trio.open_nursery() as nursery:
        for ino in range(64):
            nursery.start_soon(session.call, pb.GetAttr(ino=ino))
    assert sorted(map(len, coordinator.batches())) == [1, 63]


async def test_listener_sees_events_in_stream_order_before_waiters_run(autojump_clock: MockClock) -> None:
    coordinator, listener = FakeCoordinator(hold=True), RecordingListener()

    async def call() -> None:
        await session.call(_LOOKUP)
        listener.events.append(("woken", None))

    async with _session(coordinator, listener=listener) as session, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
        coordinator.release()
        coordinator.send(pb.Event(recall=pb.Recall(id=3)))
    assert listener.kinds() == ["welcome", "reply", "recall", "woken"]


@pytest.mark.announces_warnings("lost the coordinator")
async def test_a_lost_reply_is_asked_for_again_and_nothing_runs_twice(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(lose_replies=True)
    async with _session(coordinator) as session, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(session.call, _MKDIR)
        await wait_all_tasks_blocked()
        coordinator.lose_replies = False
        coordinator.break_stream()
    assert [seq for _, seq, _ in coordinator.executed] == [1, 2, 3]
    assert coordinator.batches()[-1] == [1, 2, 3]
    assert coordinator.hellos()[-1].session_id == "session-1"


@pytest.mark.announces_warnings("lost the coordinator")
async def test_reconnects_to_another_coordinator(autojump_clock: MockClock) -> None:
    first, second = FakeCoordinator(), FakeCoordinator()
    first.sessions = second.sessions  # they share their engine
    async with _session(first, second) as session:
        serving = first if first.stream else second
        serving.reachable = False
        serving.break_stream()
        assert await session.call(_MKDIR) is None
        other = second if serving is first else first
        assert other.executed == [("session-1", 1, "mkdir")]


@pytest.mark.announces_warnings("lost the coordinator", "no contact with a coordinator")
async def test_reconnecting_backs_off(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator()
    transport = MemoryMetadataTransport({"c:1": coordinator})
    async with Session.open(
        transport, ["c:1"], Identity(host_id="h"), RecordingListener(), clock=trio.current_time
    ):
        coordinator.reachable = False
        coordinator.break_stream()
        await trio.sleep(60)
    assert 25 <= len(transport.dialled) <= 90


@pytest.mark.announces_warnings("lost the coordinator", "no contact with a coordinator")
async def test_each_of_many_coordinators_is_tried_as_often_as_a_single_one(autojump_clock: MockClock) -> None:
    """Whichever takes the lead waits for its clients no longer than a lease."""
    standing_by = [FakeCoordinator(reachable=False) for _ in range(7)]
    leader = FakeCoordinator()
    transport = MemoryMetadataTransport({f"c{n}:1": one for n, one in enumerate([leader, *standing_by])})
    async with Session.open(
        transport,
        list(transport.coordinators),
        Identity(host_id="h"),
        RecordingListener(),
        clock=trio.current_time,
    ) as session:
        leader.reachable = False
        leader.break_stream()
        await trio.sleep(60)
        standing_by[-1].sessions = leader.sessions
        standing_by[-1].reachable = True
        await trio.sleep(limits.RECONNECT_MAX_S)
        assert session.connected
        assert 8 * 25 <= len(transport.dialled) <= 8 * 90


@pytest.mark.announces_warnings("lost the coordinator", "no contact with a coordinator")
async def test_silence_brings_doubt_and_an_answer_brings_trust(autojump_clock: MockClock) -> None:
    coordinator, listener = FakeCoordinator(), RecordingListener()
    async with _session(coordinator, listener=listener) as session:
        await trio.sleep(60)
        assert listener.kinds() == ["welcome"], "heartbeats keep the trust"
        coordinator.silent = True
        await trio.sleep(limits.CLIENT_DOUBT_S + 1)
        assert listener.kinds() == ["welcome", "doubt"]
        assert not session.trusted
        coordinator.silent = False
        await trio.sleep(10)
        assert listener.events[2:] == [("welcome", True)]
        assert session.trusted


@pytest.mark.announces_warnings("lost the coordinator", "no contact with a coordinator")
async def test_a_fenced_session_fails_mutations_and_repeats_reads(autojump_clock: MockClock) -> None:
    coordinator, listener = FakeCoordinator(lose_replies=True), RecordingListener()
    outcomes: dict[str, object] = {}

    async def call(name: str, op: object) -> None:
        try:
            outcomes[name] = await session.call(op)
        except CairnError as error:
            outcomes[name] = error.code

    async with _session(coordinator, listener=listener) as session, trio.open_nursery() as nursery:
        nursery.start_soon(call, "mutation", _MKDIR)
        nursery.start_soon(call, "read", _LOOKUP)
        await wait_all_tasks_blocked()
        coordinator.lose_replies = False
        coordinator.sessions.clear()
        coordinator.send(pb.Event(end=pb.SessionEnd(code=common_pb2.ERROR_CODE_SESSION_FENCED)))
    assert outcomes == {"mutation": common_pb2.ERROR_CODE_SESSION_FENCED, "read": None}
    assert listener.events[:3] == [("welcome", False), ("doubt", None), ("welcome", False)]


async def test_deadline_passes(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(hold=True)
    async with _session(coordinator) as session:
        started = trio.current_time()
        with pytest.raises(CairnError) as caught:
            await session.call(_LOOKUP, deadline_s=3)
        assert caught.value.code == common_pb2.ERROR_CODE_TIMED_OUT
        assert trio.current_time() - started == pytest.approx(3)
        with pytest.raises(CairnError) as caught:
            await session.call(_LOOKUP)
        assert caught.value.code == common_pb2.ERROR_CODE_TIMED_OUT
        waited_s = trio.current_time() - started - 3 - limits.RPC_DEADLINE_S
        assert 0 <= waited_s <= limits.SESSION_HEARTBEAT_S


async def test_a_cancelled_call_leaves_the_session_working(autojump_clock: MockClock) -> None:
    coordinator, listener = FakeCoordinator(hold=True), RecordingListener()
    async with _session(coordinator, listener=listener) as session:
        with trio.move_on_after(1):
            await session.call(_MKDIR)
        coordinator.hold = False
        coordinator.release()
        assert (await session.call(pb.GetAttr(ino=4))).attr.ino == 4
    assert ("reply", 1) in listener.events, "listeners see the dropped reply"


async def test_cancelling_a_lock_wait_withdraws_the_request(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(hold=True)
    granted: list[bool] = []

    async def lock() -> None:
        with scope:
            await session.call(pb.SetLock(ino=1, wait=True), deadline_s=math.inf)
            granted.append(True)

    scope = trio.CancelScope()
    async with _session(coordinator) as session, trio.open_nursery() as nursery:
        nursery.start_soon(lock)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        assert coordinator.messages[-1].requests[0].cancel_lock.seq == 1
        coordinator.held[0][1].error = common_pb2.ERROR_CODE_INTERRUPTED
        coordinator.release()
    assert scope.cancelled_caught
    assert not granted


async def test_a_lock_granted_while_it_is_cancelled_is_reported(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(hold=True)
    granted: list[bool] = []

    async def lock() -> None:
        with scope:
            await session.call(pb.SetLock(ino=1, wait=True), deadline_s=math.inf)
            granted.append(True)

    scope = trio.CancelScope()
    async with _session(coordinator) as session, trio.open_nursery() as nursery:
        nursery.start_soon(lock)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        coordinator.release()
    assert granted == [True]


async def test_no_more_than_the_bound_is_outstanding(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(hold=True)
    async with _session(coordinator) as session, trio.open_nursery() as nursery:
        for ino in range(limits.SESSION_OUTSTANDING_MAX + 10):
            nursery.start_soon(session.call, pb.GetAttr(ino=ino))
        await wait_all_tasks_blocked()
        assert len(coordinator.held) == limits.SESSION_OUTSTANDING_MAX
        coordinator.hold = False
        coordinator.release()
    assert len(coordinator.executed) == limits.SESSION_OUTSTANDING_MAX + 10


async def test_deadlines_pass_for_all_that_wait_for_an_answer_or_for_room(
    autojump_clock: MockClock,
) -> None:
    coordinator = FakeCoordinator(hold=True)
    codes: list[int] = []

    async def ask(ino: int) -> None:
        try:
            await session.call(pb.GetAttr(ino=ino))
        except CairnError as error:
            codes.append(error.code)

    async with _session(coordinator) as session:
        async with trio.open_nursery() as nursery:
            for ino in range(limits.SESSION_OUTSTANDING_MAX + 10):
                nursery.start_soon(ask, ino)
        coordinator.hold = False
        coordinator.release()
        await session.call(_LOOKUP)
    assert codes == [common_pb2.ERROR_CODE_TIMED_OUT] * (limits.SESSION_OUTSTANDING_MAX + 10)


async def test_recall_done_is_sent_at_once(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator()
    async with _session(coordinator) as session:
        coordinator.send(pb.Event(recall=pb.Recall(id=3)))
        await wait_all_tasks_blocked()
        session.recall_done(3, [5], [])
        [done] = coordinator.messages[-1].recalls_done
        assert (done.id, list(done.still_open)) == (3, [5])


async def test_closing_says_goodbye_and_fails_the_rest(autojump_clock: MockClock) -> None:
    coordinator = FakeCoordinator(hold=True)
    codes: list[int] = []

    async def call() -> None:
        with pytest.raises(CairnError) as caught:
            await session.call(_MKDIR)
        codes.append(caught.value.code)

    async with trio.open_nursery() as nursery, _session(coordinator) as session:
        nursery.start_soon(call)
        await wait_all_tasks_blocked()
    assert coordinator.messages[-1].goodbye
    assert codes == [common_pb2.ERROR_CODE_SESSION_FENCED]
    with pytest.raises(CairnError):
        await session.call(_MKDIR)


async def test_a_refused_hello_ends_the_first_connection(autojump_clock: MockClock) -> None:
    refusal = pb.SessionEnd(code=common_pb2.ERROR_CODE_NOT_FOUND, message="no directory /x")
    transport = MemoryMetadataTransport({"c:1": FakeCoordinator(refusal=refusal)})
    session = Session(transport, ["c:1"], Identity(host_id="h"), clock=trio.current_time)
    with pytest.raises(CairnError, match="no directory /x"):
        await session.run(RecordingListener())


async def test_nobody_answers_the_first_connection(autojump_clock: MockClock) -> None:
    transport = MemoryMetadataTransport({"c:1": FakeCoordinator(reachable=False)})
    session = Session(transport, ["c:1"], Identity(host_id="h"), clock=trio.current_time)
    with pytest.raises(CairnError, match="c:1") as caught:
        await session.run(RecordingListener(), 5.0)
    assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
    assert trio.current_time() >= 5


async def test_the_cluster_map_is_known(autojump_clock: MockClock) -> None:
    nodes = [common_pb2.NodeInfo(node=2, address="d:2")]
    coordinator = FakeCoordinator(cluster_map=common_pb2.ClusterMap(version=1, nodes=nodes))
    async with _session(coordinator) as session:
        node = session.node(2)
        assert node is not None
        assert node.address == "d:2"
        assert session.node(3) is None


@pytest.mark.announces_warnings(
    "lost the coordinator", "no contact with a coordinator", "refuses this client"
)
async def test_a_refusal_after_the_first_welcome_is_told_once_and_tried_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = FakeCoordinator()
    async with _session(coordinator) as session:
        coordinator.refusal = pb.SessionEnd(code=common_pb2.ERROR_CODE_WRONG_CLUSTER)
        coordinator.break_stream()
        await trio.sleep(30)
        assert caplog.text.count("refuses this client") == 1
        coordinator.refusal = None
        assert (await session.call(pb.GetAttr(ino=3))).attr.ino == 3


@pytest.mark.announces_warnings("lost the coordinator", "no contact with a coordinator")
async def test_a_stream_that_breaks_again_and_again_is_not_dialled_at_full_speed(
    autojump_clock: MockClock,
) -> None:
    coordinator = FakeCoordinator()
    transport = MemoryMetadataTransport({"c:1": coordinator})
    async with (
        Session.open(
            transport, ["c:1"], Identity(host_id="h"), RecordingListener(), clock=trio.current_time
        ) as session,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_break_whenever_connected, session, coordinator)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert len(transport.dialled) < 90


async def _break_whenever_connected(session: Session, coordinator: FakeCoordinator) -> None:
    while True:
        if session.connected:
            coordinator.break_stream()
        await trio.sleep(0.01)
