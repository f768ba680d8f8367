"""SHA-256 names a chunk; CRC-32C guards every hop and every 64 KiB on disk."""

import hashlib
from collections.abc import Iterator

import google_crc32c

from cairnfs.base.limits import CHECKSUM_BLOCK_BYTES

Buffer = bytes | bytearray | memoryview


def chunk_id(data: Buffer) -> bytes:
    """The 32-byte name of a chunk with this content."""
    return hashlib.sha256(data).digest()


def crc32c(data: Buffer) -> int:
    """CRC-32C (RFC 3720, appendix B.4) of `data`, 0 to 2^32-1."""
    if isinstance(data, bytes):
        return int(google_crc32c.value(data))
    crc = 0
    for part in _parts(memoryview(data)):  # the library takes bytes only: copies that stay in the processor
        crc = google_crc32c.extend(crc, bytes(part))
    return int(crc)


def block_checksums(data: Buffer) -> list[int]:
    """CRC-32C of every 64 KiB of `data`, the last one of what remains."""
    return [crc32c(part) for part in _parts(memoryview(data))]


def _parts(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(view), CHECKSUM_BLOCK_BYTES):
        yield view[start : start + CHECKSUM_BLOCK_BYTES]
