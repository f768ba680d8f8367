"""Runs the blocking work of a chunk store in a few threads, and gathers small chunks into batches.

Batches have a thread of their own, which is woken once for each and wakes the event loop once when it is
done: less than a thread pool and its futures cost, which counts for a chunk of a few bytes.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.interface import ChunkStore, SmallChunk
from cairnfs.rpc.v1 import common_pb2

T = TypeVar("T")
Done = Callable[[Exception | None], None]
Batch = Sequence[tuple[SmallChunk, Done]]


class Disk:
    """A chunk store as the event loop uses it. While one batch syncs, the next one gathers."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self._pool = ThreadPoolExecutor(limits.DATANODE_THREADS, "disk")
        self._waiting: deque[tuple[SmallChunk, Done]] = deque()
        self._storing = False
        self._closed = False
        self._batches: SimpleQueue[tuple[asyncio.AbstractEventLoop, Batch] | None] = SimpleQueue()
        # A daemon, so that a process which fails before close() still ends; nothing stored half is ever seen.
        self._storer = threading.Thread(target=self._store_batches, name="disk-small", daemon=True)
        self._storer.start()

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """The result of `work(*arguments)`, run in a thread; CairnError UNAVAILABLE once it was closed."""
        if self._closed:
            raise _ending()
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def store_small(self, chunk: SmallChunk, done: Done) -> None:
        """Store a chunk with the next batch; `done` gets None, or why it failed, on the event loop."""
        if self._closed:
            asyncio.get_running_loop().call_soon(done, _ending())
            return
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
            self._batches.put((asyncio.get_running_loop(), batch))

    def _store_batches(self) -> None:
        while (order := self._batches.get()) is not None:
            loop, batch = order
            try:
                outcomes = self.store.store_batch([chunk for chunk, _ in batch])
            except Exception as error:  # noqa: BLE001 - a sender must never wait for ever
                outcomes = [error] * len(batch)
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._stored, batch, outcomes)

    def _stored(self, batch: Batch, outcomes: Sequence[Exception | None]) -> None:
        if not self._closed:
            self._store_next()
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            done(outcome)
        while self._closed and self._waiting:
            self._waiting.popleft()[1](_ending())

    def close(self) -> None:
        """Wait for what runs, and stop the threads; what has not begun is not stored."""
        self._closed = True
        self._batches.put(None)
        self._storer.join()
        self._pool.shutdown(wait=True)


def _ending() -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "the datanode is ending")
