"""The model's advisory locks: BSD locks by open file, record locks by mount and byte."""

from collections.abc import Hashable
from dataclasses import dataclass, field

Owner = tuple[int, int]  # actor and slot


@dataclass(slots=True)
class LockBook:
    """Kinds are r (shared), w (exclusive) and u (unlock). Nobody waits."""

    whole: dict[tuple[int, Owner], str] = field(default_factory=dict[tuple[int, Owner], str])
    records: dict[tuple[int, int, int], str] = field(default_factory=dict[tuple[int, int, int], str])

    def copy(self) -> "LockBook":
        """An independent copy."""
        return LockBook(dict(self.whole), dict(self.records))

    def key(self) -> Hashable:
        """Equal for equal states."""
        return (tuple(sorted(self.whole.items())), tuple(sorted(self.records.items())))

    def flock(self, node: int, owner: Owner, kind: str) -> bool:
        """Whether flock(2) succeeds. As in Linux a conversion gives up the old lock before it fails."""
        self.whole.pop((node, owner), None)
        if kind == "u":
            return True
        for (locked, _), held in self.whole.items():
            if locked == node and "w" in (kind, held):
                return False
        self.whole[node, owner] = kind
        return True

    def record(self, node: int, mount: int, kind: str, start: int, end: int) -> bool:
        """Whether fcntl(2) locks the bytes; one process on each mount owns all its record locks."""
        wanted = range(start, end)
        if kind == "u":
            for byte in wanted:
                self.records.pop((node, mount, byte), None)
            return True
        for (locked, owner, byte), held in self.records.items():
            if locked == node and owner != mount and byte in wanted and "w" in (kind, held):
                return False
        for byte in wanted:
            self.records[node, mount, byte] = kind
        return True

    def closed(self, node: int, mount: int, owner: Owner) -> None:
        """close(2) of one descriptor: its BSD lock goes, and all record locks of the process."""
        self.whole.pop((node, owner), None)
        for key in [key for key in self.records if key[:2] == (node, mount)]:
            del self.records[key]
