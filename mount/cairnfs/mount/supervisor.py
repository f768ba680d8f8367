"""Keeps one mount alive: runs its process, and when that dies, takes the dead mount away and mounts again."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cairnfs.base.limits import REMOUNT_DELAY_MAX_S, REMOUNT_DELAY_MIN_S, REMOUNT_STABLE_S
from cairnfs.base.logs import get_logger
from cairnfs.fuse import mounts
from cairnfs.mount.errors import EXIT_INTERNAL

_log = get_logger(__name__)

Serve = Callable[[int], int]
"""Serves the mount in this process until it ends; writes a line to the descriptor when the mount answers."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """How one process ended: exit status (negative: killed by that signal), whether it was ever ready."""

    status: int
    was_ready: bool
    lived_s: float


class Supervisor:
    """Runs `serve` in child processes, one after another. The parent must have a single thread."""

    def __init__(self, mountpoint: Path, serve: Serve, on_ready: Callable[[], None]) -> None:
        self._mountpoint = mountpoint
        self._serve = serve
        self._on_ready = on_ready
        self._stopping = False
        self._child = 0
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> int:
        """Until a clean unmount or SIGTERM: 0, or the status of the first child that was never ready.

        A child that fails later is replaced after REMOUNT_DELAY_MIN_S, doubling up to REMOUNT_DELAY_MAX_S.
        """
        delay_s, mounted_once = REMOUNT_DELAY_MIN_S, False
        with self._signals():
            while True:
                ended = self._run_child()
                mounted_once |= ended.was_ready
                self._clean()
                if ended.status == 0 or self._asked_to_stop() or not mounted_once:
                    return ended.status if ended.status >= 0 else EXIT_INTERNAL
                if ended.lived_s >= REMOUNT_STABLE_S:
                    delay_s = REMOUNT_DELAY_MIN_S
                _log.warning("the mount died and is mounted again", status=ended.status, delay_s=delay_s)
                select.select([self._wake_read], [], [], delay_s)
                if self._asked_to_stop():
                    return 0
                delay_s = min(delay_s * 2, REMOUNT_DELAY_MAX_S)

    def _asked_to_stop(self) -> bool:
        return self._stopping

    def _run_child(self) -> _Ended:
        ready_read, ready_write = os.pipe()
        started = time.monotonic()
        self._child = os.fork()
        if self._child == 0:
            self._become_child(ready_read, ready_write)
        os.close(ready_write)
        with os.fdopen(ready_read, "rb") as ready:
            was_ready = ready.readline() != b""
        if was_ready:
            self._on_ready()
        _, status = os.waitpid(self._child, 0)
        self._child = 0
        return _Ended(os.waitstatus_to_exitcode(status), was_ready, time.monotonic() - started)

    def _become_child(self, ready_read: int, ready_write: int) -> None:
        code = EXIT_INTERNAL
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            for descriptor in (ready_read, self._wake_read, self._wake_write):
                os.close(descriptor)
            code = self._serve(ready_write)
        finally:
            os._exit(code)

    def _clean(self) -> None:
        entry = mounts.mount_at(self._mountpoint)
        if entry is not None and entry.is_fuse and _is_dead(self._mountpoint):
            mounts.lazy_unmount(entry)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT go to the child, which saves everything and unmounts."""

        def stop(_number: int, _frame: object) -> None:
            self._stopping = True
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"x")
            if self._child:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child, signal.SIGTERM)

        previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            os.close(self._wake_read)
            os.close(self._wake_write)


def _is_dead(path: Path) -> bool:
    """The kernel answers at once for a mount without a process, and its process has just ended."""
    try:
        os.statvfs(path)
    except OSError:
        return True
    return False
