"""A lock file that admits one process at a time, and names the one that is in."""

import contextlib
import fcntl
import os
from pathlib import Path

from cairnfs.engine.interface import EngineError, EngineLocked


class FileLock:
    """Holds an exclusive flock(2) on `path`, which is made when missing and never removed.

    The kernel gives it up when the process ends, however it ends. Raises EngineLocked when another process
    (or another FileLock of this one) holds it, EngineError when the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise EngineError(f"cannot open {path}: {error.strerror}") from error
        try:
            _lock(descriptor, path)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process in; idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise EngineLocked(f"{path} is held by another coordinator, process {holder}") from None
    except OSError as error:
        raise EngineError(f"cannot lock {path}: {error.strerror}") from error
    with contextlib.suppress(OSError):  # on a full disk the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
