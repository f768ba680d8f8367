"""The disks of a simulated datanode: real files that forget, refuse, fill up and rot.

The real chunk store runs on a directory in memory. `tests/power` notes what it does, so that a power cut
leaves what a disk may leave; on top of that come full disks, errors and flipped bits.
"""

import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from cairnfs.base import limits
from cairnfs.datanode.identity import Identity
from cairnfs.datanode.store.checksums import block_count
from cairnfs.datanode.store.files import ChunkFiles, stored_length
from cairnfs.datanode.store.packs import DEAD, LIVE, record_bytes
from tests.power.disk import Disk, Resize, SyncDirectory, SyncFile, Write, read_in, write_out
from tests.power.recording import Killed, OsRecorder

_RECORD: Final = struct.Struct("<4sI32sI")  # state, length, chunk id, checksum: see store/packs.py
DISK_BYTES: Final = 4 * limits.GIB
_REFUSED_WHEN_FULL: Final = ("pwrite", "pwritev", "posix_fallocate", "write", "mkdir")
_REFUSED_WHEN_SICK: Final = (*_REFUSED_WHEN_FULL, "fsync", "fdatasync", "rename", "replace", "unlink")
FAN_OUTS: Final = 4  # directories of chunk files; the 256 of a real store cost more than the rest of a run
_MADE_BEFORE: Final = ("chunks", *(f"chunks/{number:02x}" for number in range(FAN_OUTS)), "packs", "temp")


class SimDisk(OsRecorder):
    """One directory; enter it while its process runs. After `kill_after` calls it calls `on_killed`."""

    def __init__(self, base: Path, rng: Random) -> None:
        self.on_killed: Callable[[], None] = lambda: None
        self.root = base / "life-0"
        identity = Identity(uuid=f"{rng.getrandbits(128):032x}", disk=f"{rng.getrandbits(128):032x}")
        made: dict[str, bytes | None] = dict.fromkeys(_MADE_BEFORE)
        write_out({**made, "identity.json": json.dumps(asdict(identity)).encode()}, self.root)
        self.full = False
        self.sick_share = 0.0  # of calls that fail with EIO
        self.syncs = True  # a planted bug may take that away
        self._base = base
        self._lives = 0
        self._rng = rng
        self._depth = 0
        super().__init__(Disk(self.root))

    @property
    def disk(self) -> Disk:
        """What was done to it."""
        return self._disk

    # ------------------------------------------------------------------ while the process runs

    def __enter__(self) -> "SimDisk":
        self._depth += 1
        if self._depth == 1:
            super().__enter__()
            self._real["statvfs"] = os.statvfs
            os.statvfs = self._statvfs
        return self

    def __exit__(self, *details: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            super().__exit__(*details)

    def _statvfs(self, path: Any) -> Any:
        free = 0 if self.full else DISK_BYTES
        return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=DISK_BYTES // 4096)

    def _killable(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self._lost:
                if name == "close":
                    return self._real["close"](*arguments)
                raise Killed
            if name != "close":
                if self.kill_after == 0:
                    self.on_killed()
                    raise Killed
                self.kill_after -= self.kill_after > 0
                self._refuse(name)
            return function(*arguments, **options)

        return call

    _lost = False

    def _refuse(self, name: str) -> None:
        if self.full and name in _REFUSED_WHEN_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.sick_share and name in _REFUSED_WHEN_SICK and self._rng.random() < self.sick_share:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _sync(self, call: str, descriptor: int) -> None:
        """Nothing real is synced: the files are in memory anyway."""
        if not self.syncs:
            return
        disk = self._disk
        if descriptor in self._directories:
            disk.events.append(SyncDirectory(self._directories[descriptor]))
        elif descriptor in self._files:
            disk.events.append(SyncFile(self._files[descriptor]))
        elif (name := disk.relative(os.readlink(f"/proc/self/fd/{descriptor}"))) is not None:
            # Written by Python's own files, of which nothing is heard before.
            file = disk.file(name)
            disk.events += (Resize(file, 0), Write(file, 0, (disk.root / name).read_bytes()), SyncFile(file))

    # ------------------------------------------------------------------ faults

    def stop(self) -> None:
        """The process that used it is gone: whatever is left of it changes nothing any more."""
        self._lost = True

    def next_life(self, *, power_cut: bool) -> "SimDisk":
        """The disk as the next process finds it."""
        self._lives += 1
        after = SimDisk.__new__(SimDisk)
        state = self._disk.after_cut(len(self._disk.events), self._rng) if power_cut else self._disk.whole()
        root = self._base / f"life-{self._lives}"
        write_out(state, root)
        shutil.rmtree(self.root, ignore_errors=True)
        after.__dict__.update(
            root=root,
            full=self.full,
            sick_share=self.sick_share,
            syncs=self.syncs,
            on_killed=self.on_killed,
            _base=self._base,
            _lives=self._lives,
            _rng=self._rng,
            _depth=0,
        )
        OsRecorder.__init__(after, Disk(root))
        return after

    def flip(self, chunk_id: bytes, rng: Random) -> None:
        """Change a bit of a chunk that was made durable, if it is there."""
        place = whole_chunks(self._disk.synced()).get(chunk_id)
        if place is not None and (self.root / place.file).exists():
            self._disk.flip(place.file, place.offset + rng.randrange(place.length))

    def durable_chunks(self) -> Collection[bytes]:
        """Chunks that a power cut now would leave whole."""
        return whole_chunks(self._disk.synced())

    def chunks(self) -> Collection[bytes]:
        """Chunks that are whole in the files as they are."""
        return whole_chunks(read_in(self.root))


class Place(NamedTuple):
    """Where the bytes of a chunk are."""

    file: str
    offset: int
    length: int


def whole_chunks(state: Mapping[str, bytes | None]) -> dict[bytes, Place]:
    """Live chunks in the files of a store whose content is what their names say."""
    found: dict[bytes, Place] = {}
    for name, content in state.items():
        if not content:
            continue
        if name.endswith(".pack"):
            found.update(_packed(name, content))
        elif name.startswith("chunks/"):
            chunk_id, length = bytes.fromhex(name.rpartition("/")[2]), stored_length(len(content))
            if length > 0 and hashlib.sha256(content[:length]).digest() == chunk_id:
                found[chunk_id] = Place(name, 0, length)
    return found


def _packed(name: str, content: bytes) -> Iterator[tuple[bytes, Place]]:
    at = 0
    while at + _RECORD.size <= len(content):
        state, length, chunk_id, _ = _RECORD.unpack_from(content, at)
        if state not in (LIVE, DEAD) or not 0 < length <= limits.PACK_CHUNK_MAX_BYTES:
            at += 8
            continue
        start = at + _RECORD.size + 4 * block_count(length)
        if state == LIVE and hashlib.sha256(content[start : start + length]).digest() == chunk_id:
            yield chunk_id, Place(name, start, length)
        at += record_bytes(length)


def few_directories(count: int) -> range:
    """Takes the place of range() where a store makes its directories."""
    return range(min(count, FAN_OUTS))


def path_in_few(files: ChunkFiles, chunk_id: bytes) -> Path:
    """Takes the place of `ChunkFiles.path`."""
    return files._chunks / f"{chunk_id[0] % FAN_OUTS:02x}" / chunk_id.hex()
