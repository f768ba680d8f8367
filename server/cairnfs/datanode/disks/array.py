"""One chunk store over several disks: a chunk lies on one of them, so a disk that fails takes only its own.

A chunk is looked for on every disk, in memory, so there is no second index. New chunks go to a disk drawn
with a chance in proportion to its free space; a chunk that a disk has already goes there again, over the
damaged copy.
"""

import heapq
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.datanode.disks.health import GOOD, READ_ONLY, DiskHealth
from cairnfs.datanode.disks.probe import device_of, probe
from cairnfs.datanode.disks.summary import DiskReport, total_usage
from cairnfs.datanode.store.checked import check_large
from cairnfs.datanode.store.failures import not_found
from cairnfs.datanode.store.interface import (
    Buffer,
    ChunkLocation,
    ChunkStore,
    ChunkWriter,
    SmallChunk,
    StoredEntry,
    Usage,
)
from cairnfs.datanode.store.requests import RequestLog
from cairnfs.rpc.v1 import common_pb2

_log = get_logger(__name__)

OpenStore = Callable[[Path, RequestLog], ChunkStore]
_NO_DISK = CairnError(common_pb2.ERROR_CODE_NO_SPACE, "no disk of this datanode takes chunks")
_NOWHERE = Usage(0, 0, 0, 0, read_only=True)


@dataclass(slots=True)
class _Member:
    """One disk; `store` is None when it could not be opened."""

    index: int
    root: Path
    disk: str
    health: DiskHealth
    store: ChunkStore | None = None
    device: int = 0


class DiskArray:
    """Implements ChunkStore. Locked directories are its caller's."""

    def __init__(
        self,
        disks: Sequence[tuple[Path, str, str]],
        open_store: OpenStore,
        clock: Clock,
        rng: Random,
        changed: Callable[[], None] = lambda: None,
        look: Callable[[Path, int], OSError | None] = probe,
    ) -> None:
        """`disks` are (directory, uuid, why it cannot be used).

        `changed` is called, in any thread, when the state of one changes; `look` probes a directory.
        Raises CairnError INVALID for too many.
        """
        if len(disks) > limits.DISKS_MAX:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, f"more than {limits.DISKS_MAX} data directories")
        self._lock = threading.Lock()
        self._requests = RequestLog()
        self._clock = clock
        self._rng = rng
        self._changed = changed
        self._look = look
        self._members = [
            _Member(index, root, disk, DiskHealth()) for index, (root, disk, _) in enumerate(disks)
        ]
        for member, (_, _, problem) in zip(self._members, disks, strict=True):
            if problem:
                member.health.fail(problem)
            else:
                self._open(member, open_store)

    def _open(self, member: _Member, open_store: OpenStore) -> None:
        try:
            member.device = device_of(member.root)
            member.store = open_store(member.root, self._requests)
        except (OSError, CairnError) as error:
            member.health.fail(str(error))
            _log.error("disk cannot be used", path=str(member.root), detail=str(error))

    # ------------------------------------------------------------------ which disk

    def _readable(self) -> list[tuple[_Member, ChunkStore]]:
        return [(m, m.store) for m in self._members if m.store is not None and m.health.readable]

    def _holders(self, chunk_id: bytes) -> list[tuple[_Member, ChunkStore]]:
        """Disks with the chunk, the one that it stays on first."""
        held = [(m, store) for m, store in self._readable() if store.length(chunk_id) is not None]
        return held if len(held) < 2 else sorted(held, key=lambda pair: not pair[0].health.writable)

    def _holder(self, chunk_id: bytes) -> tuple[_Member, ChunkStore]:
        holders = self._holders(chunk_id)
        if not holders:
            raise not_found(chunk_id)
        return holders[0]

    def _candidates(self, chunk_id: bytes) -> Iterator[tuple[_Member, ChunkStore]]:
        """Disks to try for a new chunk, the best first."""
        left = [(m, store) for m, store in self._readable() if m.health.writable]
        if len(left) > 1:
            for pair in left:
                if pair[1].length(chunk_id) is not None:
                    left.remove(pair)
                    yield pair
                    break
        while len(left) > 1:
            weights = [1 + self._usage(m, store).available_bytes for m, store in left]
            (pair,) = self._rng.choices(left, weights)
            left.remove(pair)
            yield pair
        yield from left

    def _usage(self, member: _Member, store: ChunkStore) -> Usage:
        try:
            with self._watched(member):
                return store.usage()
        except CairnError:
            return _NOWHERE

    @contextmanager
    def _watched(self, member: _Member) -> Iterator[None]:
        """Tell the disk's health of input/output errors of the body."""
        try:
            yield
        except CairnError as error:
            if error.code == common_pb2.ERROR_CODE_IO:
                self._failed(member, error)
            raise
        except OSError as error:
            self._failed(member, error)
            raise CairnError(common_pb2.ERROR_CODE_IO, f"{member.root}: {error}") from error

    def _failed(self, member: _Member, error: Exception) -> None:
        before = member.health.state
        if member.health.error(self._clock.monotonic()):
            self._probe(member)
        self._note_change(member, before, str(error))

    def _note_change(self, member: _Member, before: int, why: str) -> None:
        health = member.health
        if health.state == before:
            return
        if health.state == GOOD:
            _log.info("disk can be written again", path=str(member.root))
        else:
            what = "disk takes no more chunks" if health.state == READ_ONLY else "disk failed"
            _log.error(what, path=str(member.root), detail=health.detail, after=why)
        self._changed()

    def _probe(self, member: _Member) -> None:
        started_s = self._clock.monotonic()
        problem = self._look(member.root, member.device)
        ended_s = self._clock.monotonic()
        if problem is None:
            member.health.stored(ended_s - started_s)
        member.health.probed(problem, ended_s)

    def probe_disks(self) -> None:
        """Look whether every disk can still be written, if it is time."""
        for member, _ in self._readable():
            if member.health.is_probe_due(self._clock.monotonic()):
                before = member.health.state
                self._probe(member)
                self._note_change(member, before, "probe")

    @property
    def store_s(self) -> float:
        """Median time to make something durable on the slowest disk, seconds; 0: not known."""
        return max((m.health.store_s for m, _ in self._readable()), default=0.0)

    def disks(self) -> list[DiskReport]:
        """How every disk is."""
        return [
            DiskReport(
                m.disk,
                str(m.root),
                m.health.state,
                m.health.detail,
                self._usage(m, m.store) if m.store else None,
            )
            for m in self._members
        ]

    # ------------------------------------------------------------------ ChunkStore

    @property
    def boot(self) -> str:
        """See ChunkStore."""
        return self._requests.boot

    @property
    def seq(self) -> int:
        """See ChunkStore."""
        return self._requests.seq

    def request(self, chunk_id: bytes) -> bool:
        """See ChunkStore. On a disk that is to be emptied it does not count as stored."""
        with self._lock:
            holders = self._holders(chunk_id)
            if holders and holders[0][0].health.writable:
                return holders[0][1].request(chunk_id)
            self._requests.note(chunk_id)
            return False

    def open(self, chunk_id: bytes, length: int, *, keep_in_memory: bool = True) -> "DiskArrayWriter":
        """See ChunkStore."""
        check_large(chunk_id, length)
        problem = _NO_DISK
        for member, store in self._candidates(chunk_id):
            try:
                with self._watched(member):
                    writer = store.open(chunk_id, length, keep_in_memory=keep_in_memory)
                return DiskArrayWriter(self, member, writer, chunk_id)
            except CairnError as error:
                problem = error
        raise problem

    def kept(self, member: _Member, chunk_id: bytes, seconds: float) -> None:
        """A chunk is stored on this disk now, made durable in so much time: it stays on no other."""
        member.health.stored(seconds)
        if len(self._members) > 1:
            with self._lock:
                others = [pair for pair in self._holders(chunk_id) if pair[0] is not member]
                self._drop_copies(chunk_id, others)

    def _drop_copies(self, chunk_id: bytes, copies: Sequence[tuple[_Member, ChunkStore]]) -> None:
        for member, store in copies:
            self._drop(member, store, chunk_id)
        if copies:
            self._requests.note(chunk_id)  # with the copies went the count that protects what stays

    def _drop(self, member: _Member, store: ChunkStore, chunk_id: bytes) -> None:
        with suppress(CairnError), self._watched(member):  # a disk that cannot be written forgets it at least
            store.delete([chunk_id], self._requests.seq, self._requests.boot)

    def watched_write(self, member: _Member, write: Callable[[], None]) -> float:
        """Do `write` on this disk; seconds it took."""
        started_s = self._clock.monotonic()
        with self._watched(member):
            write()
        return self._clock.monotonic() - started_s

    def store_batch(self, chunks: Sequence[SmallChunk]) -> list[Exception | None]:
        """See ChunkStore: all go to one disk, with one sync, and what it does not take to others."""
        outcomes: list[Exception | None] = [_NO_DISK] * len(chunks)
        if not chunks:
            return outcomes
        again = [index for index, chunk in enumerate(chunks) if self._lies_elsewhere(chunk.chunk_id)]
        self._store_some(chunks, [index for index in range(len(chunks)) if index not in again], outcomes)
        for index in again:
            self._store_some(chunks, [index], outcomes)
        return outcomes

    def _lies_elsewhere(self, chunk_id: bytes) -> bool:
        return len(self._members) > 1 and bool(self._holders(chunk_id))

    def _store_some(
        self, chunks: Sequence[SmallChunk], wanted: list[int], outcomes: list[Exception | None]
    ) -> None:
        if not wanted:
            return
        for member, store in self._candidates(chunks[wanted[0]].chunk_id):
            batch, started_s = [chunks[index] for index in wanted], self._clock.monotonic()
            results = self._store_batch(member, store, batch)
            seconds = self._clock.monotonic() - started_s
            for index, result in zip(wanted, results, strict=True):
                outcomes[index] = result
                if result is None:
                    self.kept(member, chunks[index].chunk_id, seconds)
            wanted = [index for index in wanted if _is_the_disks_fault(outcomes[index])]
            if not wanted:
                return

    def _store_batch(
        self, member: _Member, store: ChunkStore, batch: Sequence[SmallChunk]
    ) -> list[Exception | None]:
        try:
            with self._watched(member):
                results = store.store_batch(batch)
        except CairnError as error:
            return [error] * len(batch)
        for result in results:
            if isinstance(result, CairnError) and result.code == common_pb2.ERROR_CODE_IO:
                self._failed(member, result)
                break
        return results

    def length(self, chunk_id: bytes) -> int | None:
        """See ChunkStore."""
        for _, store in self._readable():
            length = store.length(chunk_id)
            if length is not None:
                return length
        return None

    def read(self, chunk_id: bytes, offset: int, length: int) -> tuple[memoryview, int]:
        """See ChunkStore."""
        member, store = self._holder(chunk_id)
        with self._watched(member):
            return store.read(chunk_id, offset, length)

    def locate(self, chunk_id: bytes, held_packs: Container[int] = ()) -> ChunkLocation:
        """See ChunkStore."""
        member, store = self._holder(chunk_id)
        with self._watched(member):
            location = store.locate(chunk_id, _HeldOnDisk(held_packs, member.index))
        return _renumbered(location, member.index)

    def locate_neighbours(self, chunk_id: bytes) -> list[ChunkLocation]:
        """See ChunkStore."""
        for member, store in self._holders(chunk_id)[:1]:
            with self._watched(member):
                return [_renumbered(found, member.index) for found in store.locate_neighbours(chunk_id)]
        return []

    def verify(self, chunk_id: bytes) -> int:
        """See ChunkStore."""
        member, store = self._holder(chunk_id)
        with self._watched(member):
            return store.verify(chunk_id)

    def delete(self, chunk_ids: Sequence[bytes], as_of_seq: int, boot: str) -> list[bytes]:
        """See ChunkStore."""
        kept: list[bytes] = []
        for chunk_id in chunk_ids:
            with self._lock:
                if self._requests.protects(chunk_id, as_of_seq, boot):
                    kept.append(chunk_id)
                    continue
                for member, store in self._holders(chunk_id):
                    self._drop(member, store, chunk_id)
        return kept

    def list_chunks(self, after: bytes, limit: int) -> list[StoredEntry]:
        """See ChunkStore. A chunk found on two disks is deleted from one of them."""
        pages = [
            [replace(entry, leaving=not m.health.writable) for entry in store.list_chunks(after, limit)]
            for m, store in self._readable()
        ]
        if len(pages) == 1:
            return pages[0]
        found: list[StoredEntry] = []
        for entry in heapq.merge(*pages, key=lambda entry: (entry.chunk_id, entry.leaving)):
            if found and found[-1].chunk_id == entry.chunk_id:
                self._drop_second(entry.chunk_id)
            elif len(found) < limit:
                found.append(entry)
            else:
                break
        return found

    def _drop_second(self, chunk_id: bytes) -> None:
        with self._lock:
            seconds = [pair for pair in self._holders(chunk_id)[1:] if pair[0].health.writable]
            self._drop_copies(chunk_id, seconds)

    def usage(self) -> Usage:
        """See ChunkStore: the disks together."""
        return total_usage(self.disks())

    def maintain(self) -> int:
        """See ChunkStore."""
        freed = 0
        for member, store in self._readable():
            if member.health.writable:
                with suppress(CairnError), self._watched(member):
                    freed += store.maintain()
        return freed

    def close(self) -> None:
        """See ChunkStore."""
        for member in self._members:
            if member.store is not None:
                member.store.close()


class DiskArrayWriter:
    """Implements ChunkWriter on one of the disks."""

    def __init__(self, array: DiskArray, member: _Member, writer: ChunkWriter, chunk_id: bytes) -> None:
        self._array = array
        self._member = member
        self._writer = writer
        self._chunk_id = chunk_id

    def append(self, data: Buffer) -> None:
        """See ChunkWriter."""
        self._array.watched_write(self._member, lambda: self._writer.append(data))

    def finish(self, block_checksums: Sequence[int]) -> None:
        """See ChunkWriter."""
        seconds = self._array.watched_write(self._member, lambda: self._writer.finish(block_checksums))
        self._array.kept(self._member, self._chunk_id, seconds)

    def abort(self) -> None:
        """See ChunkWriter."""
        with suppress(CairnError):
            self._array.watched_write(self._member, self._writer.abort)


class _HeldOnDisk:
    """The packs of one disk among those held, by its own numbers."""

    def __init__(self, held: Container[int], index: int) -> None:
        self._held = held
        self._index = index

    def __contains__(self, pack: object) -> bool:
        return isinstance(pack, int) and _pack_number(pack, self._index) in self._held


def _pack_number(pack: int, index: int) -> int:
    """A number for a pack of one disk that no pack of another one has."""
    return pack * limits.DISKS_MAX + index


def _renumbered(location: ChunkLocation, index: int) -> ChunkLocation:
    return replace(location, pack=_pack_number(location.pack, index)) if location.pack else location


def _is_the_disks_fault(outcome: Exception | None) -> bool:
    return isinstance(outcome, CairnError) and outcome.code in (
        common_pb2.ERROR_CODE_IO,
        common_pb2.ERROR_CODE_NO_SPACE,
    )
