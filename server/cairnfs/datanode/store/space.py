"""How much a local store may still take: the disk's free space, a reserve, and a capacity."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import boot_id
from cairnfs.datanode.store.interface import Usage
from cairnfs.rpc.v1 import common_pb2


class Space:
    """Admits writes. `capacity_bytes` 0: what the disk has. Thread-safe."""

    def __init__(self, root: Path, capacity_bytes: int, reserve_bytes: int) -> None:
        self._root = root
        self._capacity_bytes = capacity_bytes
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._pending_bytes = 0

    def available(self, used_bytes: int) -> int:
        """Bytes that may be added now."""
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize - self._reserve_bytes
        if self._capacity_bytes:
            free = min(free, self._capacity_bytes - used_bytes)
        return max(0, free - self._pending_bytes)

    def take(self, size_bytes: int, used_bytes: int) -> None:
        """Set space aside for a write. Raises CairnError NO_SPACE."""
        with self._lock:
            available = self.available(used_bytes)
            if size_bytes > available:
                detail = f"{size_bytes} bytes wanted, {available} available"
                raise CairnError(common_pb2.ERROR_CODE_NO_SPACE, detail)
            self._pending_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """The write ended, well or not."""
        with self._lock:
            self._pending_bytes -= size_bytes

    @contextmanager
    def taken(self, size_bytes: int, used_bytes: int) -> Iterator[None]:
        """Set space aside for the body."""
        self.take(size_bytes, used_bytes)
        try:
            yield
        finally:
            self.give_back(size_bytes)

    def usage(self, used_bytes: int, chunks: int) -> Usage:
        """For the coordinator."""
        disk = os.statvfs(self._root)
        capacity = self._capacity_bytes or max(0, disk.f_blocks * disk.f_frsize - self._reserve_bytes)
        available = self.available(used_bytes)
        full = available < limits.CHUNK_MAX_BYTES
        filesystem = f"{boot_id()}/{self._root.stat().st_dev}"
        return Usage(capacity, used_bytes, available, chunks, full, filesystem)
