"""Descriptors of chunk files of this host, and where in them chunks are: what is held, and for how long.

Chunks never change, so a descriptor yields the right bytes even when its file was deleted or its pack
compacted. It is given up all the same when it gets old, because it keeps disk space from the datanode.
"""

import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cairnfs.base import limits
from cairnfs.base.checksums import block_checksums
from cairnfs.base.limits import CHECKSUM_BLOCK_BYTES
from cairnfs.client.interface import Lender
from cairnfs.rpc.v1 import chunks_pb2, common_pb2


class LocalFile:
    """An open chunk file or pack. Whoever uses it last closes it: it may be dropped while a thread reads."""

    __slots__ = ("_lender", "_loan", "at_once", "chunk_ids", "descriptor", "node", "pack", "received_s")

    def __init__(self, descriptor: int, node: int, pack: int, received_s: float) -> None:
        self.descriptor = descriptor
        self.node = node
        self.pack = pack
        self.received_s = received_s
        self.chunk_ids: set[bytes] = set()
        self.at_once = True  # False: its file system does not tell whether a read would wait for the disk
        self._lender: Lender | None = None
        self._loan = 0

    def lend(self, lender: Lender) -> int:
        """See `interface.ChunkFile`."""
        if not self._loan:
            self._lender, self._loan = lender, lender.lend(self.descriptor)
        return self._loan

    def end_loan(self) -> None:
        """It is given up: nobody else may read it any more."""
        if self._lender is not None:
            self._lender.end_loan(self._loan)
            self._lender, self._loan = None, 0

    def __del__(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class LocalChunk:
    """Where a chunk is."""

    file: LocalFile
    length: int
    position: int
    checksums: Sequence[int]

    def blocks_around(self, offset: int, length: int) -> tuple[int, int]:
        """The whole checksum blocks (start, end) around a range of the chunk."""
        start = offset // CHECKSUM_BLOCK_BYTES * CHECKSUM_BLOCK_BYTES
        end = -(-(offset + length) // CHECKSUM_BLOCK_BYTES) * CHECKSUM_BLOCK_BYTES
        return start, min(end, self.length)

    def intact(self, blocks: bytes | memoryview, start: int) -> bool:
        """Whether whole blocks from `start` on have their checksums."""
        first = start // CHECKSUM_BLOCK_BYTES
        found = block_checksums(blocks)
        return found == list(self.checksums[first : first + len(found)])


def descriptors_max() -> int:
    """LOCAL_FILES_MAX, or a quarter of what this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limits.LOCAL_FILES_MAX if soft < 0 else min(limits.LOCAL_FILES_MAX, soft // 4)


@dataclass(slots=True)
class LocalFiles:
    """What is held, least recently used files first out."""

    clock: Callable[[], float]
    files_max: int = field(default_factory=descriptors_max)
    places_max: int = limits.LOCAL_PLACES_MAX
    _files: OrderedDict[LocalFile, None] = field(default_factory=OrderedDict[LocalFile, None])
    _packs: dict[tuple[int, int], LocalFile] = field(default_factory=dict[tuple[int, int], LocalFile])
    _chunks: dict[bytes, LocalChunk] = field(default_factory=dict[bytes, LocalChunk])

    @property
    def open_files(self) -> int:
        """Descriptors held."""
        return len(self._files)

    @property
    def places(self) -> int:
        """Chunks whose place is known."""
        return len(self._chunks)

    def find(self, chunk_id: bytes) -> LocalChunk | None:
        """Where a chunk is, if that is known and may still be used."""
        chunk = self._chunks.get(chunk_id)
        if chunk is None:
            return None
        if self.clock() - chunk.file.received_s >= limits.LOCAL_FILE_MAX_S:
            self._drop(chunk.file)
            return None
        self._files.move_to_end(chunk.file)
        return chunk

    def packs_of(self, node: int) -> list[int]:
        """Packs of a datanode that are held and need not be sent again."""
        return [pack for holder, pack in self._packs if holder == node]

    def make_room(self, files: int) -> None:
        """Drop the oldest so that `files` more may be held."""
        while self._files and len(self._files) + files > self.files_max:
            self._drop(next(iter(self._files)))

    def take(self, node: int, reply: chunks_pb2.LocateReply, received: Sequence[int]) -> None:
        """Keep what a datanode answered; `received` are its descriptors, which are owned from here on.

        A place whose descriptor did not come, or that makes no sense, is left out.
        """
        now = self.clock()
        files = [LocalFile(descriptor, node, 0, now) for descriptor in received]
        for place in reply.places:
            if place.error != common_pb2.ERROR_CODE_OK or not _plausible(place):
                continue
            file = self._file_of(node, place, files)
            if file is not None:
                self._keep(place, file)
        self.make_room(0)

    def _file_of(self, node: int, place: chunks_pb2.ChunkPlace, files: list[LocalFile]) -> LocalFile | None:
        if place.descriptor == 0:
            return self._packs.get((node, place.pack))
        if place.descriptor > len(files):
            return None
        file = files[place.descriptor - 1]
        if place.pack and file.pack != place.pack:
            file.pack = place.pack
            if (old := self._packs.pop((node, place.pack), None)) is not None:
                self._drop(old)
            self._packs[node, place.pack] = file
        return file

    def _keep(self, place: chunks_pb2.ChunkPlace, file: LocalFile) -> None:
        old = self._chunks.get(place.chunk_id)
        if old is not None and old.file is not file:
            self.forget(place.chunk_id)
        self._files[file] = None
        file.chunk_ids.add(place.chunk_id)
        self._chunks[place.chunk_id] = LocalChunk(
            file, place.length, place.position, tuple(place.block_checksums)
        )
        while len(self._chunks) > self.places_max:
            self._drop(next(iter(self._files)))

    def forget(self, chunk_id: bytes) -> None:
        """Ask anew where this chunk is."""
        chunk = self._chunks.pop(chunk_id, None)
        if chunk is None:
            return
        chunk.file.chunk_ids.discard(chunk_id)
        if not chunk.file.chunk_ids:
            self._drop(chunk.file)

    def _drop(self, file: LocalFile) -> None:
        self._files.pop(file, None)
        file.end_loan()
        if self._packs.get((file.node, file.pack)) is file:
            del self._packs[file.node, file.pack]
        for chunk_id in file.chunk_ids:
            self._chunks.pop(chunk_id, None)
        file.chunk_ids.clear()

    def drop_node(self, node: int) -> None:
        """The connection that these descriptors came by is over: packs are numbered anew."""
        for file in [each for each in self._files if each.node == node]:
            self._drop(file)

    def expire(self) -> None:
        """Drop what is too old; call about once a second."""
        oldest_s = self.clock() - limits.LOCAL_FILE_MAX_S
        for file in [each for each in self._files if each.received_s <= oldest_s]:
            self._drop(file)

    def clear(self) -> None:
        """Drop everything."""
        while self._files:
            self._drop(next(iter(self._files)))


def _plausible(place: chunks_pb2.ChunkPlace) -> bool:
    blocks = -(-place.length // CHECKSUM_BLOCK_BYTES)
    return 0 < place.length <= limits.CHUNK_MAX_BYTES and len(place.block_checksums) == blocks
