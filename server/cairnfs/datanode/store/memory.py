"""A chunk store in memory, for tests."""

import hashlib
import os
import threading
from collections.abc import Container, Sequence

from sortedcontainers import SortedDict

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.checked import (
    blocks_of,
    check_digest,
    check_large,
    check_range,
    check_small,
    checked_range,
)
from cairnfs.datanode.store.checksums import BlockChecksums, block_range
from cairnfs.datanode.store.failures import corrupt, invalid, not_found
from cairnfs.datanode.store.files import write_all
from cairnfs.datanode.store.interface import Buffer, ChunkLocation, SmallChunk, StoredEntry, Usage
from cairnfs.datanode.store.requests import RequestLog
from cairnfs.rpc.v1 import common_pb2


class MemoryChunkStore:
    """Implements ChunkStore; `capacity_bytes` bounds it."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self._capacity_bytes = capacity_bytes
        self._requests = RequestLog()
        self._lock = threading.Lock()
        self._chunks: SortedDict[bytes, tuple[bytearray, list[int]]] = SortedDict()
        self._bad: set[bytes] = set()
        self._used_bytes = 0

    @property
    def boot(self) -> str:
        """See ChunkStore."""
        return self._requests.boot

    @property
    def seq(self) -> int:
        """See ChunkStore."""
        return self._requests.seq

    def request(self, chunk_id: bytes) -> bool:
        """See ChunkStore."""
        with self._lock:
            self._requests.note(chunk_id)
            return chunk_id in self._chunks and chunk_id not in self._bad

    def open(self, chunk_id: bytes, length: int, *, keep_in_memory: bool = True) -> "MemoryChunkWriter":
        """See ChunkStore."""
        check_large(chunk_id, length)
        self._admit(length)
        return MemoryChunkWriter(self, chunk_id, length)

    def store_batch(self, chunks: Sequence[SmallChunk]) -> list[Exception | None]:
        """See ChunkStore."""
        return [self._store(chunk) for chunk in chunks]

    def _store(self, chunk: SmallChunk) -> Exception | None:
        try:
            check_small(chunk)
            self._admit(len(chunk.data))
        except CairnError as error:
            return error
        self.keep(chunk.chunk_id, bytearray(chunk.data), chunk.block_checksums)
        return None

    def _admit(self, length: int) -> None:
        if self._used_bytes + length > self._capacity_bytes:
            raise CairnError(common_pb2.ERROR_CODE_NO_SPACE, "the store in memory is full")

    def keep(self, chunk_id: bytes, data: bytearray, block_checksums: Sequence[int]) -> None:
        """Make a checked chunk visible."""
        with self._lock:
            self._drop(chunk_id)
            self._chunks[chunk_id] = (data, list(block_checksums))
            self._used_bytes += len(data)

    def _drop(self, chunk_id: bytes) -> None:
        if (old := self._chunks.pop(chunk_id, None)) is not None:
            self._used_bytes -= len(old[0])
        self._bad.discard(chunk_id)

    def length(self, chunk_id: bytes) -> int | None:
        """See ChunkStore."""
        found = self._chunks.get(chunk_id)
        return None if found is None else len(found[0])

    def read(self, chunk_id: bytes, offset: int, length: int) -> tuple[memoryview, int]:
        """See ChunkStore."""
        found = self._chunks.get(chunk_id)
        if found is None:
            raise not_found(chunk_id)
        data, sums = found
        check_range(offset, length, len(data))
        start, end = block_range(offset, length, len(data))
        try:
            return checked_range(
                chunk_id, bytes(data[start:end]), start, sums[blocks_of(start, end)], offset, length
            )
        except CairnError:
            self._bad.add(chunk_id)
            raise

    def locate(self, chunk_id: bytes, held_packs: Container[int] = ()) -> ChunkLocation:
        """See ChunkStore."""
        found = self._chunks.get(chunk_id)
        if found is None:
            raise not_found(chunk_id)
        if chunk_id in self._bad:
            raise corrupt(chunk_id, "it was found damaged")
        data, sums = found
        fd = os.memfd_create("chunk", os.MFD_CLOEXEC)
        write_all(fd, data, 0)
        return ChunkLocation(chunk_id, len(data), 0, sums, descriptor=fd)

    def locate_neighbours(self, chunk_id: bytes) -> list[ChunkLocation]:
        """See ChunkStore; here no chunk has a neighbour."""
        return []

    def verify(self, chunk_id: bytes) -> int:
        """See ChunkStore."""
        length = self.length(chunk_id)
        if length is None:
            raise not_found(chunk_id)
        data, _ = self.read(chunk_id, 0, length)
        check_digest(chunk_id, hashlib.sha256(data).digest())
        return length

    def delete(self, chunk_ids: Sequence[bytes], as_of_seq: int, boot: str) -> list[bytes]:
        """See ChunkStore."""
        kept: list[bytes] = []
        with self._lock:
            for chunk_id in chunk_ids:
                if self._requests.protects(chunk_id, as_of_seq, boot):
                    kept.append(chunk_id)
                else:
                    self._drop(chunk_id)
                    self._requests.forget(chunk_id)
        return kept

    def list_chunks(self, after: bytes, limit: int) -> list[StoredEntry]:
        """See ChunkStore."""
        with self._lock:
            start = self._chunks.bisect_right(after)
            ids = self._chunks.keys()[start : start + limit]
            return [
                StoredEntry(chunk_id, len(self._chunks[chunk_id][0]), damaged=chunk_id in self._bad)
                for chunk_id in ids
            ]

    def usage(self) -> Usage:
        """See ChunkStore."""
        free = max(0, self._capacity_bytes - self._used_bytes)
        return Usage(
            self._capacity_bytes, self._used_bytes, free, len(self._chunks), free < limits.CHUNK_MAX_BYTES
        )

    def maintain(self) -> int:
        """See ChunkStore: memory needs none."""
        return 0

    def close(self) -> None:
        """See ChunkStore."""

    def flip_bit(self, chunk_id: bytes, position: int) -> None:
        """Damage one stored byte, for tests."""
        self._chunks[chunk_id][0][position] ^= 1


class MemoryChunkWriter:
    """Implements ChunkWriter."""

    def __init__(self, store: MemoryChunkStore, chunk_id: bytes, length: int) -> None:
        self._store = store
        self._chunk_id = chunk_id
        self._length = length
        self._data = bytearray()

    def append(self, data: Buffer) -> None:
        """See ChunkWriter."""
        if len(self._data) + len(data) > self._length:
            raise invalid("more bytes than announced")
        self._data += data

    def finish(self, block_checksums: Sequence[int]) -> None:
        """See ChunkWriter."""
        if len(self._data) != self._length:
            raise invalid("fewer bytes than announced")
        check_digest(self._chunk_id, hashlib.sha256(self._data).digest())
        checksums = BlockChecksums()
        checksums.add(self._data)
        if checksums.blocks != list(block_checksums):
            raise invalid("wrong block checksums")
        self._store.keep(self._chunk_id, self._data, block_checksums)

    def abort(self) -> None:
        """See ChunkWriter."""
        self._data = bytearray()
