"""The disks of a datanode in figures: each for itself, and all together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cairnfs.datanode.disks.health import FAILED, GOOD
from cairnfs.datanode.store.interface import Usage
from cairnfs.rpc.v1 import nodes_pb2

FULL: Final = nodes_pb2.DISK_STATE_FULL


@dataclass(frozen=True, slots=True)
class DiskReport:
    """One disk; `usage` is None when it was never opened."""

    disk: str
    path: str
    state: nodes_pb2.DiskState.ValueType
    detail: str
    usage: Usage | None

    def info(self) -> nodes_pb2.DiskInfo:
        """For the coordinator."""
        full = self.state == GOOD and self.usage is not None and self.usage.read_only
        use = disk_use(self.usage) if self.usage is not None and self.state != FAILED else None
        return nodes_pb2.DiskInfo(
            uuid=self.disk, path=self.path, state=FULL if full else self.state, detail=self.detail, use=use
        )


def disk_use(usage: Usage) -> nodes_pb2.DiskUse:
    """The message that says the same."""
    return nodes_pb2.DiskUse(
        capacity_bytes=usage.capacity_bytes,
        used_bytes=usage.used_bytes,
        available_bytes=usage.available_bytes,
        chunks=usage.chunks,
        read_only=usage.read_only,
        filesystem=usage.filesystem,
    )


def total_usage(reports: Sequence[DiskReport]) -> Usage:
    """All disks that can be read; free space is that of those which can be written.

    Directories on one file system share its free space: together they have what the one with the most has.
    """
    usages = [(one.usage, one.state) for one in reports if one.usage is not None and one.state != FAILED]
    capacity, available = dict[str, int](), dict[str, int]()
    for number, (usage, state) in enumerate(usages):
        filesystem = usage.filesystem or str(number)
        capacity[filesystem] = max(capacity.get(filesystem, 0), usage.capacity_bytes)
        free = usage.available_bytes if state == GOOD else 0
        available[filesystem] = max(available.get(filesystem, 0), free)
    return Usage(
        capacity_bytes=sum(capacity.values()),
        used_bytes=sum(usage.used_bytes for usage, _ in usages),
        available_bytes=sum(available.values()),
        chunks=sum(usage.chunks for usage, _ in usages),
        read_only=all(state != GOOD or usage.read_only for usage, state in usages),
        filesystem="+".join(sorted({usage.filesystem for usage, _ in usages})),
    )
