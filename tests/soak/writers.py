"""Programs that write to a mount and note, outside it, what was acknowledged; and what must be found later.

A call that fails leaves what it was about in doubt: either state is right afterwards. Everything else that
returned before the end is promised. Every writer has a directory of its own.
"""

import contextlib
import os
import threading
import time
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import Final

from cairnfs.base.limits import MIB

LINE_BYTES: Final = 200
SMALL_FILES_MAX: Final = 300
LARGE_FILES_MAX: Final = 4
LARGE_BYTES: Final = 6 * MIB
_PATIENCE_S: Final = 120.0


def save(path: Path, content: bytes, flags: int = os.O_CREAT | os.O_TRUNC) -> None:
    """Write a file and fsync it. Raises OSError from any of the calls."""
    descriptor = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        written = 0
        while written < len(content):
            written += os.write(descriptor, content[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """fsync a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Writer(ABC):
    """A thread that works in `root`/`name` until told to stop."""

    name: str

    def __init__(self, root: Path, seed: int) -> None:
        self.directory = root / self.name
        self.rng = Random(f"{self.name} {seed}")
        self.pause_s = 0.0  # between two steps
        self.acknowledged = 0
        self.slowest_s = 0.0  # step that ended, with an error or not
        self.errors: list[OSError] = []
        self._bug: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        """Begin. The directory is there, and durable, when this returns."""
        self.directory.mkdir(exist_ok=True)
        sync_directory(self.directory.parent)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            pause_s, began_s = self.pause_s, time.monotonic()
            try:
                self.step()
                self.acknowledged += 1
            except OSError as error:
                self.errors.append(error)
                pause_s = max(pause_s, 0.1)
            except Exception as error:  # noqa: BLE001 - whatever it was, `stop` raises it
                self._bug = error
                return
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            if pause_s:
                self._stop.wait(pause_s)

    def stop(self) -> None:
        """Return when the last call has. AssertionError: it hangs, or did what no call may do."""
        self._stop.set()
        self._thread.join(_PATIENCE_S)
        assert not self._thread.is_alive(), f"{self.name}: a call on the mount hangs"
        if self._bug is not None:
            raise self._bug

    @abstractmethod
    def step(self) -> None:
        """Make one change durable. Raises OSError."""

    @abstractmethod
    def check(self, directory: Path) -> None:
        """What is in `directory`, this writer's as any mount shows it, is what was promised."""

    @abstractmethod
    def peek(self, directory: Path, rng: Random) -> None:
        """As `check`, of something, while the writer works. Raises OSError when it cannot be read now."""


class Appender(Writer):
    """Appends lines to a log, each with fsync; begins another log after an error."""

    name = "appended"

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        self._logs: list[int] = []  # lines acknowledged, of each log
        self._file = -1

    @staticmethod
    def line(log: int, number: int) -> bytes:
        """One line, which says where it belongs."""
        text = b"%04d %08d " % (log, number)
        return text.ljust(LINE_BYTES - 1, b".") + b"\n"

    def step(self) -> None:
        try:
            if self._file < 0:
                path = self.directory / f"log{len(self._logs)}"
                self._logs.append(0)
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            line = self.line(len(self._logs) - 1, self._logs[-1])
            assert os.write(self._file, line) == len(line)
            os.fsync(self._file)
            self._logs[-1] += 1
        except OSError:
            if self._file >= 0:
                broken, self._file = self._file, -1
                with contextlib.suppress(OSError):
                    os.close(broken)
            raise

    def stop(self) -> None:
        super().stop()
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = -1

    def check(self, directory: Path) -> None:
        for log, lines in enumerate(self._logs):
            if not lines:
                continue
            found = (directory / f"log{log}").read_bytes()
            wanted = b"".join(self.line(log, number) for number in range(lines + 2))
            assert found[: lines * LINE_BYTES] == wanted[: lines * LINE_BYTES], f"log{log}: lines are lost"
            assert wanted.startswith(found), f"log{log}: {len(found)} bytes, more than was written"

    def peek(self, directory: Path, rng: Random) -> None:
        log = len(self._logs) - 1
        if log < 0 or not self._logs[log]:
            return
        first = rng.randrange(max(0, self._logs[log] - 50), self._logs[log])
        promised = self._logs[log]
        with (directory / f"log{log}").open("rb") as file:
            file.seek(first * LINE_BYTES)
            found = file.read()
        wanted = b"".join(self.line(log, number) for number in range(first, self._logs[log] + 2))
        assert len(found) >= (promised - first) * LINE_BYTES, f"log{log}: acknowledged lines are not there"
        assert wanted.startswith(found), f"log{log}: wrong bytes from line {first} on"


class SmallFiles(Writer):
    """Makes small files and removes old ones."""

    name = "small"

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        self._kept: list[int] = []
        self._gone: set[int] = set()
        self._next = 0

    @staticmethod
    def content(number: int) -> bytes:
        """The content of one file: up to 20,000 bytes."""
        return Random(number).randbytes(10 + number * 7919 % 20_000)

    def step(self) -> None:
        if len(self._kept) >= SMALL_FILES_MAX:
            number = self._kept.pop(self.rng.randrange(len(self._kept)))  # in doubt until it is gone
            (self.directory / f"{number}").unlink()
            sync_directory(self.directory)
            self._gone.add(number)
        number = self._next
        self._next += 1
        save(self.directory / f"{number}", self.content(number))
        self._kept.append(number)

    def check(self, directory: Path) -> None:
        for number in self._kept:
            assert (directory / f"{number}").read_bytes() == self.content(number), f"{directory}/{number}"
        names = {int(name) for name in os.listdir(directory)}
        assert not names & self._gone, "removed files are back"

    def peek(self, directory: Path, rng: Random) -> None:
        if not (kept := list(self._kept)):
            return
        number = rng.choice(kept)
        try:
            found = (directory / f"{number}").read_bytes()
        except FileNotFoundError:
            assert number not in self._kept, f"{directory}/{number} is gone"
            return
        if number in self._kept:
            assert found == self.content(number), f"{directory}/{number}: wrong bytes"


class LargeFiles(Writer):
    """Writes large files over and over."""

    name = "large"

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__(root, seed)
        self._versions: dict[int, int] = {}
        self._next = 0

    @staticmethod
    def content(version: int) -> bytes:
        """The content of one version, no two of which share a chunk."""
        return Random(version).randbytes(MIB) * (LARGE_BYTES // MIB) + b"%d" % version

    def step(self) -> None:
        number = self.rng.randrange(LARGE_FILES_MAX)
        self._versions.pop(number, None)
        version, self._next = self._next, self._next + 1
        save(self.directory / f"{number}", self.content(version))
        self._versions[number] = version

    def check(self, directory: Path) -> None:
        for number, version in self._versions.items():
            found, wanted = (directory / f"{number}").read_bytes(), self.content(version)
            assert zlib.crc32(found) == zlib.crc32(wanted), f"{directory}/{number}: {len(found)} bytes"

    def peek(self, directory: Path, rng: Random) -> None:
        number = rng.randrange(LARGE_FILES_MAX)
        version = self._versions.get(number)
        if version is None:
            return
        found = (directory / f"{number}").read_bytes()
        if self._versions.get(number) == version:  # nor was another one begun meanwhile
            assert found == self.content(version), f"{directory}/{number}: wrong bytes"


class Replacer(Writer):
    """Replaces a file by renaming another over it, with or without fsync before."""

    def __init__(self, root: Path, seed: int, *, sync: bool) -> None:
        self.name = "renamed-synced" if sync else "renamed"
        super().__init__(root, seed)
        self._sync = sync
        self._began = 0
        self._synced = 0

    @staticmethod
    def content(version: int) -> bytes:
        """The whole content of one version."""
        return b"%08d;" % version * (50 + version % 2_000)

    def step(self) -> None:
        self._began += 1
        temporary, path = self.directory / "temporary", self.directory / "file"
        if self._sync or self._began == 1:
            save(temporary, self.content(self._began))
        else:
            temporary.write_bytes(self.content(self._began))
        temporary.rename(path)
        if self._sync or self._began == 1:
            sync_directory(self.directory)
            self._synced = self._began

    def check(self, directory: Path) -> None:
        if not (synced := self._synced):
            return
        found = (directory / "file").read_bytes()
        assert found, f"{directory}: the replaced file is empty"
        version = int(found[:8])
        assert found == self.content(version), f"{directory}: version {version} is partial or mixed"
        assert synced <= version <= self._began, f"{directory}: {synced} <= {version} <= {self._began}"

    def peek(self, directory: Path, rng: Random) -> None:
        self.check(directory)


def all_writers(root: Path, seed: int) -> list[Writer]:
    """One of each."""
    return [
        Appender(root, seed),
        SmallFiles(root, seed),
        LargeFiles(root, seed),
        Replacer(root, seed, sync=True),
        Replacer(root, seed, sync=False),
    ]
