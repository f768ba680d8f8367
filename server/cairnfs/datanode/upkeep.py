"""Background care for the disks: whether they can be written, and compaction."""

import asyncio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.disks.array import DiskArray

_log = get_logger(__name__)


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
