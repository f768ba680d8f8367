"""The reader: what reaches the datanodes for forward, backward, strided, random and concurrent readers."""

import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, KIB, MIB
from cairnfs.rpc.v1 import common_pb2 as common
from cairnfs.vfs.state import MountPolicy
from tests.doubles.rig import ROOT, MemoryChunks, Rig, SimKernel

Clock = trio.testing.MockClock
BLOCKS = 12
CONTENT = b"".join(random.Random(number).randbytes(64 * KIB) * 64 for number in range(BLOCKS))


class SlowChunks(MemoryChunks):
    """Chunks that take a while, and remember what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[bytes, int, int]] = []
        self.failing = False

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        self.asked.append((chunk_id, offset, length))
        await trio.sleep(0.05)
        if self.failing:
            raise CairnError(common.ERROR_CODE_UNAVAILABLE)
        return await super().retrieve(chunk_id, chunk_length, nodes, offset, length)

    @property
    def bytes_asked(self) -> int:
        return sum(length for _, _, length in self.asked)


class Opened:
    """A large file, open on a mount that has nothing in memory."""

    def __init__(self, kernel: SimKernel, handle: int, chunks: SlowChunks) -> None:
        self.kernel = kernel
        self.handle = handle
        self.chunks = chunks

    async def read(self, offset: int, size: int) -> None:
        """Read past the kernel's pages; the content must be right."""
        data = await self.kernel.fs.read(self.handle, offset, size)
        assert data == CONTENT[offset : offset + size]


@asynccontextmanager
async def opened(policy: MountPolicy | None = None) -> AsyncIterator[Opened]:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        rig.chunks = chunks = SlowChunks()
        async with rig.mount() as maker:
            file = await maker.open("/large", os.O_CREAT | os.O_RDWR)
            for offset in range(0, len(CONTENT), BLOCK_BYTES):
                await maker.fs.write(file.handle, offset, CONTENT[offset : offset + BLOCK_BYTES])
            await file.close()
        async with rig.mount(policy) as kernel:
            handle = (await kernel.fs.open(await kernel.resolve("/large"), os.O_RDONLY, ROOT)).handle
            yield Opened(kernel, handle, chunks)
        nursery.cancel_scope.cancel()


async def test_a_forward_reader_waits_for_few_chunks_and_fetches_each_once(
    autojump_clock: Clock,
) -> None:
    async with opened() as file:
        began = trio.current_time()
        for offset in range(0, len(CONTENT), 512 * KIB):
            await file.read(offset, 512 * KIB)
        whole = [asked for asked in file.chunks.asked if asked[2] == BLOCK_BYTES]
        assert len(whole) == len(set(whole)) == BLOCKS
        assert file.chunks.bytes_asked <= len(CONTENT) + 512 * KIB
        assert trio.current_time() - began < 0.05 * BLOCKS


async def test_a_backward_reader_fetches_each_chunk_once(autojump_clock: Clock) -> None:
    async with opened() as file:
        for offset in range(len(CONTENT) - 512 * KIB, -1, -512 * KIB):
            await file.read(offset, 512 * KIB)
        assert file.chunks.bytes_asked <= len(CONTENT) + 512 * KIB


async def test_strides_fetch_their_pieces_and_nothing_else(autojump_clock: Clock) -> None:
    async with opened() as file:
        began = trio.current_time()
        for offset in range(0, len(CONTENT), 2 * MIB):
            await file.read(offset, 16 * KIB)
        assert file.chunks.bytes_asked <= (2 * BLOCKS + 2) * 16 * KIB
        assert trio.current_time() - began < 0.05 * BLOCKS


async def test_random_reads_fetch_what_they_ask_for(autojump_clock: Clock) -> None:
    chooser = random.Random(1)
    async with opened(MountPolicy(read_cache_max_bytes=16 * MIB)) as file:
        for _ in range(100):
            await file.read(chooser.randrange(len(CONTENT) // 4096) * 4096, 4096)
        assert file.chunks.bytes_asked == 100 * 4096


async def test_random_reads_of_a_file_that_fits_end_with_all_of_it(
    autojump_clock: Clock,
) -> None:
    chooser = random.Random(1)
    async with opened() as file:
        for _ in range(300):
            await file.read(chooser.randrange(len(CONTENT) // 4096) * 4096, 4096)
        asked = len(file.chunks.asked)
        for _ in range(300):
            await file.read(chooser.randrange(len(CONTENT) // 4096) * 4096, 4096)
        assert len(file.chunks.asked) == asked


async def test_the_first_bytes_alone_bring_no_chunk(autojump_clock: Clock) -> None:
    async with opened() as file:
        await file.read(0, 4096)
        await trio.sleep(1)
        assert file.chunks.bytes_asked == 4096


async def test_readers_of_one_chunk_share_its_fetch(autojump_clock: Clock) -> None:
    async with opened() as file:
        await file.read(0, 64 * KIB)
        async with trio.open_nursery() as readers:
            for offset in range(64 * KIB, MIB, 64 * KIB):
                readers.start_soon(file.read, offset, 64 * KIB)
        whole = [asked for asked in file.chunks.asked if asked[2] == BLOCK_BYTES]
        assert len(whole) == len(set(whole))


async def test_a_failure_ahead_does_not_fail_a_reader(autojump_clock: Clock) -> None:
    async with opened() as file:
        for offset in range(0, 3 * MIB, 512 * KIB):
            await file.read(offset, 512 * KIB)
        file.chunks.failing = True
        for offset in range(3 * MIB, 4 * MIB, 512 * KIB):
            await file.read(offset, 512 * KIB)
        await trio.sleep(1)
        file.chunks.failing = False
        for offset in range(4 * MIB, len(CONTENT), 512 * KIB):
            await file.read(offset, 512 * KIB)


async def test_without_memory_reads_are_exact(autojump_clock: Clock) -> None:
    async with opened(MountPolicy(read_cache_max_bytes=0)) as file:
        for offset in range(0, 8 * MIB, 512 * KIB):
            await file.read(offset, 512 * KIB)
        assert file.chunks.bytes_asked == 8 * MIB


async def test_reading_ahead_asks_for_no_lease_that_was_recalled(
    autojump_clock: Clock,
) -> None:
    async with opened() as file:
        for offset in range(0, 3 * MIB, 512 * KIB):
            await file.read(offset, 512 * KIB)
        inode = file.kernel.fs.state.file(file.handle).inode
        inode.drop_lease()
        assert await file.kernel.fs.reader._extents_ahead(inode, 8 * MIB, 12 * MIB) == []
