"""The sending side of a replication stream, step by step."""

import pytest
from hypothesis import given, settings, strategies as st

from cairnfs.base import limits
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.datanode.replication import (
    STORE_TIMES_S,
    Answered,
    Effect,
    Failed,
    ReplicationSender,
    Reset,
    Send,
)
from cairnfs.rpc.v1.chunks_pb2 import ChunkDataAck, ChunkHeader
from tests.unit.datanode.harness import content, frames_of

MIB = limits.MIB
DATA = content(4 * MIB)
FRAMES = frames_of(DATA)


def header(data: bytes = DATA) -> ChunkHeader:
    found = FRAMES[0].header if data is DATA else frames_of(data)[0].header
    assert found is not None
    return found


def sent(effects: list[Effect]) -> list[ChunkFrame]:
    return [effect.frame for effect in effects if isinstance(effect, Send)]


def opened(credit: int = limits.REPLICATION_WINDOW_BYTES) -> ReplicationSender:
    sender = ReplicationSender()
    sender.on_open("session", credit, 0)
    return sender


def test_frames_wait_for_the_stream_and_then_for_credit() -> None:
    sender = ReplicationSender()
    sender.begin("a", header(), 0)
    frames = FRAMES
    assert [sender.push("a", frame, 0) for frame in frames] == [[], [], [], []]
    assert sender.queued_bytes == 4 * MIB
    first = sent(sender.on_open("session", 2 * MIB, 0))
    assert [frame.offset for frame in first] == [0, MIB]
    assert first[0].header is not None
    assert first[0].header.replication_session == "session"
    assert not first[0].header.replicas
    assert first[1].header is None
    ack = ChunkDataAck(transfer=first[0].transfer, bytes_received=MIB, ready_for_next=2 * MIB)
    effects = sender.on_ack(ack, 1)
    assert effects[0] == Answered("a", ack)
    assert [frame.offset for frame in sent(effects)] == [2 * MIB]
    assert (sender.queued_bytes, sender.under_way_bytes) == (MIB, 2 * MIB)


def test_a_final_answer_gives_all_credit_back() -> None:
    sender = opened(MIB)
    sender.begin("a", header(), 0)
    sender.begin("b", header(), 0)
    (frame,) = sent([e for f in FRAMES for e in sender.push("a", f, 0)])
    sender.push("b", FRAMES[0], 0)
    effects = sender.on_ack(ChunkDataAck(transfer=frame.transfer, stored=True, ready_for_next=MIB), 0)
    (other,) = sent(effects)
    assert other.transfer != frame.transfer
    assert sender.queued_bytes == 0
    assert sender.push("a", FRAMES[3], 0) == [], "the transfer is over"


def test_a_peer_that_stops_answering_fails_its_transfers() -> None:
    sender = opened()
    sender.begin("a", header(), 0)
    sender.push("a", FRAMES[0], 10)
    assert sender.on_tick(10 + limits.REPLICA_PROGRESS_S - 0.1) == []
    effects = sender.on_tick(10 + limits.REPLICA_PROGRESS_S)
    assert [type(effect) for effect in effects] == [Failed, Reset]
    assert sender.idle
    assert (sender.queued_bytes, sender.under_way_bytes) == (0, 0)


def test_a_peer_that_never_says_stored_fails_as_well() -> None:
    sender = opened()
    data = content(10)
    sender.begin("a", header(data), 0)
    (frame,) = sent(sender.push("a", frames_of(data)[0], 0))
    sender.on_ack(ChunkDataAck(transfer=frame.transfer, bytes_received=10, ready_for_next=MIB), 1)
    assert isinstance(sender.on_tick(1 + limits.REPLICA_PROGRESS_S)[-1], Reset)


def test_a_slow_sender_is_not_the_peers_fault() -> None:
    sender = opened()
    sender.begin("a", header(), 0)
    (frame,) = sent(sender.push("a", FRAMES[0], 0))
    sender.on_ack(ChunkDataAck(transfer=frame.transfer, bytes_received=MIB, ready_for_next=8 * MIB), 0)
    assert sender.on_tick(1000) == []
    sender.push("a", FRAMES[1], 1000)
    assert sender.on_tick(1000.1) == []


def test_a_broken_stream_fails_every_transfer_and_a_new_one_starts_afresh() -> None:
    sender = opened()
    for key in "ab":
        sender.begin(key, header(), 0)
        sender.push(key, FRAMES[0], 0)
    assert sender.on_broken("gone") == [Failed("a", "gone"), Failed("b", "gone")]
    sender.begin("c", header(), 0)
    assert sender.push("c", FRAMES[0], 0) == [], "not before the new stream is open"
    (frame,) = sent(sender.on_open("second", 8 * MIB, 0))
    assert frame.header is not None
    assert frame.header.replication_session == "second"


def test_cancelling_tells_a_peer_that_has_heard_of_it() -> None:
    sender = opened(MIB)
    for key in "ab":
        sender.begin(key, header(), 0)
        sender.push(key, FRAMES[0], 0)
    assert sender.cancel("b") == [], "nothing of it was sent"
    (frame,) = sent(sender.cancel("a"))
    assert frame.error
    assert sender.under_way_bytes == 0
    assert sender.cancel("a") == []


def test_too_much_for_a_stalled_peer_fails_the_transfer_that_adds_it() -> None:
    sender = ReplicationSender()
    count = limits.PEER_QUEUE_MAX_BYTES // len(DATA)
    for key in range(count + 1):
        sender.begin(key, header(), 0)
    effects = [e for key in range(count + 1) for f in FRAMES for e in sender.push(key, f, 0)]
    assert [effect.key for effect in effects if isinstance(effect, Failed)] == [count]
    assert sender.queued_bytes == limits.PEER_QUEUE_MAX_BYTES


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_credit_is_never_exceeded(data: st.DataObject) -> None:
    sender = opened(credit=2 * MIB)
    credit = 2 * MIB
    out: dict[int, int] = {}
    got: dict[int, int] = {}
    pushed: dict[int, int] = {}

    def take(effects: list[Effect]) -> None:
        for frame in sent(effects):
            if frame.error:
                out.pop(frame.transfer, None)
                continue
            out[frame.transfer] = out.get(frame.transfer, 0) + len(frame.data)
            assert sum(size - got.get(number, 0) for number, size in out.items()) <= credit

    for step in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["begin", "push", "push", "ack", "stored", "cancel"]))
        if action == "begin":
            pushed[step] = 0
            sender.begin(step, header(), 0)
        elif action == "push" and pushed:
            key = data.draw(st.sampled_from(sorted(pushed)))
            if pushed[key] < 4:
                take(sender.push(key, FRAMES[pushed[key]], 0))
                pushed[key] += 1
        elif action == "cancel" and pushed:
            key = data.draw(st.sampled_from(sorted(pushed)))
            del pushed[key]
            take(sender.cancel(key))
        elif out:
            number = data.draw(st.sampled_from(sorted(out)))
            credit = data.draw(st.sampled_from([MIB, 2 * MIB, 3 * MIB]))
            got[number] = out[number]
            ack = ChunkDataAck(
                transfer=number, bytes_received=out[number], ready_for_next=credit, stored=action == "stored"
            )
            if action == "stored":
                out.pop(number)
            take(sender.on_ack(ack, 0))


def test_the_time_that_a_peer_takes_is_known_and_then_forgotten() -> None:
    sender = opened()
    assert sender.store_s(0) == 0
    for index, seconds in enumerate((0.1, 0.3, 5.0)):
        (frame,) = frames_of(content(1_000, index))
        sender.begin(index, header(content(1_000, index)), 10)
        (first,) = sent(sender.push(index, frame, 10))
        sender.on_ack(ChunkDataAck(transfer=first.transfer, stored=True, ready_for_next=MIB), 10 + seconds)
    sender.begin("large", header(), 20)
    (frame, *_) = sent(sender.push("large", FRAMES[0], 20))
    sender.on_ack(ChunkDataAck(transfer=frame.transfer, stored=True, ready_for_next=MIB), 50)
    assert sender.store_s(20) == pytest.approx(0.3)
    assert sender.store_s(15 + STORE_TIMES_S) == 0
