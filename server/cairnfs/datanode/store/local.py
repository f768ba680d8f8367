"""The chunk store on a local disk: large chunks as files, small ones in packs, the index in memory.

The index is built from the disk at every start. A chunk found corrupt stays in it until it is deleted or
stored again, but no longer counts as stored, so that a good copy replaces it.
"""

import hashlib
import threading
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from sortedcontainers import SortedDict

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.datanode.store.checked import check_digest, check_large, check_range, check_small
from cairnfs.datanode.store.failures import corrupt, not_found
from cairnfs.datanode.store.files import ChunkFile, ChunkFiles, trailer_bytes
from cairnfs.datanode.store.interface import Buffer, ChunkLocation, SmallChunk, StoredEntry, Usage
from cairnfs.datanode.store.packed import PackedChunks, PackPlace
from cairnfs.datanode.store.packs import Pack, record_bytes
from cairnfs.datanode.store.requests import RequestLog
from cairnfs.datanode.store.space import Space
from cairnfs.rpc.v1 import common_pb2

_log = get_logger(__name__)

# A chunk's place: in a pack, or (an int: its length) in a file of its own.
Place = PackPlace | int


def _length(place: Place) -> int:
    return place if isinstance(place, int) else place.length


class LocalChunkStore:
    """Implements ChunkStore below `root`, which its caller has locked."""

    def __init__(
        self,
        root: Path,
        capacity_bytes: int = 0,
        reserve_bytes: int = 0,
        requests: RequestLog | None = None,
    ) -> None:
        """`requests` is shared by the stores of one datanode, whose owner then guards it."""
        self._lock = threading.Lock()
        self._requests = RequestLog() if requests is None else requests
        self._bad: set[bytes] = set()
        self._files = ChunkFiles(root)
        self._packed = PackedChunks(root)
        self._space = Space(root, capacity_bytes, reserve_bytes)
        self._files.prepare()
        places: dict[bytes, Place] = {**self._packed.recover(), **dict(self._files.scan())}
        self._index: SortedDict[bytes, Place] = SortedDict(places)
        self._file_bytes = sum(file_size(place) for place in places.values())

    @property
    def boot(self) -> str:
        """See ChunkStore."""
        return self._requests.boot

    @property
    def seq(self) -> int:
        """See ChunkStore."""
        return self._requests.seq

    @property
    def _used_bytes(self) -> int:
        return self._file_bytes + self._packed.disk_bytes

    def request(self, chunk_id: bytes) -> bool:
        """See ChunkStore."""
        with self._lock:
            self._requests.note(chunk_id)
            return chunk_id in self._index and chunk_id not in self._bad

    def open(self, chunk_id: bytes, length: int, *, keep_in_memory: bool = True) -> "LocalChunkWriter":
        """See ChunkStore."""
        check_large(chunk_id, length)
        self._space.take(length, self._used_bytes)
        try:
            file = self._files.open(chunk_id, length, past_page_cache=not keep_in_memory)
            return LocalChunkWriter(self, file, chunk_id, length)
        except CairnError:
            self._space.give_back(length)
            raise

    def end_write(self, length: int) -> None:
        """A writer ended: the space set aside for it is free, or counted as used."""
        self._space.give_back(length)

    def keep_file(self, file: ChunkFile, chunk_id: bytes, length: int) -> None:
        """Make a sealed file durable under its name, then visible."""
        file.rename()
        file.settle()
        with self._lock:
            self._put(chunk_id, length)

    def store_batch(self, chunks: Sequence[SmallChunk]) -> list[Exception | None]:
        """See ChunkStore."""
        outcomes = [_problem_of(chunk) for chunk in chunks]
        good = [chunk for chunk, problem in zip(chunks, outcomes, strict=True) if problem is None]
        if not good:
            return outcomes
        try:
            self._append(good)
        except CairnError as error:
            return [problem or error for problem in outcomes]
        return outcomes

    def _append(self, chunks: Sequence[SmallChunk]) -> None:
        size = sum(record_bytes(len(chunk.data)) for chunk in chunks)
        with self._space.taken(size, self._used_bytes), self._packed.append_lock:
            places = self._packed.append(chunks)
            with self._lock:
                for chunk, place in zip(chunks, places, strict=True):
                    self._packed.adopt(place)
                    self._put(chunk.chunk_id, place)

    def _put(self, chunk_id: bytes, place: Place) -> None:
        old = self._index.get(chunk_id)
        self._index[chunk_id] = place
        self._bad.discard(chunk_id)
        self._file_bytes += file_size(place) - file_size(old)
        if isinstance(old, PackPlace):
            self._packed.drop(old)

    def length(self, chunk_id: bytes) -> int | None:
        """See ChunkStore."""
        place = self._index.get(chunk_id)
        return None if place is None else _length(place)

    def read(self, chunk_id: bytes, offset: int, length: int) -> tuple[memoryview, int]:
        """See ChunkStore."""
        with self._lock:
            place = self._index.get(chunk_id)
        if place is None:
            raise not_found(chunk_id)
        check_range(offset, length, _length(place))
        try:
            if isinstance(place, PackPlace):
                return place.pack.read(chunk_id, place.position, place.length, offset, length)
            return self._files.read(chunk_id, place, offset, length)
        except CairnError as error:
            if error.code in (common_pb2.ERROR_CODE_CORRUPT, common_pb2.ERROR_CODE_IO):
                self._mark_bad(chunk_id, place)
            raise

    def locate(self, chunk_id: bytes, held_packs: Container[int] = ()) -> ChunkLocation:
        """See ChunkStore."""
        with self._lock:
            place = self._index.get(chunk_id)
            bad = chunk_id in self._bad
        if place is None:
            raise not_found(chunk_id)
        if bad:
            raise corrupt(chunk_id, "it was found damaged")
        try:
            if isinstance(place, int):
                return self._files.locate(chunk_id, place)
            location = place.pack.locate(chunk_id, place.position, place.length)
        except CairnError as error:
            if error.code in (common_pb2.ERROR_CODE_CORRUPT, common_pb2.ERROR_CODE_IO):
                self._mark_bad(chunk_id, place)
            raise
        if place.pack.number in held_packs:
            return location
        return replace(location, descriptor=place.pack.open_for_reading())

    def locate_neighbours(self, chunk_id: bytes) -> list[ChunkLocation]:
        """See ChunkStore."""
        place = self._index.get(chunk_id)
        if not isinstance(place, PackPlace):
            return []
        found = place.pack.locate_around(place.position, place.length)
        with self._lock:
            return [
                location
                for position, location in found
                if position != place.position
                and self._index.get(location.chunk_id) == PackPlace(place.pack, position, location.length)
                and location.chunk_id not in self._bad
            ]

    def _mark_bad(self, chunk_id: bytes, place: Place) -> None:
        with self._lock:
            if self._index.get(chunk_id) == place:
                self._bad.add(chunk_id)

    def verify(self, chunk_id: bytes) -> int:
        """See ChunkStore."""
        place = self._index.get(chunk_id)
        if place is None:
            raise not_found(chunk_id)
        digest = hashlib.sha256()
        length = _length(place)
        for offset in range(0, length, limits.FRAME_MAX_BYTES):
            data, _ = self.read(chunk_id, offset, min(limits.FRAME_MAX_BYTES, length - offset))
            digest.update(data)
        try:
            check_digest(chunk_id, digest.digest())
        except CairnError:
            self._mark_bad(chunk_id, place)
            raise
        return length

    def delete(self, chunk_ids: Sequence[bytes], as_of_seq: int, boot: str) -> list[bytes]:
        """See ChunkStore."""
        kept: list[bytes] = []
        for chunk_id in chunk_ids:
            # Removed under the lock: a request that comes later must find nothing and store it anew.
            with self._lock:
                if self._requests.protects(chunk_id, as_of_seq, boot):
                    kept.append(chunk_id)
                else:
                    self._drop(chunk_id)
        return kept

    def _drop(self, chunk_id: bytes) -> None:
        place = self._index.pop(chunk_id, None)
        self._bad.discard(chunk_id)
        self._requests.forget(chunk_id)
        self._file_bytes -= file_size(place)
        if isinstance(place, PackPlace):
            self._packed.drop(place)
        elif place is not None:
            self._files.remove(chunk_id)

    def list_chunks(self, after: bytes, limit: int) -> list[StoredEntry]:
        """See ChunkStore."""
        with self._lock:
            start = self._index.bisect_right(after)
            ids = self._index.keys()[start : start + limit]
            return [
                StoredEntry(chunk_id, _length(self._index[chunk_id]), damaged=chunk_id in self._bad)
                for chunk_id in ids
            ]

    def usage(self) -> Usage:
        """See ChunkStore."""
        return self._space.usage(self._used_bytes, len(self._index))

    def maintain(self) -> int:
        """See ChunkStore: compacts packs of which most is dead."""
        # Closed to appends first: a record added after the live ones were listed would be lost.
        with self._packed.append_lock, self._lock:
            packs = self._packed.mostly_dead()
        return sum(self._compact(pack) for pack in packs)

    def _compact(self, pack: Pack) -> int:
        size = pack.end
        with self._lock:
            live = [
                (chunk_id, place)
                for chunk_id, place in self._index.items()
                if isinstance(place, PackPlace) and place.pack is pack
            ]
        moved_bytes = 0
        for start in range(0, len(live), 64):
            moved_bytes += self._move(live[start : start + 64])
        with self._lock:
            self._packed.remove(pack)
        _log.info(
            "compacted a pack", pack=pack.number, kept_bytes=moved_bytes, freed_bytes=size - moved_bytes
        )
        return size - moved_bytes

    def _move(self, chunks: Sequence[tuple[bytes, PackPlace]]) -> int:
        moved_bytes = 0
        with self._packed.append_lock:
            places = self._packed.copy([place for _, place in chunks])
        with self._lock:
            for (chunk_id, old), new in zip(chunks, places, strict=True):
                self._packed.adopt(new)
                if self._index.get(chunk_id) == old:
                    self._index[chunk_id] = new
                    moved_bytes += record_bytes(new.length)
                else:  # deleted or stored again while it was copied
                    self._packed.drop(new)
        return moved_bytes

    def close(self) -> None:
        """See ChunkStore."""
        self._packed.close()
        self._index.clear()


def file_size(place: Place | None) -> int:
    """Bytes of a chunk's own file; 0 for a chunk in a pack, or none."""
    return place + trailer_bytes(place) if isinstance(place, int) else 0


def _problem_of(chunk: SmallChunk) -> Exception | None:
    try:
        check_small(chunk)
    except CairnError as error:
        return error
    return None


class LocalChunkWriter:
    """Implements ChunkWriter over a chunk file."""

    def __init__(self, store: LocalChunkStore, file: ChunkFile, chunk_id: bytes, length: int) -> None:
        self._store = store
        self._file = file
        self._chunk_id = chunk_id
        self._length = length
        self._ended = False

    def append(self, data: Buffer) -> None:
        """See ChunkWriter."""
        self._file.append(data)

    def finish(self, block_checksums: Sequence[int]) -> None:
        """See ChunkWriter."""
        try:
            self._file.seal(block_checksums)
            self._store.keep_file(self._file, self._chunk_id, self._length)
        finally:
            self.abort()

    def abort(self) -> None:
        """See ChunkWriter."""
        if not self._ended:
            self._ended = True
            self._file.discard()
            self._store.end_write(self._length)
