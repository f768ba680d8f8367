"""Checks that every chunk store makes alike: of ranges, blocks and names."""

import hashlib
from collections.abc import Sequence

from cairnfs.base import limits
from cairnfs.base.limits import CHECKSUM_BLOCK_BYTES
from cairnfs.datanode.store.checksums import BlockChecksums, block_count
from cairnfs.datanode.store.failures import corrupt, invalid
from cairnfs.datanode.store.interface import Buffer, SmallChunk

CHUNK_ID_BYTES = hashlib.sha256().digest_size


def check_name(chunk_id: bytes, length: int) -> None:
    """INVALID unless `chunk_id` is a SHA-256 and `length` 1 to CHUNK_MAX_BYTES."""
    if len(chunk_id) != CHUNK_ID_BYTES:
        raise invalid(f"a chunk id has {CHUNK_ID_BYTES} bytes, not {len(chunk_id)}")
    if not 0 < length <= limits.CHUNK_MAX_BYTES:
        raise invalid(f"a chunk has 1 to {limits.CHUNK_MAX_BYTES} bytes, not {length}")


def check_large(chunk_id: bytes, length: int) -> None:
    """INVALID unless the chunk is one for a file of its own."""
    check_name(chunk_id, length)
    if length <= limits.PACK_CHUNK_MAX_BYTES:
        raise invalid(f"a chunk of {length} bytes is stored whole, not written piece by piece")


def check_small(chunk: SmallChunk) -> None:
    """INVALID or CORRUPT unless the chunk is small and is what its name says."""
    check_name(chunk.chunk_id, len(chunk.data))
    if len(chunk.data) > limits.PACK_CHUNK_MAX_BYTES:
        raise invalid(f"{len(chunk.data)} bytes are no small chunk")
    if len(chunk.block_checksums) != block_count(len(chunk.data)):
        raise invalid("wrong number of block checksums")
    check_digest(chunk.chunk_id, hashlib.sha256(chunk.data).digest())


def check_digest(chunk_id: bytes, digest: bytes) -> None:
    """CORRUPT unless the two are equal."""
    if chunk_id != digest:
        raise corrupt(chunk_id, f"the SHA-256 of its bytes is {digest.hex()}")


def check_range(offset: int, length: int, chunk_length: int) -> None:
    """INVALID unless the range has bytes and lies within the chunk."""
    if offset < 0 or length <= 0 or offset + length > chunk_length:
        raise invalid(f"no range of {chunk_length} bytes: {length} at {offset}")


def checked_range(
    chunk_id: bytes, blocks: bytes, start: int, expected: Sequence[int], offset: int, length: int
) -> tuple[memoryview, int]:
    """Cut `length` bytes at `offset` out of whole `blocks` that begin at `start`, checking each block.

    `expected` are the CRC-32C of these blocks. Returns the bytes and their CRC-32C; raises CORRUPT.
    """
    checksums = BlockChecksums()
    crc = checksums.add(blocks)
    if checksums.blocks != list(expected):
        raise corrupt(chunk_id, f"wrong checksum within {len(blocks)} bytes at {start}")
    view = memoryview(blocks)[offset - start : offset - start + length]
    return view, crc if len(view) == len(blocks) else crc_of(view)


def crc_of(data: Buffer) -> int:
    """CRC-32C of `data`."""
    return BlockChecksums().add(data)


def blocks_of(start: int, end: int) -> slice:
    """Which block checksums cover the bytes `start` (a block border) to `end`."""
    return slice(start // CHECKSUM_BLOCK_BYTES, block_count(end))
