"""One pack file: small chunks appended one after another, synced in groups.

A record is 44 bytes (state, length, chunk id, CRC-32C of the header), the CRC-32C of its 64 KiB blocks,
and the bytes, padded to 8. The header's checksum covers everything but the state, which is the
one thing that changes in place: a deleted record becomes DEAD.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.checked import blocks_of, checked_range
from cairnfs.datanode.store.checksums import block_count, block_range
from cairnfs.datanode.store.failures import corrupt, disk_errors
from cairnfs.datanode.store.files import read_all, sync_directory, write_all
from cairnfs.datanode.store.interface import ChunkLocation, SmallChunk

LIVE: Final = b"CKL1"
DEAD: Final = b"CKD1"
_HEADER: Final = struct.Struct("<4sI32sI")
_ALIGNMENT: Final = 8
_SCAN_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record found in a pack; positions and lengths in bytes."""

    chunk_id: bytes
    length: int
    position: int
    live: bool


def record_bytes(length: int) -> int:
    """Size in the pack of a record for a chunk of `length` bytes."""
    plain = _HEADER.size + 4 * block_count(length) + length
    return -(-plain // _ALIGNMENT) * _ALIGNMENT


def make_record(chunk: SmallChunk) -> bytes:
    """The bytes of a live record."""
    length = len(chunk.data)
    sums = struct.pack(f"<{len(chunk.block_checksums)}I", *chunk.block_checksums)
    crc = _header_crc(length, chunk.chunk_id, sums)
    header = _HEADER.pack(LIVE, length, chunk.chunk_id, crc)
    padding = bytes(record_bytes(length) - len(header) - len(sums) - length)
    return b"".join((header, sums, chunk.data, padding))


def _header_crc(length: int, chunk_id: bytes, sums: bytes) -> int:
    return int(google_crc32c.value(struct.pack("<I", length) + chunk_id + sums))


def _data_position(position: int, length: int) -> int:
    return position + _HEADER.size + 4 * block_count(length)


def _first_header(window: bytes) -> int:
    """Where the first thing that looks like a live record's header begins; the end if there is none."""
    at = window.find(LIVE)
    while at >= 0 and at % _ALIGNMENT:
        at = window.find(LIVE, at + 1)
    return at if at >= 0 else len(window)


class Pack:
    """An open pack file. Appending is for one thread at a time; reading for any."""

    def __init__(self, path: Path, number: int) -> None:
        self.number = number
        self.path = path
        self.live_bytes = 0
        self.sealed = False
        with disk_errors("open a pack"):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.end = os.fstat(self._fd).st_size

    def __del__(self) -> None:
        # A reader may still hold a pack that was compacted away: the last one closes it.
        if (fd := getattr(self, "_fd", -1)) >= 0:
            os.close(fd)

    @property
    def dead_bytes(self) -> int:
        """What compaction would give back."""
        return self.end - self.live_bytes

    def append(self, records: Sequence[bytes]) -> list[int]:
        """Write records and sync them; returns their positions. On failure nothing is added.

        Raises CairnError NO_SPACE or IO; after a failed sync the pack is sealed, because what its
        pages hold is unknown from then on.
        """
        positions: list[int] = []
        end = self.end
        for record in records:
            positions.append(end)
            end += len(record)
        try:
            with disk_errors("append to a pack"):
                write_all(self._fd, b"".join(records), self.end)
                self._sync()
        except CairnError:
            self.truncate(self.end)
            raise
        self.end = end
        return positions

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            self.sealed = True
            raise

    def sync(self) -> None:
        """Make everything in it durable. Raises CairnError IO."""
        with disk_errors("sync a pack"):
            self._sync()

    def truncate(self, end: int) -> None:
        """Cut everything from `end` on."""
        with disk_errors("cut a pack"):
            os.ftruncate(self._fd, end)
        self.end = end

    def mark_dead(self, position: int) -> None:
        """Delete the record at `position`. Not synced: a record that comes back is deleted again."""
        with disk_errors("delete from a pack"):
            write_all(self._fd, DEAD, position)

    def read(
        self, chunk_id: bytes, position: int, chunk_length: int, offset: int, length: int
    ) -> tuple[memoryview, int]:
        """A checked range of the chunk at `position` and its CRC-32C. Raises CairnError CORRUPT, IO."""
        sums = self._checksums(chunk_id, position, chunk_length)
        start, end = block_range(offset, length, chunk_length)
        with disk_errors("read a pack"):
            blocks = read_all(self._fd, end - start, _data_position(position, chunk_length) + start)
        return checked_range(chunk_id, blocks, start, sums[blocks_of(start, end)], offset, length)

    def locate(self, chunk_id: bytes, position: int, chunk_length: int) -> ChunkLocation:
        """Where the bytes of the record at `position` are. Raises CairnError CORRUPT, IO."""
        sums = self._checksums(chunk_id, position, chunk_length)
        return ChunkLocation(
            chunk_id, chunk_length, _data_position(position, chunk_length), sums, self.number
        )

    def open_for_reading(self) -> int:
        """A new descriptor that cannot write; also of a pack that was removed. Raises CairnError IO."""
        with disk_errors("open a pack"):
            return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)

    def locate_around(self, position: int, length: int) -> list[tuple[int, ChunkLocation]]:
        """Records up to LOCATE_AHEAD_BYTES before and behind one, live or not, with their positions."""
        start = max(0, position - limits.LOCATE_AHEAD_BYTES) // _ALIGNMENT * _ALIGNMENT
        end = min(self.end, position + record_bytes(length) + limits.LOCATE_AHEAD_BYTES)
        with disk_errors("read a pack"):
            window = os.pread(self._fd, end - start, start)
        found: list[tuple[int, ChunkLocation]] = []
        at = 0 if start == 0 else _first_header(window)
        while at + _HEADER.size <= len(window):
            _, size, chunk_id, crc = _HEADER.unpack_from(window, at)
            sums = window[at + _HEADER.size : at + _HEADER.size + 4 * block_count(size)]
            if _header_crc(size, chunk_id, sums) != crc or len(sums) < 4 * block_count(size):
                break
            checksums = struct.unpack(f"<{len(sums) // 4}I", sums)
            place = _data_position(start + at, size)
            found.append((start + at, ChunkLocation(chunk_id, size, place, checksums, self.number)))
            at += record_bytes(size)
        return found

    def _checksums(self, chunk_id: bytes, position: int, chunk_length: int) -> tuple[int, ...]:
        count = block_count(chunk_length)
        with disk_errors("read a pack"):
            head = read_all(self._fd, _HEADER.size + 4 * count, position)
        if len(head) == _HEADER.size + 4 * count:
            _, length, found_id, crc = _HEADER.unpack_from(head)
            sums = head[_HEADER.size :]
            if found_id == chunk_id and length == chunk_length and _header_crc(length, found_id, sums) == crc:
                return struct.unpack(f"<{count}I", sums)
        raise corrupt(chunk_id, f"its record in pack {self.number} is damaged")

    def copy_record(self, position: int, length: int) -> bytes:
        """The bytes of a record, for compaction."""
        with disk_errors("read a pack"):
            return read_all(self._fd, record_bytes(length), position)

    def scan(self) -> Iterator[Record]:
        """Every record with an intact header, in order; damaged stretches are skipped."""
        position = 0
        while position < self.end:
            record = self._record_at(position)
            if record is None:
                found = self._next_record(position + _ALIGNMENT)
                if found is None:
                    return
                position = found
            else:
                yield record
                position += record_bytes(record.length)

    def _record_at(self, position: int) -> Record | None:
        head = os.pread(self._fd, _HEADER.size, position)
        if len(head) < _HEADER.size:
            return None
        state, length, chunk_id, crc = _HEADER.unpack(head)
        if state not in (LIVE, DEAD) or not 0 < length <= limits.PACK_CHUNK_MAX_BYTES:
            return None
        sums = os.pread(self._fd, 4 * block_count(length), position + _HEADER.size)
        if _header_crc(length, chunk_id, sums) != crc or position + record_bytes(length) > self.end:
            return None
        return Record(chunk_id, length, position, state == LIVE)

    def _next_record(self, position: int) -> int | None:
        while position < self.end:
            window = os.pread(self._fd, _SCAN_BYTES, position)
            for start in range(0, len(window), _ALIGNMENT):
                if window[start : start + 4] in (LIVE, DEAD) and self._record_at(position + start):
                    return position + start
            position += _SCAN_BYTES
        return None

    def remove(self) -> None:
        """Delete the file; readers that have the pack may finish."""
        with disk_errors("delete a pack"):
            self.path.unlink(missing_ok=True)


class PackDirectory:
    """The pack files of a store, `packs/<number>.pack`, numbers growing."""

    def __init__(self, root: Path) -> None:
        self._directory = root / "packs"
        self._next = 1

    def prepare(self) -> list[Pack]:
        """Make the directory and open every pack in it, oldest first; their names are durable then."""
        self._directory.mkdir(parents=True, exist_ok=True)
        sync_directory(self._directory)
        sync_directory(self._directory.parent)
        packs = [Pack(path, int(path.stem)) for path in self._directory.glob("*.pack")]
        packs.sort(key=lambda pack: pack.number)
        if packs:
            self._next = packs[-1].number + 1
        return packs

    def create(self) -> Pack:
        """A new, empty, newest pack whose name is durable. Raises CairnError NO_SPACE or IO."""
        pack = Pack(self._directory / f"{self._next:010d}.pack", self._next)
        self._next += 1
        with disk_errors("create a pack"):
            sync_directory(self._directory)
        return pack
