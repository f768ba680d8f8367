"""Re-reads every stored chunk again and again, at a set rate, and tells of those that are bad."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.base.token_bucket import TokenBucket
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.store.interface import ChunkStore, StoredEntry
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

_log = get_logger(__name__)

CHUNK_COST_MIN_BYTES: Final = 16 * limits.KIB  # a small chunk costs the disk a seek, and us some work


class Scrubber:
    """Checks checksums and SHA-256 of all that is on the disks; `figures` are since the start."""

    def __init__(
        self, disk: Disk, bytes_per_s: int, found_corrupt: Callable[[bytes], None], clock: Clock
    ) -> None:
        """`bytes_per_s` 0: never. `found_corrupt` is called for a bad chunk, in every pass."""
        self._disk = disk
        self._found_corrupt = found_corrupt
        self._clock = clock
        self._bucket = TokenBucket(bytes_per_s, clock.monotonic())
        self.figures = nodes_pb2.ScrubFigures(bytes_per_s=bytes_per_s)

    async def run(self) -> None:
        """Go on for ever, or return at once when it is switched off."""
        while self._bucket.rate:
            await self.scrub_once()
            self.figures.passes += 1
            await asyncio.sleep(limits.SCRUB_PAUSE_S)

    async def scrub_once(self) -> None:
        """Check everything that is there."""
        after = b""
        while entries := await self._disk.run(self._disk.store.list_chunks, after, limits.VERIFY_CHUNKS_MAX):
            for batch in _batches(entries):
                await self._check(batch)
            after = entries[-1].chunk_id

    async def _check(self, batch: Sequence[StoredEntry]) -> None:
        delay_s = self._bucket.delay_s(self._clock.monotonic())
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        self._bucket.take(sum(map(_cost, batch)), self._clock.monotonic())
        bad = await self._disk.run(_bad_ones, self._disk.store, [entry.chunk_id for entry in batch])
        self.figures.chunks += len(batch)
        self.figures.bytes += sum(entry.length for entry in batch)
        self.figures.bad_chunks += len(bad)
        for chunk_id in bad:
            self._found_corrupt(chunk_id)


def _cost(entry: StoredEntry) -> int:
    return max(entry.length, CHUNK_COST_MIN_BYTES)


def _batches(entries: Sequence[StoredEntry]) -> list[list[StoredEntry]]:
    """Small chunks together, so that each visit to a thread is worth it."""
    batches: list[list[StoredEntry]] = []
    size = limits.FRAME_MAX_BYTES
    for entry in entries:
        size += _cost(entry)
        if size > limits.FRAME_MAX_BYTES:
            batches.append([])
            size = _cost(entry)
        batches[-1].append(entry)
    return batches


def _bad_ones(store: ChunkStore, chunk_ids: Sequence[bytes]) -> list[bytes]:
    return [chunk_id for chunk_id in chunk_ids if not is_intact(store, chunk_id)]


def is_intact(store: ChunkStore, chunk_id: bytes) -> bool:
    """Read a chunk and check it; a chunk that was deleted meanwhile counts as intact. Blocks on a disk."""
    try:
        store.verify(chunk_id)
    except CairnError as error:
        if error.code == common_pb2.ERROR_CODE_NOT_FOUND and store.length(chunk_id) is None:
            return True
        _log.warning("bad chunk", chunk=chunk_id.hex(), detail=str(error))
        return False
    return True
