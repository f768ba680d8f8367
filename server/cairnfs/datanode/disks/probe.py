"""Finds out whether a data directory can still be written and read."""

import errno
import os
from pathlib import Path
from typing import Final

_FILE: Final = "probe"
_CONTENT: Final = b"can this disk be written?" * 160


def device_of(root: Path) -> int:
    """The device that a directory lies on. Raises OSError."""
    return root.stat().st_dev


def probe(root: Path, device: int) -> OSError | None:
    """Write, sync and read a small file in `root`, which must still be on `device`; what went wrong."""
    try:
        if device_of(root) != device:
            return OSError(errno.ENODEV, "it is no longer mounted")
        fd = os.open(root / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, _CONTENT, 0)
            os.fsync(fd)
            if os.pread(fd, len(_CONTENT), 0) != _CONTENT:
                return OSError(errno.EIO, "it returns other bytes than were written")
        finally:
            os.close(fd)
    except OSError as error:
        return error
    return None
