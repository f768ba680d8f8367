"""Runs the blocking work of a chunk store in a few threads, and gathers small chunks into batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.interface import ChunkStore, SmallChunk
from cairnfs.rpc.v1 import common_pb2

T = TypeVar("T")
Done = Callable[[Exception | None], None]


class Disk:
    """A chunk store as the event loop uses it. While one batch syncs, the next one gathers."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(limits.DATANODE_THREADS, "disk")
        self._waiting: deque[tuple[SmallChunk, Done]] = deque()
        self._storing = False
        self._closed = False

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of `work(*arguments)`, run in a thread; CairnError UNAVAILABLE once it was closed."""
        if self._closed:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "the datanode is ending")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def store_small(self, chunk: SmallChunk, done: Done) -> None:
        """Store a chunk with the next batch; `done` gets None, or why it failed, on the event loop."""
        self._waiting.append((chunk, done))
        if not self._storing:
            self._store_next()

    def _store_next(self) -> None:
        batch: list[tuple[SmallChunk, Done]] = []
        size = 0
        while self._waiting and size < limits.STORE_BATCH_MAX_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][0].data)
        self._storing = bool(batch)
        if batch:
            chunks = [chunk for chunk, _ in batch]
            future = asyncio.get_running_loop().run_in_executor(self._pool, self.store.store_batch, chunks)
            future.add_done_callback(lambda done: self._stored(batch, done))

    def _stored(
        self, batch: Sequence[tuple[SmallChunk, Done]], future: "asyncio.Future[list[Exception | None]]"
    ) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        if error is None:
            outcomes = future.result()
        else:
            problem = error if isinstance(error, Exception) else RuntimeError("the datanode is stopping")
            outcomes = [problem] * len(batch)
        self._store_next()
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            done(outcome)

    def close(self) -> None:
        """Wait for what runs, and stop the threads."""
        self._closed = True
        self._pool.shutdown(wait=True)
