"""Many small writes at random places: few chunks, few requests, and blocks compacted when it is worth it."""

import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import (
    BLOCK_BYTES,
    CHUNK_MAX_BYTES,
    COMPACT_QUIET_S,
    KIB,
    SLICES_COMPACT,
    SLICES_MAX,
)
from cairnfs.coordinator import keys
from cairnfs.coordinator.records import decode_slices
from cairnfs.rpc.v1 import common_pb2
from cairnfs.vfs.compactor import mergeable
from tests.doubles.answering import MemoryAnswers
from tests.doubles.rig import MemoryChunks, Rig, SimKernel

Clock = trio.testing.MockClock
PAGE_BYTES = 4 * KIB
BLOCKS = 3


class CountingChunks(MemoryChunks):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bytes, int, int]] = []

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        self.asked.append((chunk_id, offset, length))
        return await super().retrieve(chunk_id, chunk_length, nodes, offset, length)


class Scene:
    """A mount with a file of BLOCKS blocks in it."""

    def __init__(self, rig: Rig, chunks: CountingChunks, kernel: SimKernel) -> None:
        self.rig = rig
        self.chunks = chunks
        self.kernel = kernel
        self.content = bytearray(
            random.Random(0).randbytes(PAGE_BYTES) * (BLOCKS * BLOCK_BYTES // PAGE_BYTES)
        )

    async def write(self, writes: Iterator[tuple[int, bytes]]) -> None:
        """Write pieces and fsync once."""
        file = await self.kernel.open("/file", os.O_RDWR | os.O_CREAT)
        for offset, data in writes:
            await self.kernel.fs.write(file.handle, offset, data)
            self.content[offset : offset + len(data)] = data
        await file.fsync()
        await file.close()

    def slices(self) -> int:
        """How many slices the file has."""
        return self.rig.engine.read(
            lambda txn: sum(len(decode_slices(value)) for _, value in txn.scan(*keys.all_extents()))
        )

    def book(self) -> MemoryAnswers:
        """What is answered without the file system."""
        answers = self.kernel.fs.state.answers
        assert isinstance(answers, MemoryAnswers)
        return answers

    async def check(self) -> None:
        """Another mount reads the content; the metadata is in order."""
        async with self.rig.mount() as reader:
            assert await reader.read("/file") == self.content
        assert self.rig.faults() == []


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        rig.chunks = chunks = CountingChunks()
        async with rig.mount() as kernel:
            made = Scene(rig, chunks, kernel)
            whole = bytes(made.content)
            await made.write((at, whole[at : at + BLOCK_BYTES]) for at in range(0, len(whole), BLOCK_BYTES))
            yield made
        nursery.cancel_scope.cancel()


def pages(count: int) -> Iterator[tuple[int, bytes]]:
    dice = random.Random(1)
    for page in dice.sample(range(BLOCKS * BLOCK_BYTES // PAGE_BYTES), count):
        yield page * PAGE_BYTES, dice.randbytes(16) * (PAGE_BYTES // 16)


async def test_pages_share_chunks_and_are_read_a_chunk_at_a_time(autojump_clock: Clock) -> None:
    async with scene() as made:
        before = made.chunks.stored
        await made.write(pages(1_500))
        few = -(-1_500 * PAGE_BYTES // CHUNK_MAX_BYTES)
        assert made.chunks.stored - before == few
        await trio.sleep(1)
        assert made.chunks.stored - before == few  # the ends of blocks are not merged for this
        assert made.slices() > 1_500
        made.chunks.asked.clear()
        await made.check()
        assert len(made.chunks.asked) <= 4 * (BLOCKS + few)


async def test_more_slices_than_a_block_takes_are_saved_all_the_same(autojump_clock: Clock) -> None:
    async with scene() as made:
        await made.write((2 * number, b"%d" % (number % 10)) for number in range(2 * SLICES_MAX))
        await made.check()
        assert made.slices() <= SLICES_MAX + BLOCKS


async def test_a_block_is_compacted_when_it_was_left_alone(autojump_clock: Clock) -> None:
    async with scene() as made:
        await made.write(pages(SLICES_COMPACT * BLOCKS * 2))
        cut = made.slices()
        await trio.sleep(COMPACT_QUIET_S / 2)
        await made.write(iter([(0, b"x" * PAGE_BYTES)]))  # which puts off its block only
        before = made.chunks.stored
        await trio.sleep(COMPACT_QUIET_S / 2 + 5)
        assert made.chunks.stored == before + BLOCKS - 1
        assert made.slices() < cut
        await trio.sleep(COMPACT_QUIET_S)
        assert made.chunks.stored == before + BLOCKS
        assert made.slices() == BLOCKS
        await made.check()


async def test_a_file_that_grows_by_small_appends_has_few_slices_all_the_time(autojump_clock: Clock) -> None:
    async with scene() as made:
        file = await made.kernel.open("/file", os.O_RDWR)
        most, before = 0, made.chunks.stored
        for number in range(600):
            line = b"%09d\n" % number
            await made.kernel.fs.write(file.handle, len(made.content), line)
            made.content += line
            await file.fsync()
            most = max(most, made.slices() - BLOCKS)
        await file.close()
        assert most < 2 * SLICES_COMPACT
        assert made.chunks.stored - before < 600 + 600 // 20
        await made.check()


@pytest.mark.parametrize(
    ("lengths", "count"),
    [
        ([100] * 31, 0),
        ([100] * 64, 64),
        ([6_400] + [100] * 64, 65),
        ([6_400] + [100] * 32, 33),
        ([6_401] + [100] * 32, 32),
        ([25_000, 12_000, 6_400] + [100] * 32, 35),
        ([4_000_000] + [100] * 32, 32),
        ([9_000] * 32, 0),
        ([200_000, 100_000] + [2_000] * 32, 33),
    ],
)
def test_what_is_merged_is_small_and_not_much_larger_than_what_is_behind_it(
    lengths: list[int], count: int
) -> None:
    assert mergeable(lengths) == count


async def test_a_file_that_is_gone_is_not_compacted(autojump_clock: Clock) -> None:
    async with scene() as made:
        await made.write(pages(SLICES_COMPACT * BLOCKS * 2))
        await made.kernel.unlink("/file")
        stored = made.chunks.stored
        await trio.sleep(2 * COMPACT_QUIET_S)
        assert made.chunks.stored == stored
        assert made.rig.faults() == []


async def test_writes_without_python_are_seen_by_other_mounts(autojump_clock: Clock) -> None:
    async with scene() as made, made.rig.mount() as other:
        book = made.book()
        book.answered.clear()
        file = await made.kernel.open("/file", os.O_RDWR)
        for turn in range(5):
            for offset, data in pages(20):
                await made.kernel.fs.write(file.handle, offset, bytes([turn]) * len(data))
                made.content[offset : offset + len(data)] = bytes([turn]) * len(data)
            if turn == 0:
                assert book.answered["write"] == 19  # all but the first
            assert await other.read("/file") == made.content
            assert not book.writers
        await file.close()
        assert book.answered["write"] == 5 * 19
        await made.check()


async def test_writes_without_python_wait_when_memory_is_short(autojump_clock: Clock) -> None:
    async with scene() as made:
        book = made.book()
        book.answered.clear()
        made.kernel.fs.state.policy.dirty_max_bytes = 10 * PAGE_BYTES
        await made.write(pages(200))
        assert 100 < book.answered["write"] < 199
        assert not book.writers
        await made.check()


async def test_an_error_reaches_who_writes_without_python(
    autojump_clock: Clock, announced_warnings: list[str]
) -> None:
    announced_warnings.append("writing behind failed")
    async with scene() as made:
        file = await made.kernel.open("/file", os.O_RDWR)
        for offset, data in pages(3):
            await made.kernel.fs.write(file.handle, offset, data)
            made.content[offset : offset + len(data)] = data
        made.chunks.failure = CairnError(common_pb2.ERROR_CODE_NO_SPACE)
        await trio.sleep(3)
        with pytest.raises(CairnError):
            await made.kernel.fs.write(file.handle, 0, b"too late")
        made.chunks.failure = None
        await file.fsync()
        await file.close()
        await made.check()
