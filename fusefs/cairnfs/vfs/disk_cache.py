"""The optional read cache on a disk of this host: worker threads, bounded queues, and going on without it."""

from typing import Final

import trio

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.client.waiting import Bell
from cairnfs.vfs.chunk_files import ChunkFiles

log = get_logger(__name__)

THREADS: Final = 4
BATCH_BYTES: Final = 8 * limits.MIB  # handed to the writing thread at once


class DiskCache:
    """Keeps fetched chunks and finds them again. A disk that fails or hangs is left alone for a while."""

    def __init__(self, files: ChunkFiles) -> None:
        self._files = files
        self._limiter = trio.CapacityLimiter(THREADS)
        self._waiting: dict[bytes, bytes] = {}  # not yet written
        self._waiting_bytes = 0
        self._bell = Bell()
        self._resting_until_s = float("-inf")

    async def get(self, chunk_id: bytes, chunk_length: int, offset: int, length: int) -> bytes | None:
        """`length` bytes (at least 1) at `offset` of a chunk, checked; None when the cache has none."""
        waiting = self._waiting.get(chunk_id)
        if waiting is not None:
            return waiting[offset : offset + length]
        if self._resting:
            return None
        with trio.move_on_after(limits.CACHE_DEADLINE_S):
            try:
                return await trio.to_thread.run_sync(
                    self._files.read,
                    chunk_id,
                    chunk_length,
                    offset,
                    length,
                    abandon_on_cancel=True,
                    limiter=self._limiter,
                )
            except OSError as error:
                self._rest(error)
                return None
        self._rest(TimeoutError("no answer"))
        return None

    def keep(self, chunk_id: bytes, data: bytes) -> None:
        """Have a whole chunk written soon, unless too many wait for that."""
        if self._resting or chunk_id in self._waiting:
            return
        if self._waiting_bytes + len(data) <= limits.CACHE_WAITING_MAX_BYTES:
            self._waiting[chunk_id] = data
            self._waiting_bytes += len(data)
            self._bell.ring()

    async def run(self) -> None:
        """Write what is to be kept, until cancelled."""
        while True:
            await self._bell.wait()
            while batch := self._take():
                try:
                    await trio.to_thread.run_sync(self._write, batch, abandon_on_cancel=True)
                except OSError as error:
                    self._rest(error)
                for chunk_id, data in batch:
                    del self._waiting[chunk_id]
                    self._waiting_bytes -= len(data)

    def _take(self) -> list[tuple[bytes, bytes]]:
        batch: list[tuple[bytes, bytes]] = []
        size_bytes = 0
        for item in self._waiting.items():
            batch.append(item)
            size_bytes += len(item[1])
            if size_bytes >= BATCH_BYTES:
                break
        return batch

    def _write(self, batch: list[tuple[bytes, bytes]]) -> None:
        for chunk_id, data in batch:
            self._files.write(chunk_id, data)

    @property
    def _resting(self) -> bool:
        return trio.current_time() < self._resting_until_s

    def _rest(self, error: OSError) -> None:
        if not self._resting:
            log.warning("the disk read cache is not used for a while", error=str(error))
        self._resting_until_s = trio.current_time() + limits.CACHE_REST_S
