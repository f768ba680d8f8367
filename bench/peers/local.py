"""A directory of the local file system: the yardstick."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import System


class Local(System):
    """Nothing to start; it has no client, so it is never cold."""

    name: ClassVar[str] = "local"
    title: ClassVar[str] = "local disk"
    copies: ClassVar[int] = 1
    has_client: ClassVar[bool] = False

    def start_servers(self) -> None:
        """The kernel runs already."""

    def mount_command(self) -> Sequence[str | Path]:
        """There is no client."""
        return ()

    def mount(self) -> None:
        """The directory is there."""

    def unmount(self) -> None:
        """It stays."""
