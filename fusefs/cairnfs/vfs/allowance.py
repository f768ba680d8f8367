"""How much may be fetched unasked: a little at first, then in proportion to its use (no I/O)."""

from dataclasses import dataclass


@dataclass(slots=True)
class Allowance:
    """Counts one kind of thing fetched ahead, in units of the caller's (entries, bytes, directories).

    What has been fetched in vain is never more than `first`, plus `per_ask` for each unit that was asked for
    and had not been fetched, plus `per_use` for each that was fetched and used; nor more than `unused_max`.
    """

    first: int
    per_ask: int
    per_use: int
    unused_max: int
    asked: int = 0
    fetched: int = 0
    used: int = 0

    @property
    def left(self) -> int:
        """How much may be fetched now."""
        unused = self.fetched - self.used
        earned = self.first + self.per_ask * self.asked + self.per_use * self.used
        return max(0, min(earned, self.unused_max) - unused)

    def reset(self) -> None:
        """Forget the past: another time of reading begins."""
        self.asked = self.fetched = self.used = 0
