"""The clock as a seam: monotonic seconds for deadlines, wall nanoseconds for file times."""

import time
from dataclasses import dataclass
from typing import Protocol


class Clock(Protocol):
    """What cores and services ask the time of; tests drive a `ManualClock`."""

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, as file times use them."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall_ns(self) -> int:
        """Nanoseconds of CLOCK_REALTIME."""
        return time.time_ns()


@dataclass(slots=True)
class ManualClock:
    """A clock that only `advance` moves."""

    now_s: float = 1_000.0
    epoch_ns: int = 1_700_000_000_000_000_000

    def monotonic(self) -> float:
        """The seconds set so far."""
        return self.now_s

    def wall_ns(self) -> int:
        """The epoch plus what was advanced."""
        return self.epoch_ns + int((self.now_s - 1_000.0) * 1e9)

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds` (not negative)."""
        if seconds < 0:
            raise ValueError("time does not go backwards")
        self.now_s += seconds
