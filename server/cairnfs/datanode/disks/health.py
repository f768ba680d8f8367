"""How one disk fares: a state machine without I/O, fed with errors and probes.

One failed request says little: a sector may be bad, and only its chunk is lost. So an error leads to a probe
(a small file written and synced), and that decides. Many errors within a minute decide as well.
"""

import errno
from collections import deque
from statistics import median
from typing import Final

from cairnfs.base import limits
from cairnfs.rpc.v1 import nodes_pb2

GOOD: Final = nodes_pb2.DISK_STATE_GOOD
READ_ONLY: Final = nodes_pb2.DISK_STATE_READ_ONLY
FAILED: Final = nodes_pb2.DISK_STATE_FAILED

_CANNOT_WRITE: Final = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_TIMES_KEPT: Final = 32


class DiskHealth:
    """GOOD; READ_ONLY: what it has can be read, and should leave; FAILED until the datanode starts again."""

    def __init__(self) -> None:
        self.state: nodes_pb2.DiskState.ValueType = GOOD
        self.detail = ""
        self._errors_s: deque[float] = deque(maxlen=limits.DISK_ERRORS_MAX)
        self._worn_out = False
        self._probed_s = -limits.DISK_PROBE_S
        self._times_s: deque[float] = deque(maxlen=_TIMES_KEPT)

    @property
    def readable(self) -> bool:
        """Whether its chunks are there."""
        return self.state != FAILED

    @property
    def writable(self) -> bool:
        """Whether it may take chunks, if it has room."""
        return self.state == GOOD

    @property
    def store_s(self) -> float:
        """Median of what was `stored` lately, seconds; 0 when nothing was."""
        return median(self._times_s) if self._times_s else 0.0

    def stored(self, seconds: float) -> None:
        """Something was made durable in so much time."""
        self._times_s.append(seconds)

    def fail(self, detail: str) -> None:
        """It is known to be unusable."""
        self.state, self.detail = FAILED, detail

    def error(self, now: float) -> bool:
        """A request failed with an input/output error; whether to probe now."""
        self._errors_s.append(now)
        if len(self._errors_s) == limits.DISK_ERRORS_MAX and now - self._errors_s[0] < limits.DISK_ERRORS_S:
            self._worn_out = True
            if self.state == GOOD:
                count, span_s = limits.DISK_ERRORS_MAX, limits.DISK_ERRORS_S
                self.state, self.detail = READ_ONLY, f"{count} input/output errors within {span_s:.0f} s"
        return self.readable and now - self._probed_s >= limits.DISK_PROBE_PAUSE_S

    def is_probe_due(self, now: float) -> bool:
        """Whether it is time for a probe of its own accord."""
        return self.readable and now - self._probed_s >= limits.DISK_PROBE_S

    def probed(self, problem: OSError | None, now: float) -> None:
        """A probe ended."""
        self._probed_s = now
        if not self.readable:
            return
        if problem is None or problem.errno in _FULL:
            if self.state == READ_ONLY and not self._worn_out:
                self.state, self.detail = GOOD, ""
        elif problem.errno in _CANNOT_WRITE:
            self.state, self.detail = READ_ONLY, problem.strerror or str(problem)
        else:
            self.fail(problem.strerror or str(problem))
