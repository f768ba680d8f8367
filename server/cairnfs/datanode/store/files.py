"""Chunks above PACK_CHUNK_MAX_BYTES: one file each, `chunks/<2 hex>/<64 hex>`.

A file is the chunk, then the CRC-32C of its 64 KiB blocks, then 16 bytes: magic, version, length, and the
CRC-32C of everything after the chunk. It is written under `temp/`, synced, and renamed.
"""

import hashlib
import itertools
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import google_crc32c

from cairnfs.base.limits import CHECKSUM_BLOCK_BYTES
from cairnfs.datanode.store.checked import CHUNK_ID_BYTES, blocks_of, check_digest, checked_range
from cairnfs.datanode.store.checksums import block_count, block_range
from cairnfs.datanode.store.direct import DirectWriter
from cairnfs.datanode.store.failures import corrupt, disk_errors, invalid
from cairnfs.datanode.store.interface import Buffer, ChunkLocation

_MAGIC: Final = b"CKF1"
_END: Final = struct.Struct("<4sII I".replace(" ", ""))  # magic, length, reserved, checksum
_CHECKSUM: Final = struct.Struct("<I")


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: Buffer, position: int) -> None:
    """pwrite until every byte is written."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def read_all(fd: int, length: int, position: int) -> bytes:
    """pread until `length` bytes are there, or the file ends."""
    data = os.pread(fd, length, position)
    while len(data) < length:
        more = os.pread(fd, length - len(data), position + len(data))
        if not more:
            break
        data += more
    return data


def stored_length(file_bytes: int) -> int:
    """Bytes of the chunk in a file of this size; not positive when no chunk makes such a file."""
    body = file_bytes - _END.size
    return body - _CHECKSUM.size * -(-body // (CHECKSUM_BLOCK_BYTES + _CHECKSUM.size))


class ChunkFiles:
    """The directory of chunk files; keeps nothing in memory."""

    def __init__(self, root: Path) -> None:
        self._chunks = root / "chunks"
        self._temp = root / "temp"
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Make the directories and remove what a crash left behind.

        A chunk that is found counts as stored, so its name is made durable first: an earlier process may have
        been killed before it was.
        """
        self._temp.mkdir(parents=True, exist_ok=True)
        for leftover in self._temp.iterdir():
            leftover.unlink()
        self._chunks.mkdir(exist_ok=True)
        for byte in range(256):
            fan_out = self._chunks / f"{byte:02x}"
            fan_out.mkdir(exist_ok=True)
            sync_directory(fan_out)
        sync_directory(self._chunks)
        sync_directory(self._chunks.parent)

    def scan(self) -> Iterator[tuple[bytes, int]]:
        """Every chunk (id, length) whose file has a possible name and size."""
        for fan_out in sorted(self._chunks.iterdir()):
            with os.scandir(fan_out) as entries:
                for entry in entries:
                    length = stored_length(entry.stat().st_size)
                    if len(entry.name) == 2 * CHUNK_ID_BYTES and length > 0:
                        yield bytes.fromhex(entry.name), length

    def path(self, chunk_id: bytes) -> Path:
        """Where a chunk's file is."""
        name = chunk_id.hex()
        return self._chunks / name[:2] / name

    def open(self, chunk_id: bytes, length: int, *, past_page_cache: bool = False) -> "ChunkFile":
        """Begin a file. Raises CairnError NO_SPACE or IO."""
        temp = self._temp / f"{chunk_id.hex()}-{next(self._numbers)}"
        return ChunkFile(chunk_id, length, temp, self.path(chunk_id), past_page_cache=past_page_cache)

    def remove(self, chunk_id: bytes) -> None:
        """Delete a chunk's file; an absent one is fine."""
        with disk_errors("delete"):
            self.path(chunk_id).unlink(missing_ok=True)

    def read(self, chunk_id: bytes, chunk_length: int, offset: int, length: int) -> tuple[memoryview, int]:
        """A checked range and its CRC-32C. Raises CairnError CORRUPT, NOT_FOUND, IO."""
        start, end = block_range(offset, length, chunk_length)
        with disk_errors("read"):
            fd = os.open(self.path(chunk_id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                blocks = read_all(fd, end - start, start)
                trailer = read_all(fd, trailer_bytes(chunk_length), chunk_length)
            finally:
                os.close(fd)
        expected = parse_trailer(chunk_id, chunk_length, trailer)[blocks_of(start, end)]
        return checked_range(chunk_id, blocks, start, expected, offset, length)

    def locate(self, chunk_id: bytes, chunk_length: int) -> ChunkLocation:
        """A chunk's open file and its block checksums. Raises CairnError CORRUPT, NOT_FOUND, IO."""
        with disk_errors("open a chunk file"):
            fd = os.open(self.path(chunk_id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                trailer = read_all(fd, trailer_bytes(chunk_length), chunk_length)
                checksums = parse_trailer(chunk_id, chunk_length, trailer)
            except BaseException:
                os.close(fd)
                raise
        return ChunkLocation(chunk_id, chunk_length, 0, checksums, descriptor=fd)


def trailer_bytes(chunk_length: int) -> int:
    """Size of what follows the chunk in its file."""
    return block_count(chunk_length) * _CHECKSUM.size + _END.size


def make_trailer(chunk_length: int, block_checksums: Sequence[int]) -> bytes:
    """What follows the chunk in its file."""
    sums = struct.pack(f"<{len(block_checksums)}I", *block_checksums)
    head = sums + _END.pack(_MAGIC, chunk_length, 0, 0)[: -_CHECKSUM.size]
    return head + _CHECKSUM.pack(google_crc32c.value(head))


def parse_trailer(chunk_id: bytes, chunk_length: int, trailer: bytes) -> tuple[int, ...]:
    """The block checksums. Raises CairnError CORRUPT."""
    count = block_count(chunk_length)
    whole = len(trailer) == trailer_bytes(chunk_length)
    if not whole or google_crc32c.value(trailer[:-4]) != _CHECKSUM.unpack(trailer[-4:])[0]:
        raise corrupt(chunk_id, "its checksums are damaged")
    magic, length, _, _ = _END.unpack_from(trailer, count * _CHECKSUM.size)
    if magic != _MAGIC or length != chunk_length:
        raise corrupt(chunk_id, "its file is of another kind or length")
    return struct.unpack_from(f"<{count}I", trailer)


class ChunkFile:
    """A chunk file being written."""

    def __init__(
        self, chunk_id: bytes, length: int, temp: Path, final: Path, *, past_page_cache: bool
    ) -> None:
        self._chunk_id = chunk_id
        self._length = length
        self._temp = temp
        self._final = final
        self._written = 0
        self._digest = hashlib.sha256()
        with disk_errors("create a chunk file"):
            self._fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._direct = DirectWriter.open(temp) if past_page_cache else None

    def append(self, data: Buffer) -> None:
        """Write and hash the next bytes. Raises CairnError NO_SPACE, IO, INVALID."""
        if self._written + len(data) > self._length:
            raise invalid(f"more bytes than the announced {self._length}")
        with disk_errors("write a chunk file"):
            direct = 0 if self._direct is None else self._direct.write(data, self._written)
            write_all(self._fd, memoryview(data)[direct:], self._written + direct)
        self._digest.update(data)
        self._written += len(data)

    def seal(self, block_checksums: Sequence[int]) -> None:
        """Check the content and make the file durable, still under its temporary name."""
        if self._written != self._length or len(block_checksums) != block_count(self._length):
            raise invalid(f"{self._written} bytes instead of the announced {self._length}")
        check_digest(self._chunk_id, self._digest.digest())
        with disk_errors("sync a chunk file"):
            write_all(self._fd, make_trailer(self._length, block_checksums), self._length)
            os.fdatasync(self._fd)

    def rename(self) -> None:
        """Give it its name; `settle` makes that durable."""
        with disk_errors("rename a chunk file"):
            self._temp.rename(self._final)
        self._close()

    def settle(self) -> None:
        """Make the name durable."""
        with disk_errors("sync a chunk directory"):
            sync_directory(self._final.parent)

    def discard(self) -> None:
        """Remove the temporary file, if it still is one."""
        if self._fd >= 0:
            self._close()
            self._temp.unlink(missing_ok=True)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
        if self._direct is not None:
            self._direct.close()
            self._direct = None
