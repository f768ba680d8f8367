"""CRC-32C of every 64 KiB block of a chunk and of every frame, read from memory only once.

The CRC of a frame that starts on a block border follows from the CRCs of its blocks: appending 64 KiB is
a linear map on the CRC, kept here as four tables of 256 entries.
"""

from typing import Final

import google_crc32c

from cairnfs.base.limits import CHECKSUM_BLOCK_BYTES

_ONES: Final = 0xFFFF_FFFF


def _shift_tables() -> list[list[int]]:
    zeros = bytes(CHECKSUM_BLOCK_BYTES)
    images = [google_crc32c.extend((1 << bit) ^ _ONES, zeros) ^ _ONES for bit in range(32)]
    tables: list[list[int]] = []
    for byte in range(4):
        table = [0] * 256
        for value in range(1, 256):
            low = value & -value
            table[value] = table[value ^ low] ^ images[8 * byte + low.bit_length() - 1]
        tables.append(table)
    return tables


_T0, _T1, _T2, _T3 = _shift_tables()


def append_block(crc: int, block_crc: int) -> int:
    """CRC-32C of data with CRC `crc` followed by one full block with CRC `block_crc`."""
    shifted = _T0[crc & 0xFF] ^ _T1[crc >> 8 & 0xFF] ^ _T2[crc >> 16 & 0xFF] ^ _T3[crc >> 24]
    return shifted ^ block_crc


class BlockChecksums:
    """Collects the block CRCs of a chunk whose bytes come in pieces of any size."""

    def __init__(self) -> None:
        self._blocks: list[int] = []
        self._open_bytes = 0  # of the last block, when it is not full

    @property
    def blocks(self) -> list[int]:
        """CRC-32C of each block so far, the last one possibly of less than 64 KiB."""
        return self._blocks

    def add(self, data: bytes | bytearray | memoryview) -> int:
        """Take the next bytes; returns the CRC-32C of these bytes alone."""
        view = memoryview(data)
        crc, at = 0, 0
        if self._open_bytes:
            at = min(len(view), CHECKSUM_BLOCK_BYTES - self._open_bytes)
            piece = bytes(view[:at])
            self._blocks[-1] = google_crc32c.extend(self._blocks[-1], piece)
            self._open_bytes = (self._open_bytes + at) % CHECKSUM_BLOCK_BYTES
            crc = google_crc32c.value(piece)
        full_end = at + (len(view) - at) // CHECKSUM_BLOCK_BYTES * CHECKSUM_BLOCK_BYTES
        for start in range(at, full_end, CHECKSUM_BLOCK_BYTES):
            block_crc = google_crc32c.value(bytes(view[start : start + CHECKSUM_BLOCK_BYTES]))
            self._blocks.append(block_crc)
            crc = append_block(crc, block_crc)
        if full_end < len(view):
            piece = bytes(view[full_end:])
            self._blocks.append(google_crc32c.value(piece))
            self._open_bytes = len(piece)
            crc = google_crc32c.extend(crc, piece)
        return crc


def block_count(length: int) -> int:
    """How many block CRCs a chunk of `length` bytes has."""
    return -(-length // CHECKSUM_BLOCK_BYTES)


def block_range(offset: int, length: int, chunk_length: int) -> tuple[int, int]:
    """The bytes (start, end) of the whole blocks around a range of a chunk."""
    start = offset // CHECKSUM_BLOCK_BYTES * CHECKSUM_BLOCK_BYTES
    return start, min(chunk_length, block_count(offset + length) * CHECKSUM_BLOCK_BYTES)
