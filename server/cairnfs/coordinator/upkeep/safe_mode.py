"""Safe mode: after a start nothing is repaired or freed until enough datanodes have reported their chunks."""

from collections.abc import Callable

from cairnfs.base import limits
from cairnfs.coordinator.membership.manager import NodeManager


class SafeMode:
    """Ends when every node known at the start has reported, or, after the time to die, enough have."""

    def __init__(
        self, manager: NodeManager, has_reported: Callable[[int], bool], dead_s: float, now: float
    ) -> None:
        """`has_reported` says whether a node sent a complete chunk report since the start."""
        self._manager = manager
        self._has_reported = has_reported
        self._patience_end_s = now + dead_s
        self._awaited = [node.number for node in manager]
        self.active = bool(self._awaited)

    def tick(self, now: float) -> bool:
        """Look again; True in the one call that ends safe mode."""
        if not self.active:
            return False
        known = [number for number in self._awaited if self._manager.get(number) is not None]
        reported = sum(1 for number in known if self._has_reported(number))
        patient = now < self._patience_end_s
        needed = len(known) if patient else limits.SAFE_MODE_SHARE * len(known)
        self.active = reported < needed
        return not self.active
