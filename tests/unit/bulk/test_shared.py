"""Memory shared for frames: what is placed in it, when it is free again, what a receiver accepts."""

import os
import random
from collections.abc import Iterator

import pytest

from cairnfs.base import limits
from cairnfs.base.checksums import crc32c
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.bulk.shared import UNIT, SendBuffer, SharedBuffers
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

Ack = chunks_pb2.ChunkDataAck


class Pair:
    """A buffer and who reads it."""

    def __init__(self) -> None:
        self.sender = SendBuffer()
        self.receiver = SharedBuffers()
        self.sender.name = self.receiver.add(self.sender.descriptor, limits.SHARED_BUFFER_BYTES)

    def send(self, frame: ChunkFrame) -> ChunkFrame:
        """Place a frame, pass it through the codec and resolve it."""
        arrived = decode_chunk_data(encode_chunk_data(self.sender.place(frame)))
        self.receiver.resolve(arrived)
        return arrived


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.sender.close()


def data(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [UNIT, UNIT + 1, limits.FRAME_MAX_BYTES - 1, limits.FRAME_MAX_BYTES])
def test_a_frame_arrives_as_it_was(pair: Pair, size: int) -> None:
    header = chunks_pb2.ChunkHeader(chunk_id=b"x" * 32, length=5 * size)
    frame = ChunkFrame(7, 3 * size, data(size), is_final=True, header=header)
    arrived = pair.send(frame)
    assert arrived.data == data(size)
    assert arrived.crc32c == crc32c(data(size))
    assert (arrived.transfer, arrived.offset, arrived.is_final, arrived.header) == (7, 3 * size, True, header)
    assert pair.sender.used_bytes >= size


def test_a_checksum_already_known_is_kept(pair: Pair) -> None:
    assert pair.sender.place(ChunkFrame(1, 0, data(UNIT), crc32c=5)).crc32c == 5


def test_small_frames_and_errors_travel_as_they_are(pair: Pair) -> None:
    for frame in (ChunkFrame(1, 0, data(UNIT - 1)), ChunkFrame(1, error=common_pb2.ERROR_CODE_INTERRUPTED)):
        assert pair.sender.place(frame) is frame
    assert pair.sender.used_bytes == 0


def test_nothing_is_placed_before_the_datanode_knows_the_buffer() -> None:
    sender = SendBuffer()
    frame = ChunkFrame(1, 0, data(UNIT))
    assert sender.place(frame) is frame
    sender.close()
    sender.close()
    assert sender.place(frame) is frame


def test_frames_travel_as_they_are_when_the_buffer_is_full(pair: Pair) -> None:
    count = limits.SHARED_BUFFER_BYTES // limits.FRAME_MAX_BYTES
    frames = [
        ChunkFrame(1, n * limits.FRAME_MAX_BYTES, data(limits.FRAME_MAX_BYTES, n)) for n in range(count)
    ]
    placed = [pair.send(frame) for frame in frames]
    extra = ChunkFrame(2, 0, data(UNIT))
    assert pair.sender.place(extra) is extra
    assert [frame.data for frame in placed] == [frame.data for frame in frames], "nothing was overwritten"
    pair.sender.acknowledged(Ack(transfer=1, bytes_received=limits.FRAME_MAX_BYTES))
    assert pair.sender.place(extra).shared is not None


def test_bytes_stay_until_they_are_acknowledged(pair: Pair) -> None:
    for offset in (0, UNIT, 2 * UNIT):
        pair.send(ChunkFrame(1, offset, data(UNIT)))
    pair.sender.acknowledged(Ack(transfer=1, bytes_received=2 * UNIT - 1))
    assert pair.sender.used_bytes == 2 * UNIT
    pair.sender.acknowledged(Ack(transfer=2, bytes_received=9 * UNIT, stored=True))
    assert pair.sender.used_bytes == 2 * UNIT, "that is another transfer"
    pair.sender.acknowledged(Ack(transfer=1, stored=True))
    assert pair.sender.used_bytes == 0


def test_a_transfer_given_up_keeps_its_bytes_until_the_datanode_has_let_go(pair: Pair) -> None:
    pair.send(ChunkFrame(1, 0, data(UNIT)))
    pair.sender.place(ChunkFrame(1, error=common_pb2.ERROR_CODE_INTERRUPTED))
    assert pair.sender.used_bytes == UNIT
    pair.sender.acknowledged(Ack(transfer=1, error=common_pb2.ERROR_CODE_INTERRUPTED))
    assert pair.sender.used_bytes == 0


def test_random_transfers_never_overwrite_each_other(pair: Pair) -> None:
    rng = random.Random(1)
    alive: dict[int, list[tuple[ChunkFrame, bytes]]] = {}
    for number in range(500):
        transfer = rng.randrange(12)
        frames = alive.setdefault(transfer, [])
        offset = sum(len(sent) for _, sent in frames)
        sent = rng.randbytes(rng.choice([UNIT, 3 * UNIT + 5, limits.FRAME_MAX_BYTES, 100]))
        frames.append((pair.send(ChunkFrame(transfer, offset, sent)), sent))
        assert all(frame.data == sent for each in alive.values() for frame, sent in each), number
        if rng.random() < 0.4:
            ended = rng.choice(list(alive))
            del alive[ended]
            pair.sender.acknowledged(Ack(transfer=ended, stored=True))
    for transfer in alive:
        pair.sender.acknowledged(Ack(transfer=transfer, stored=True))
    assert pair.sender.used_bytes == 0


@pytest.mark.parametrize(
    ("position", "length", "payload"),
    [
        (0, limits.FRAME_MAX_BYTES + 1, b""),
        (limits.SHARED_BUFFER_BYTES, 1, b""),
        (limits.SHARED_BUFFER_BYTES - 5, 6, b""),
        ((1 << 64) - 1, 5, b""),
        (0, 5, b"and bytes"),
    ],
)
def test_absurd_references_are_refused(pair: Pair, position: int, length: int, payload: bytes) -> None:
    shared = chunks_pb2.SharedRange(buffer=pair.sender.name, position=position, length=length)
    with pytest.raises(CairnError) as caught:
        pair.receiver.resolve(ChunkFrame(1, data=payload, shared=shared))
    assert caught.value.code == common_pb2.ERROR_CODE_INVALID


def test_a_buffer_is_unknown_after_its_removal(pair: Pair) -> None:
    frame = pair.sender.place(ChunkFrame(1, 0, data(UNIT)))
    pair.receiver.remove(pair.sender.name)
    pair.receiver.remove("never there")
    with pytest.raises(CairnError):
        pair.receiver.resolve(frame)


def test_memory_that_can_shrink_is_not_mapped() -> None:
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, limits.SHARED_BUFFER_BYTES)
    with pytest.raises(CairnError):
        SharedBuffers().add(fd, limits.SHARED_BUFFER_BYTES)
    os.close(fd)


def test_a_closed_buffer_leaves_no_descriptor() -> None:
    sender = SendBuffer()
    descriptor = sender.descriptor
    sender.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
