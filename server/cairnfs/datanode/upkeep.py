"""Background care for the stored chunks: a scrubber that re-reads them all, and compaction."""

import asyncio
from collections.abc import Callable

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.disks.array import DiskArray
from cairnfs.datanode.tasks import TaskRunner

_log = get_logger(__name__)


async def scrub(
    disk: Disk, tasks: TaskRunner, bytes_per_s: int, found_corrupt: Callable[[bytes], None]
) -> None:
    """Check every chunk again and again at this rate; 0: never."""
    while bytes_per_s > 0:
        after = b""
        while entries := await disk.run(disk.store.list_chunks, after, limits.VERIFY_CHUNKS_MAX):
            for entry in entries:
                await asyncio.sleep(entry.length / bytes_per_s)
                if not await tasks.intact(entry.chunk_id):
                    found_corrupt(entry.chunk_id)
            after = entries[-1].chunk_id
        await asyncio.sleep(limits.SCRUB_PAUSE_S)


async def watch_disks(disk: Disk, disks: DiskArray) -> None:
    """Look from time to time whether every disk can still be written."""
    while True:
        await disk.run(disks.probe_disks)
        await asyncio.sleep(limits.DISK_PROBE_S)


async def maintain(disk: Disk) -> None:
    """Give back the space of deleted chunks from time to time."""
    while True:
        await asyncio.sleep(limits.MAINTAIN_S)
        try:
            await disk.run(disk.store.maintain)
        except CairnError as error:
            _log.warning("could not compact packs", detail=str(error))
