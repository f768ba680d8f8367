"""Directories whose WRITE lease goes to and fro between sessions, and how long each may keep it."""

from dataclasses import dataclass

from cairnfs.base.limits import CONTENDED_DIRECTORIES_MAX, UPGRADE_PAUSE_MAX_S, UPGRADE_PAUSE_MIN_S


@dataclass(slots=True)
class _Contention:
    """A directory whose WRITE lease was given for the asking; `lost_s` is when it was last recalled."""

    pause_s: float = 0.0
    lost_s: float = 0.0


class Contentions:
    """How long others may keep a directory before it changes hands again; the oldest are forgotten."""

    def __init__(self) -> None:
        self._directories: dict[int, _Contention] = {}

    def __len__(self) -> int:
        return len(self._directories)

    def watch(self, directory: int) -> None:
        """Its WRITE lease was given: a loss of it counts from now on."""
        found = self._directories.pop(directory, None) or _Contention()
        self._directories[directory] = found
        if len(self._directories) > CONTENDED_DIRECTORIES_MAX:
            del self._directories[next(iter(self._directories))]

    def lost(self, directory: int, now_s: float) -> None:
        """Its WRITE lease is being recalled."""
        found = self._directories.get(directory)
        if found is None:
            return
        calm = now_s - found.lost_s > 2 * UPGRADE_PAUSE_MAX_S
        doubled_s = UPGRADE_PAUSE_MIN_S if calm else 2 * found.pause_s
        found.pause_s = min(max(doubled_s, UPGRADE_PAUSE_MIN_S), UPGRADE_PAUSE_MAX_S)
        found.lost_s = now_s

    def may_change_hands(self, directory: int, now_s: float) -> bool:
        """Whether those who have it may be asked to give it up."""
        found = self._directories.get(directory)
        return found is None or now_s - found.lost_s >= found.pause_s
