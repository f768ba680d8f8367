"""The test's side of a mount in another process: start it, command it, and always take it away."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cairnfs.fuse import mounts

ROOT = Path(__file__).parents[2]


class MountedMemory:
    """A running mount; `log` has what its process wrote to stderr once it has ended."""

    def __init__(self, mountpoint: Path, options: tuple[str, ...], log: Path) -> None:
        self.path = mountpoint
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.doubles.memory_mount", str(mountpoint), *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": ":".join(str(ROOT / name) for name in _SOURCES)},
            )
        self._read("ready")

    def _read(self, command: str) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"no answer to {command}: {self.log()}"
        return json.loads(line)

    def log(self) -> str:
        return self._log.read_text()

    def ask(self, command: str, *arguments: Any) -> Any:
        """Run one command of `memory_mount.Control` and return its answer."""
        self.post(command, *arguments)
        return self._read(command)

    def post(self, command: str, *arguments: Any) -> None:
        """Send a command without waiting for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self.process.stdin.flush()

    def calls(self, method: str) -> int:
        """How often the file system's method was called."""
        return int(self.ask("calls").get(method, 0))

    def close(self) -> None:
        """Take the mount away and end its process, whatever state they are in."""
        entry = mounts.mount_at(self.path)
        if entry is not None:
            mounts.abort(entry)
            mounts.lazy_unmount(entry)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_SOURCES = ("fusefs", "mount", "proto", "server", ".")


@contextmanager
def mounted_memory(directory: Path, *options: str) -> Iterator[MountedMemory]:
    """Mount a fresh memory file system at `directory`/mnt."""
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    defaults = ("default_permissions", "allow_other")
    mounted = MountedMemory(mountpoint, (*defaults, *options), directory / "mount.log")
    try:
        yield mounted
    finally:
        mounted.close()
        assert not mounts.is_mounted(mountpoint)
