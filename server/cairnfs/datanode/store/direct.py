"""Writes past the page cache: no copy, and no memory taken for what nobody is expected to read soon."""

import errno
import mmap
import os
import threading
from pathlib import Path
from typing import Final

from cairnfs.base import limits
from cairnfs.datanode.store.interface import Buffer

ALIGNMENT: Final = 4096  # of memory, positions and sizes; every disk takes it


class _Bounce(threading.local):
    """Aligned memory of this thread, for data that is not."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, limits.FRAME_MAX_BYTES)


_bounce = _Bounce()


class DirectWriter:
    """A second descriptor of a file being written. What it does not take goes through the first one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> "DirectWriter | None":
        """None when the file system does not offer this. Raises OSError for other reasons."""
        try:
            return cls(os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
                return None
            raise

    def write(self, data: Buffer, position: int) -> int:
        """Write as much from the beginning of `data` as alignment allows; how many bytes. Raises OSError."""
        size = len(data) // ALIGNMENT * ALIGNMENT
        if position % ALIGNMENT:
            return 0
        view = memoryview(data)[:size]
        written = 0
        while written < size:
            part = view[written : written + limits.FRAME_MAX_BYTES]
            done = self._pwrite(part, position + written)
            if done <= 0:
                break
            written += done
        return written

    def _pwrite(self, part: memoryview, position: int) -> int:
        """Bytes written; 0 when it cannot go this way."""
        try:
            return os.pwrite(self._descriptor, part, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        # The kernel does not say why: most likely this memory is not aligned.
        aligned = memoryview(_bounce.memory)[: len(part)]
        aligned[:] = part
        try:
            return os.pwrite(self._descriptor, aligned, position)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return 0

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._descriptor)
