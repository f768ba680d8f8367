"""Measures a rate over the last seconds, for people."""

from collections import deque
from typing import Final

SPAN_S: Final = 10.0


class RateMeter:
    """Counts units; `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def add(self, units: int, now: float) -> None:
        """So many units were done; those of one second are counted together."""
        if self._counts and now - self._counts[-1][0] < 1.0:
            at, before = self._counts.pop()
            self._counts.append((at, before + units))
        else:
            self._counts.append((now, units))
        self._forget(now)

    def per_s(self, now: float) -> int:
        """Units per second over the last SPAN_S seconds."""
        self._forget(now)
        return int(sum(units for _, units in self._counts) / SPAN_S)

    def _forget(self, now: float) -> None:
        while self._counts and self._counts[0][0] <= now - SPAN_S:
            self._counts.popleft()
