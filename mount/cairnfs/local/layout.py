"""Where a local cluster keeps things below its data directory."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one absolute data directory."""

    data: Path

    @property
    def state(self) -> Path:
        """The file that remembers addresses and settings."""
        return self.data / "cluster.toml"

    @property
    def lock(self) -> Path:
        """Locked while `up` or `down` runs."""
        return self.data / "cluster.lock"

    def directory(self, part: str) -> Path:
        """The data of one part."""
        return self.data / part

    def log(self, part: str) -> Path:
        """What one part writes to stdout and stderr."""
        return self.data / "logs" / f"{part}.log"

    def pid(self, part: str) -> Path:
        """Which process one part is."""
        return self.data / "run" / f"{part}.pid"

    def make(self) -> None:
        """Create the directories that are missing; raises OSError."""
        for directory in (self.data, self.data / "logs", self.data / "run"):
            directory.mkdir(parents=True, exist_ok=True)


def datanode_name(number: int) -> str:
    """The part name of the datanode with this number, from 1."""
    return f"datanode-{number}"


COORDINATOR = "coordinator"
MOUNT = "mount"
