"""What a mount is doing when it is killed or stopped, and what must be left of it.

`Tar` unpacks many small files; `Replacer` writes a temporary file and renames it over another, again and
again.
Every content says which file and version it is, so that a look from another mount can tell what it sees.
"""

import os
import subprocess
import tarfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

UNSYNCED_MAX_S = 5.0  # what was written longer ago than this survives a killed client


def content_of(number: int) -> bytes:
    """The content of one small file of the archive: 10 to 6,000 bytes, none of them zero."""
    word = b"%07d," % number
    return (word * 800)[: 10 + number * 37 % 5991]


def make_archive(path: Path, files: int) -> Path:
    """A tar of small files in nested directories, in an order as git archive has it; returns its path."""
    member = path.with_suffix(".member")
    with tarfile.open(path, "w") as archive:
        for number in range(files):
            member.write_bytes(content_of(number))
            archive.add(member, f"d{number // 300}/e{number // 30 % 10}/file{number}")
    return path


class Tar:
    """tar(1), unpacking into a directory of a mount."""

    def __init__(self, archive: Path, target: Path) -> None:
        self._process = subprocess.Popen(
            ["tar", "-xf", archive, "-C", target], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )

    def ended(self, patience_s: float) -> int:
        """Its exit status."""
        try:
            return self._process.wait(patience_s)
        finally:
            self._process.kill()
            self._process.wait()


@dataclass(slots=True)
class Replacer:
    """Replaces a file by a newer version, with or without fsync before the rename, until that fails."""

    path: Path
    sync: bool
    size: int = 3_000
    renamed: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    synced: int = 0  # the newest version whose fsync and rename and fsync of the directory returned
    began: int = 0
    error: OSError | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Work in a thread; version 1 is there, and durable, when this returns."""
        self._replace(1, sync=True)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        version = 1
        try:
            while not self._stop.is_set():
                version += 1
                self._replace(version, sync=self.sync)
        except OSError as error:
            self.error = error

    def _replace(self, version: int, *, sync: bool) -> None:
        self.began = version
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        with temporary.open("wb") as file:
            file.write(self.content(version))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.rename(self.path)
        self.renamed.append((time.monotonic(), version))
        if sync:
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
            self.synced = version

    def stop(self, patience_s: float) -> None:
        """Return when its last call has."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join(patience_s)
        assert not self._thread.is_alive(), "a call on the mount hangs"

    def content(self, version: int) -> bytes:
        """The whole content of one version."""
        word = b"%s %08d;" % (self.path.name.encode(), version)
        return (word * (self.size // len(word) + 1))[: self.size]

    def check(self, seen: Path, killed_s: float) -> None:
        """What another mount shows is one whole version, and none that is too old."""
        found = seen.read_bytes()
        version = int(found.split(b";")[0].split()[-1]) if found else 0
        assert found == self.content(version), f"{seen}: neither empty nor mixed: {found[:80]!r}"
        old = [number for at, number in self.renamed if at < killed_s - UNSYNCED_MAX_S]
        floor = max([self.synced, *old])
        assert floor <= version <= self.began, f"{seen}: version {version}, at least {floor} was saved"


def check_tree(root: Path, synced: set[int]) -> tuple[int, int]:
    """Every file is right as far as it goes, those of `synced` whole; how many are whole, how many not."""
    whole = partial = 0
    for path in sorted(root.glob("d*/e*/file*")):
        number = int(path.name.removeprefix("file"))
        wanted, found = content_of(number), path.read_bytes()
        assert len(found) <= len(wanted), f"{path}: longer than it ever was"
        wrong = [i for i, byte in enumerate(found) if byte not in (0, wanted[i])]
        assert not wrong, f"{path}: wrong bytes at {wrong[:3]}"
        if found == wanted:
            whole += 1
        else:
            partial += 1
            assert number not in synced, f"{path}: {len(found)} of {len(wanted)} bytes, although synced"
    missing = {n for n in synced if not (root / f"d{n // 300}/e{n // 30 % 10}/file{n}").exists()}
    assert not missing, f"synced and gone: {sorted(missing)[:5]}"
    return whole, partial
