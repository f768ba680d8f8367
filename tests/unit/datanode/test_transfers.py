"""The state machine of one incoming chunk, step by step."""

import itertools

import pytest
from hypothesis import given, settings, strategies as st

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.datanode import transfers
from cairnfs.datanode.transfers import Acknowledge, Discard, Finish, Forward, GiveUp, Transfer, Write
from cairnfs.rpc.v1 import common_pb2 as pb
from cairnfs.rpc.v1.chunks_pb2 import ChunkDataAck, ChunkHeader
from tests.unit.datanode.harness import content, frames_of

OWN = 1
WINDOW = 8 * limits.MIB
DATA = content(3 * limits.MIB)
FRAMES = frames_of(DATA)


def machine(data: bytes = DATA, replicas: tuple[int, ...] = (2, 3), wanted: int = 0) -> Transfer:
    header = frames_of(data, replicas, wanted=wanted)[0].header
    assert header is not None
    return Transfer(1, header, OWN, WINDOW)


def kinds(effects: list[transfers.Effect]) -> list[object]:
    return [(type(e), e.node) if isinstance(e, Forward | GiveUp) else type(e) for e in effects]


def answer(effects: list[transfers.Effect]) -> ChunkDataAck:
    acks = [effect.ack for effect in effects if isinstance(effect, Acknowledge) and effect.final]
    assert len(acks) == 1, effects
    return acks[0]


def received(size: int) -> ChunkDataAck:
    return ChunkDataAck(bytes_received=size)


STORED = ChunkDataAck(stored=True)


def feed(transfer: Transfer) -> None:
    for frame in frames_of(DATA):
        transfer.on_frame(frame)


def test_frames_are_written_and_forwarded_at_once() -> None:
    transfer = machine()
    first, second, last = frames_of(DATA)
    assert kinds(transfer.on_frame(first)) == [Write, (Forward, 2), (Forward, 3)]
    assert kinds(transfer.on_frame(second)) == [Write, (Forward, 2), (Forward, 3)]
    assert kinds(transfer.on_frame(last)) == [Write, (Forward, 2), (Forward, 3), Finish]


def test_credit_follows_the_slowest() -> None:
    transfer = machine()
    feed(transfer)
    mib = limits.MIB
    assert transfer.on_written(2 * mib) == []
    assert transfer.on_replica_ack(2, received(3 * mib)) == []
    (ack,) = transfer.on_replica_ack(3, received(mib))
    assert isinstance(ack, Acknowledge)
    assert (ack.ack.bytes_received, ack.ack.ready_for_next, ack.final) == (mib, WINDOW, False)
    assert transfer.acknowledged == mib
    (ack,) = transfer.on_replica_failed(3, "gone")
    assert isinstance(ack, Acknowledge)
    assert ack.ack.bytes_received == 2 * mib


def test_success_needs_every_wanted_copy() -> None:
    transfer = machine()
    feed(transfer)
    assert transfer.on_stored() == []
    assert transfer.on_replica_ack(3, STORED) == []
    final = answer(transfer.on_replica_ack(2, STORED))
    assert final.stored
    assert sorted(final.nodes) == [1, 2, 3]
    assert transfer.ended


def test_success_does_not_wait_for_copies_beyond_the_wanted() -> None:
    transfer = machine(wanted=2)
    feed(transfer)
    transfer.on_replica_ack(3, STORED)
    effects = transfer.on_stored()
    assert kinds(effects) == [Acknowledge], "replica 2 was sent everything and may finish"
    assert list(answer(effects).nodes) == [1, 3]
    assert transfer.on_replica_ack(2, STORED) == []


def test_a_replica_that_fails_or_refuses_is_left_out() -> None:
    transfer = machine()
    first, *rest = frames_of(DATA)
    transfer.on_frame(first)
    transfer.on_replica_failed(2, "no progress")
    transfer.on_replica_ack(3, ChunkDataAck(error=pb.ERROR_CODE_NO_SPACE, detail="full"))
    for frame in rest:
        assert not any(isinstance(effect, Forward) for effect in transfer.on_frame(frame))
    final = answer(transfer.on_stored())
    assert final.error == pb.ERROR_CODE_UNAVAILABLE
    assert list(final.nodes) == [1]
    assert "no progress" in final.detail
    assert "full" in final.detail


def test_a_disk_that_fails_here_ends_everything() -> None:
    transfer = machine()
    transfer.on_frame(frames_of(DATA)[0])
    effects = transfer.on_disk_failed(pb.ERROR_CODE_NO_SPACE, "full")
    assert kinds(effects) == [Discard, (GiveUp, 2), (GiveUp, 3), Acknowledge]
    assert answer(effects).error == pb.ERROR_CODE_NO_SPACE
    assert transfer.on_frame(frames_of(DATA)[1]) == []
    assert transfer.on_disk_failed(pb.ERROR_CODE_IO, "again") == []


def test_a_chunk_that_is_here_goes_to_the_replicas_only() -> None:
    transfer = machine(replicas=(2,))
    assert transfer.on_already_here() == []
    assert kinds(transfer.on_frame(frames_of(DATA)[0])) == [(Forward, 2)]
    final = answer(transfer.on_replica_ack(2, STORED))
    assert final.stored
    assert transfer.on_frame(frames_of(DATA)[1]) == []


def test_a_chunk_that_is_here_and_wanted_once_is_answered_at_once() -> None:
    transfer = machine(replicas=(2,), wanted=1)
    effects = transfer.on_already_here()
    assert answer(effects).stored
    assert (GiveUp, 2) in kinds(effects), "the sender will not send the rest for it"


def test_a_sender_that_gives_up_leaves_nothing() -> None:
    for said in (True, False):
        transfer = machine()
        transfer.on_frame(frames_of(DATA)[0])
        gone = ChunkFrame(1, error=pb.ERROR_CODE_INTERRUPTED)
        effects = transfer.on_frame(gone) if said else transfer.on_sender_gone()
        assert kinds(effects) == [Discard, (GiveUp, 2), (GiveUp, 3)]
        assert transfer.on_sender_gone() == []


def test_what_arrived_whole_is_finished_without_the_sender() -> None:
    transfer = machine()
    feed(transfer)
    assert transfer.on_sender_gone() == []
    assert transfer.on_given_up(pb.ERROR_CODE_TIMED_OUT, "late") == []
    assert transfer.on_stored() == []


def test_an_incomplete_transfer_is_given_up() -> None:
    transfer = machine()
    assert answer(transfer.on_given_up(pb.ERROR_CODE_TIMED_OUT, "late")).error == pb.ERROR_CODE_TIMED_OUT


def broken(index: int, **changes: object) -> list[ChunkFrame]:
    frames = frames_of(DATA)
    for field, value in changes.items():
        setattr(frames[index], field, value)
    return frames


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (broken(1, crc32c=0), pb.ERROR_CODE_CORRUPT),
        (broken(1, offset=0), pb.ERROR_CODE_INVALID),
        (broken(1, data=b""), pb.ERROR_CODE_INVALID),
        (broken(1, is_final=True), pb.ERROR_CODE_INVALID),
        (broken(2, is_final=False), pb.ERROR_CODE_INVALID),
        (broken(2, data=content(limits.MIB + 1)), pb.ERROR_CODE_INVALID),
    ],
)
def test_a_bad_frame_is_neither_written_nor_forwarded(frames: list[ChunkFrame], code: int) -> None:
    transfer = machine()
    effects = list(itertools.chain.from_iterable(transfer.on_frame(frame) for frame in frames))
    assert answer(effects).error == code
    written = sum(len(effect.data) for effect in effects if isinstance(effect, Write))
    assert written < len(DATA)
    assert not any(isinstance(effect, Finish) for effect in effects)


def test_a_small_chunk_travels_in_one_frame() -> None:
    data = content(1000)
    transfer = machine(data, replicas=())
    effects = transfer.on_frame(frames_of(data, frame_bytes=600)[0])
    assert answer(effects).error == pb.ERROR_CODE_INVALID
    transfer = machine(data, replicas=())
    assert kinds(transfer.on_frame(frames_of(data)[0])) == [Write, Finish]
    assert answer(transfer.on_stored()).stored


@pytest.mark.parametrize(
    "header",
    [
        ChunkHeader(chunk_id=bytes(31), length=1),
        ChunkHeader(chunk_id=bytes(32), length=0),
        ChunkHeader(chunk_id=bytes(32), length=limits.CHUNK_MAX_BYTES + 1),
        ChunkHeader(chunk_id=bytes(32), length=1, replicas=[2, 2]),
        ChunkHeader(chunk_id=bytes(32), length=1, replicas=[OWN]),
        ChunkHeader(chunk_id=bytes(32), length=1, replicas=range(2, 30)),
        ChunkHeader(chunk_id=bytes(32), length=1, replicas=[2], wanted_replicas=3),
    ],
)
def test_an_impossible_header_is_refused(header: ChunkHeader) -> None:
    with pytest.raises(CairnError) as caught:
        Transfer(1, header, OWN, WINDOW)
    assert caught.value.code == pb.ERROR_CODE_INVALID


EVENTS = st.lists(
    st.sampled_from(
        ["frame", "written", "stored", "ack2", "ack3", "stored2", "stored3", "fail2", "fail3", "disk"]
    ),
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.integers(1, 3))
def test_any_order_of_news_gives_at_most_one_true_answer(events: list[str], wanted: int) -> None:
    transfer = machine(wanted=wanted)
    frames = iter(FRAMES)
    unwritten = 0
    acks: list[Acknowledge] = []
    stored: set[int] = set()
    for event in events:
        effects: list[transfers.Effect] = []
        node = int(event[-1]) if event[-1].isdigit() else OWN
        if event == "frame" and (frame := next(frames, None)):
            effects = transfer.on_frame(frame)
            unwritten += sum(len(e.data) for e in effects if isinstance(e, Write))
        elif event == "written" and unwritten:
            effects = transfer.on_written(min(unwritten, limits.MIB))
            unwritten -= min(unwritten, limits.MIB)
        elif event == "stored" and transfer.complete and not unwritten:
            stored.add(OWN)
            effects = transfer.on_stored()
        elif event.startswith("ack"):
            effects = transfer.on_replica_ack(node, received(transfer.received))
        elif event.startswith("stored") and node != OWN:
            stored.add(node)
            effects = transfer.on_replica_ack(node, STORED)
        elif event.startswith("fail"):
            effects = transfer.on_replica_failed(node, "failed")
        elif event == "disk":
            effects = transfer.on_disk_failed(pb.ERROR_CODE_IO, "failed")
        acks += [effect for effect in effects if isinstance(effect, Acknowledge)]
    finals = [ack for ack in acks if ack.final]
    assert len(finals) <= 1
    assert all(not ack.final for ack in acks[:-1]), "nothing follows the final answer"
    counted = [ack.ack.bytes_received for ack in acks if not ack.final]
    assert counted == sorted(set(counted)), "credit only grows"
    for final in finals:
        assert set(final.ack.nodes) <= stored
        assert not final.ack.stored or len(final.ack.nodes) >= wanted
