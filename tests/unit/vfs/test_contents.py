"""Opening and reading files without Python: what is published for it, and that nothing is told too late."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from cairnfs.base.checksums import chunk_id
from cairnfs.base.limits import BLOCK_BYTES, MIB
from cairnfs.vfs.contents import PUBLISHED_MIN_BYTES
from tests.doubles.answering import AnsweringVFS, MemoryAnswers
from tests.doubles.rig import Rig, SimKernel

Clock = trio.testing.MockClock
SIZE_BYTES = BLOCK_BYTES + PUBLISHED_MIN_BYTES + 9000


def book(kernel: SimKernel) -> MemoryAnswers:
    assert isinstance(kernel.fs, AnsweringVFS)
    return kernel.fs.book


@pytest.fixture
def content() -> bytes:
    return b"".join(b"%015d\n" % number for number in range(SIZE_BYTES // 16)).ljust(SIZE_BYTES, b"!")


@asynccontextmanager
async def two_mounts(content: bytes) -> AsyncIterator[tuple[SimKernel, SimKernel, Rig]]:
    """One that made `/file`, and another."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as maker, rig.mount() as kernel:
            await maker.write("/file", 0, content)
            await kernel.stat("/file")
            yield maker, kernel, rig
        assert rig.faults() == []
        nursery.cancel_scope.cancel()


async def read_past_pages(kernel: SimKernel, content: bytes) -> None:
    kernel.pages.clear()
    assert await kernel.read("/file") == content


async def test_what_was_read_once_is_read_again_without_python(autojump_clock: Clock, content: bytes) -> None:
    async with two_mounts(content) as (_, kernel, _):
        await read_past_pages(kernel, content)
        before = book(kernel).answered["read"]
        await read_past_pages(kernel, content)
        pages = -(-SIZE_BYTES // 4096)
        assert book(kernel).answered["read"] == before + pages
        assert book(kernel).answered["open"] > 0


async def test_writes_here_and_elsewhere_end_it(autojump_clock: Clock, content: bytes) -> None:
    async with two_mounts(content) as (maker, kernel, _):
        await read_past_pages(kernel, content)
        for number, writer in enumerate((maker, kernel, maker)):
            new = b"%d" % number + content[1:]
            await writer.write("/file", 0, new[:1])
            for reader in (kernel, maker):
                await read_past_pages(reader, new)
                await read_past_pages(reader, new)
        file = await maker.open("/file", os.O_RDWR | os.O_TRUNC)
        await file.close()
        await read_past_pages(kernel, b"")


async def test_an_open_that_was_not_told_keeps_a_removed_file(autojump_clock: Clock, content: bytes) -> None:
    async with two_mounts(content) as (_, kernel, _):
        await read_past_pages(kernel, content)
        file = await kernel.open("/file")
        assert book(kernel).untold
        await kernel.unlink("/file")
        assert kernel.fs.state.inodes.get(file.ino).registered, "the coordinator keeps it for this mount"
        kernel.pages.clear()
        assert await file.read(0, SIZE_BYTES) == content
        await file.close()


async def test_small_files_beside_those_read_are_read_without_python(autojump_clock: Clock) -> None:
    files = {f"/d/f{number:03d}": b"%3d" % number * 50 for number in range(200)}
    async with two_mounts(b"?") as (maker, kernel, _):
        await maker.mkdir("/d")
        for path, data in files.items():
            await maker.write(path, 0, data)
        for path, data in files.items():
            assert await kernel.read(path) == data
        assert book(kernel).answered["open"] > len(files) // 2
        assert book(kernel).answered["read"] > len(files) // 2


async def test_what_is_read_ahead_is_published_not_fetched(autojump_clock: Clock) -> None:
    content = b"".join(bytes([number]) * BLOCK_BYTES for number in range(6))
    async with two_mounts(content) as (_, kernel, _):
        file = await kernel.open("/file")
        assert await kernel.fs.read(file.handle, 0, MIB) == content[:MIB]
        kernel.fs.was_read(file.handle, MIB, 3 * MIB)
        await trio.sleep(1)
        assert {0, BLOCK_BYTES, 2 * BLOCK_BYTES} <= book(kernel).contents[file.ino].keys()
        before = book(kernel).answered["read"]
        assert await kernel.fs.read(file.handle, BLOCK_BYTES, MIB) == content[BLOCK_BYTES : BLOCK_BYTES + MIB]
        assert book(kernel).answered["read"] == before + 1
        kernel.fs.was_read(file.handle, BLOCK_BYTES, 2 * BLOCK_BYTES)
        await trio.sleep(1)
        assert book(kernel).contents[file.ino].keys() == {number * BLOCK_BYTES for number in range(6)}
        assert kernel.fs.state.chunk_cache.get((chunk_id(content[-BLOCK_BYTES:]), 0, BLOCK_BYTES)) is None
        await file.close()
