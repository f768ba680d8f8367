"""Chunks in files below one directory, shared by all mounts of a host; every method blocks.

A file is named by its chunk and written under another name first, so it is whole or not there; a crash of the
host may still leave rubbish, which its checksums tell. It has a header (magic, chunk id, length), the CRC-32C
of each 64 KiB of the chunk, the CRC-32C of all that, and the chunk. What is read is checked, and removed when
it is wrong. Each process counts what it adds; now and then it adds up what is there and removes what was used
longest ago. A file's time of modification is when it was used, to the minute.
"""

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from cairnfs.base import limits
from cairnfs.base.checksums import block_checksums, crc32c

FORMAT: Final = "chunks-1"  # the name of our directory: another format gets another one
PAGE_BYTES: Final = 4096  # files take whole pages of a disk
TOUCH_S: Final = 60.0
STRAY_S: Final = 3600.0  # a temporary file of that age belongs to nobody
SHARDS: Final = 256
SCAN_SHARE: Final = 32  # add up again after a process has added one part in so many
_MAGIC: Final = b"CairnCh1"
_HEADER: Final = struct.Struct("<8s32sQ")
_CRC: Final = struct.Struct("<I")
_READ_TOGETHER_BYTES: Final = 128 * limits.KIB  # header and chunk by one call: copying costs less than a call
_BLOCK: Final = limits.CHECKSUM_BLOCK_BYTES


class _File(NamedTuple):
    used_ns: int
    size_bytes: int
    path: str


class ChunkFiles:
    """One directory of chunks, bounded in size over all processes that use it."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """Make the directory, for its owner alone. Raises OSError when it cannot be had or is open to others.

        `max_bytes`: at least CACHE_SIZE_MIN_BYTES. It holds with up to two processes that add chunks at the
        same time; each more may exceed it by a thirty-second part.
        """
        self._root = directory / FORMAT
        self._groups = max(1, min(SHARDS, max_bytes // limits.GIB))  # each is kept within its share
        self._group_max_bytes = max_bytes // self._groups
        self._known_bytes: dict[int, int] = {}
        self._added_bytes: dict[int, int] = {}
        self._temporary = 0
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._make()

    def _make(self) -> None:
        with suppress(FileExistsError):
            self._root.mkdir(mode=0o700)
        found = self._root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(errno.EPERM, "not a directory for its owner alone", str(self._root))

    def _path(self, chunk_id: bytes) -> str:
        name = chunk_id.hex()
        return f"{self._root}/{name[:2]}/{name[2:]}"

    # ------------------------------------------------------------------ reading

    def read(self, chunk_id: bytes, chunk_length: int, offset: int, length: int) -> bytes | None:
        """`length` bytes (at least 1) at `offset` of a chunk; None when it is not there, or not intact.

        Raises OSError when the directory or its disk fails.
        """
        path = self._path(chunk_id)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            data = _read_checked(descriptor, chunk_id, chunk_length, offset, length)
            if data is None:
                with suppress(FileNotFoundError):
                    os.unlink(path)
            elif time.time() - os.fstat(descriptor).st_mtime > TOUCH_S:
                os.utime(descriptor)
            return data
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------ writing

    def write(self, chunk_id: bytes, data: bytes) -> None:
        """Keep a chunk, and stay within the bound. Raises OSError, after which nothing of it is left."""
        path = self._path(chunk_id)
        if os.path.exists(path):
            return
        checksums = block_checksums(data)
        head = _HEADER.pack(_MAGIC, chunk_id, len(data)) + struct.pack(f"<{len(checksums)}I", *checksums)
        head += _CRC.pack(crc32c(head))
        self._temporary += 1
        temporary = f"{os.path.dirname(path)}/.{os.getpid()}-{self._temporary}"
        try:
            self._write(temporary, [head, data])
            os.rename(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        group = chunk_id[0] * self._groups // SHARDS
        self._added_bytes[group] = self._added_bytes.get(group, 0) + _on_disk(len(head) + len(data))
        self._keep_within(group)

    def _write(self, path: str, parts: list[bytes]) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._root.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make()
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        try:
            total = sum(map(len, parts))
            if os.writev(descriptor, parts) != total:
                raise OSError(errno.ENOSPC, "the disk is full", path)
        finally:
            os.close(descriptor)

    # ------------------------------------------------------------------ staying within the bound

    def _keep_within(self, group: int) -> None:
        """Add up what the group holds when that may have changed much; remove the oldest of too much."""
        added, most = self._added_bytes[group], self._group_max_bytes
        known = self._known_bytes.get(group)
        step = most // SCAN_SHARE
        if known is not None and added < step and known + added <= most - step:
            return
        with self._alone(group) as alone:
            self._added_bytes[group] = 0
            if not alone:
                return  # another process is at it
            files = self._files(group)
            total = sum(file.size_bytes for file in files)
            if total > most - 2 * step:
                for file in sorted(files):
                    if total <= most - 4 * step:
                        break
                    with suppress(FileNotFoundError):
                        os.unlink(file.path)
                    total -= file.size_bytes
            self._known_bytes[group] = total

    @contextmanager
    def _alone(self, group: int) -> Iterator[bool]:
        """Whether no other process removes files of the group; nobody waits."""
        descriptor = os.open(f"{self._root}/.lock-{group}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _files(self, group: int) -> list[_File]:
        """Every chunk of a group; abandoned temporary files are removed on the way."""
        now = time.time()
        found: list[_File] = []
        for shard in (number for number in range(SHARDS) if number * self._groups // SHARDS == group):
            with suppress(FileNotFoundError), os.scandir(f"{self._root}/{shard:02x}") as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        if entry.name.startswith("."):
                            if now - status.st_mtime > STRAY_S:
                                os.unlink(entry.path)
                            continue
                        found.append(_File(status.st_mtime_ns, _on_disk(status.st_size), entry.path))
        return found


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


def _read_checked(
    descriptor: int, chunk_id: bytes, chunk_length: int, offset: int, length: int
) -> bytes | None:
    """A part of a chunk, or None when the file is not what it should be."""
    blocks = -(-chunk_length // _BLOCK)
    head_bytes = _HEADER.size + blocks * _CRC.size + _CRC.size
    first, last = offset // _BLOCK, (offset + length - 1) // _BLOCK
    start, end = first * _BLOCK, min((last + 1) * _BLOCK, chunk_length)
    if end <= _READ_TOGETHER_BYTES:
        content = os.pread(descriptor, head_bytes + end, 0)
        head, data = content[:head_bytes], content[head_bytes + start :]
    else:
        head = os.pread(descriptor, head_bytes, 0)
        data = os.pread(descriptor, end - start, head_bytes + start)
    if len(head) < head_bytes or len(data) < end - start:
        return None
    if _CRC.unpack(head[-_CRC.size :])[0] != crc32c(head[: -_CRC.size]):
        return None
    if _HEADER.unpack_from(head) != (_MAGIC, chunk_id, chunk_length):
        return None
    wanted = struct.unpack_from(f"<{last - first + 1}I", head, _HEADER.size + first * _CRC.size)
    if tuple(block_checksums(data)) != wanted:
        return None
    return data[offset - start : offset - start + length]
