"""Bounds a rate: a token bucket without I/O or clock."""

from typing import Final

BURST_S: Final = 1.0  # of the rate may be used at once after a pause


class TokenBucket:
    """Lets through `rate` units per second (0: any number) on average, and a burst of BURST_S beyond it.

    What is taken may exceed what is there: the debt is waited off before anything else is let through. So a
    piece of any size passes, and over any time t no more than rate * (t + BURST_S) and one piece.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._tokens = rate * BURST_S
        self._filled_s = now

    def is_open(self, now: float) -> bool:
        """Whether something may be taken now."""
        self._fill(now)
        return self.rate == 0 or self._tokens > 0

    def take(self, units: int, now: float) -> None:
        """Something passes."""
        self._fill(now)
        self._tokens -= units

    def delay_s(self, now: float) -> float:
        """Seconds until something may be taken."""
        return 0.0 if self.is_open(now) else (1 - self._tokens) / self.rate

    def _fill(self, now: float) -> None:
        earned = max(0.0, now - self._filled_s) * self.rate
        self._filled_s = max(now, self._filled_s)
        self._tokens = min(self._tokens + earned, self.rate * BURST_S)
