"""What a chunk store does. All methods but `request`, `length` and `usage` may block on a disk.

Methods may be called from several threads at once. Failures are CairnErrors: NO_SPACE, NOT_FOUND (no such
chunk here), CORRUPT (a checksum failed), INVALID, IO.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class SmallChunk:
    """A whole chunk of at most PACK_CHUNK_MAX_BYTES, with the CRC-32C of its 64 KiB blocks."""

    chunk_id: bytes
    data: Buffer
    block_checksums: Sequence[int]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One chunk of a listing; length in bytes.

    `leaving`: it can be read, but its disk is to be emptied. `damaged`: it was found bad since the start.
    """

    chunk_id: bytes
    length: int
    leaving: bool = False
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk use in bytes; `read_only` when no whole chunk may be added.

    `filesystem` is equal for stores of this machine whose free space is the same space; empty: unknown.
    """

    capacity_bytes: int
    used_bytes: int
    available_bytes: int
    chunks: int
    read_only: bool
    filesystem: str = ""


@dataclass(frozen=True, slots=True)
class ChunkLocation:
    """Where the bytes of a chunk are, for who reads the file itself.

    They begin at `position`. `pack` names the file for as long as the store is open when it holds several
    chunks, and is 0 otherwise. `descriptor` is open for reading, and the caller closes it; None: not wanted.
    """

    chunk_id: bytes
    length: int
    position: int
    block_checksums: Sequence[int]
    pack: int = 0
    descriptor: int | None = None


class ChunkWriter(Protocol):
    """One chunk on its way to the disk, in one thread at a time. End it with `finish` or `abort`."""

    def append(self, data: Buffer) -> None:
        """Write the next bytes. Raises NO_SPACE, IO, or INVALID beyond the announced length."""
        ...

    def finish(self, block_checksums: Sequence[int]) -> None:
        """Make the chunk durable, then visible. Raises CORRUPT when its SHA-256 is not its name."""
        ...

    def abort(self) -> None:
        """Forget what was written; harmless after `finish`."""
        ...


class ChunkStore(Protocol):
    """Immutable chunks under their SHA-256."""

    @property
    def boot(self) -> str:
        """A new random name for every opening of the store."""
        ...

    @property
    def seq(self) -> int:
        """How many requests to store a chunk `request` has counted since the opening."""
        ...

    def request(self, chunk_id: bytes) -> bool:
        """Count a request to store a chunk. True: it is here, and safe from deletions decided before."""
        ...

    def open(self, chunk_id: bytes, length: int, *, keep_in_memory: bool = True) -> ChunkWriter:
        """Begin to write a chunk of over PACK_CHUNK_MAX_BYTES. Raises NO_SPACE, INVALID.

        `keep_in_memory`: it is likely to be read from here.
        """
        ...

    def store_batch(self, chunks: Sequence[SmallChunk]) -> list[Exception | None]:
        """Store small chunks with one sync of the disk: per chunk None, or why it failed."""
        ...

    def length(self, chunk_id: bytes) -> int | None:
        """Bytes of a stored chunk, or None."""
        ...

    def read(self, chunk_id: bytes, offset: int, length: int) -> tuple[memoryview, int]:
        """Bytes of a range that must lie within the chunk, checked, and their CRC-32C."""
        ...

    def locate(self, chunk_id: bytes, held_packs: Container[int] = ()) -> ChunkLocation:
        """Where a chunk is, with a descriptor unless `held_packs` has its pack.

        The bytes there stay right while the descriptor is open, whatever happens to the chunk. Raises
        NOT_FOUND, CORRUPT (also when it was found corrupt before), IO.
        """
        ...

    def locate_neighbours(self, chunk_id: bytes) -> list[ChunkLocation]:
        """Some chunks stored shortly before and after this one in its pack, without descriptors."""
        ...

    def verify(self, chunk_id: bytes) -> int:
        """Read the whole chunk and check checksums and SHA-256; returns its length. Raises CORRUPT."""
        ...

    def delete(self, chunk_ids: Sequence[bytes], as_of_seq: int, boot: str) -> list[bytes]:
        """Delete chunks; returns those kept, because they were requested after `as_of_seq` of `boot`.

        With the `boot` of another opening nothing is known of its requests, and everything is kept.
        """
        ...

    def list_chunks(self, after: bytes, limit: int) -> list[StoredEntry]:
        """Up to `limit` chunks with ids greater than `after`, sorted."""
        ...

    def usage(self) -> Usage:
        """Disk use now."""
        ...

    def maintain(self) -> int:
        """Give back space that deletions left behind; returns the bytes gained."""
        ...

    def close(self) -> None:
        """Release everything; idempotent."""
        ...
