"""Disk: small chunks gather into batches while one is stored; every sender hears what became of its own."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.store.interface import SmallChunk
from cairnfs.datanode.store.memory import MemoryChunkStore
from cairnfs.rpc.v1 import common_pb2


class HeldStore(MemoryChunkStore):
    """Stores a batch when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Semaphore(0)
        self.batches: list[list[bytes]] = []
        self.error: Exception | None = None

    def store_batch(self, chunks: Sequence[SmallChunk]) -> list[Exception | None]:
        self.go.acquire()
        self.batches.append([chunk.chunk_id for chunk in chunks])
        if self.error is not None:
            raise self.error
        return [None] * len(chunks)


def store(disk: Disk, name: bytes) -> "asyncio.Future[Exception | None]":
    outcome: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    disk.store_small(SmallChunk(name * 32, b"data", [1]), outcome.set_result)
    return outcome


def test_what_comes_while_a_batch_is_stored_is_the_next_batch() -> None:
    async def scenario() -> None:
        held = HeldStore()
        disk = Disk(held)
        outcomes = [store(disk, name) for name in (b"a", b"b", b"c")]
        held.go.release(2)
        assert await asyncio.gather(*outcomes) == [None] * 3
        assert held.batches == [[b"a" * 32], [b"b" * 32, b"c" * 32]]
        disk.close()

    asyncio.run(scenario())


def test_a_store_that_fails_is_reported_and_used_again() -> None:
    async def scenario() -> None:
        held = HeldStore()
        disk = Disk(held)
        held.go.release(2)
        held.error = RuntimeError("a bug")
        assert await store(disk, b"a") is held.error
        held.error = None
        assert await store(disk, b"b") is None
        disk.close()

    asyncio.run(scenario())


def test_a_closed_disk_finishes_its_batch_and_takes_no_more() -> None:
    async def scenario() -> None:
        held = HeldStore()
        disk = Disk(held)
        under_way, waiting = store(disk, b"a"), store(disk, b"b")
        held.go.release(1)
        disk.close()
        assert await under_way is None
        for outcome in (await waiting, await store(disk, b"c")):
            assert isinstance(outcome, CairnError)
            assert outcome.code == common_pb2.ERROR_CODE_UNAVAILABLE
        with pytest.raises(CairnError):
            await disk.run(len, b"")

    asyncio.run(scenario())
