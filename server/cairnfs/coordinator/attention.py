"""The clock of a coordinator: time in which it could not have heard anybody is no silence of theirs.

A process that was stopped, or whose machine was suspended, finds its timers due before it reads what has
arrived meanwhile. By a common clock all sessions and datanodes had then been silent for too long, and would
lose what they hold. Counting less time than passes is safe: clients give up by a clock of their own.
"""

from typing import Final

from cairnfs.base.clock import Clock
from cairnfs.base.limits import ATTENTION_GAP_S


class AttentiveClock:
    """Another clock, of which every gap between two looks counts for ATTENTION_GAP_S at most.

    Whoever runs looks far more often. File times are not affected.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock: Final = clock
        self._looked_s = self._now_s = clock.monotonic()

    def monotonic(self) -> float:
        """Seconds of attention; never more than have passed."""
        looked_s = self._clock.monotonic()
        self._now_s += min(looked_s - self._looked_s, ATTENTION_GAP_S)
        self._looked_s = looked_s
        return self._now_s

    def wall_ns(self) -> int:
        """The other clock's."""
        return self._clock.wall_ns()
