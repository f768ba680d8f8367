"""Many small writes at random places: few chunks, few requests, and blocks compacted when it is worth it."""

import os
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing

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


async def test_a_file_that_is_gone_is_not_compacted(autojump_clock: Clock) -> None:
    async with scene() as made:
        await made.write(pages(SLICES_COMPACT * BLOCKS * 2))
        await made.kernel.unlink("/file")
        stored = made.chunks.stored
        await trio.sleep(2 * COMPACT_QUIET_S)
        assert made.chunks.stored == stored
        assert made.rig.faults() == []
