"""The engine that keeps everything in memory: for tests, for the model, and for trying things out."""

import contextlib
import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

from sortedcontainers import SortedDict

from cairnfs.engine.buffered import Changes, Overlay, Pair, run_operations, scan_pages
from cairnfs.engine.interface import EngineError, Operation, Outcome, ReadTransaction, T


class MemoryEngine:
    """An engine whose stable storage is the memory of this process."""

    def __init__(self) -> None:
        self._live = _Live()
        self._lock = threading.Lock()  # held while `_live` or `_snapshots` change, or are read
        self._snapshots: list[_Snapshot] = []
        self._closed = False

    leads_until_s = math.inf  # nobody else can

    def acquire_leadership(self, owner: str, term_s: float) -> int:
        """Nobody else can lead."""
        self._check_open()
        return 1

    def renew_leadership(self) -> None:
        """The term does not end."""
        self._check_open()

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot of the last commit; called from one thread only, never blocks long."""
        with self.snapshot() as view:
            return body(view)

    @contextlib.contextmanager
    def snapshot(self) -> Generator[ReadTransaction]:
        """The last commit, to be read for as long as it takes, in any one thread, beside everything else."""
        self._check_open()
        snapshot = _Snapshot(self._live, self._lock)
        with self._lock:
            self._snapshots.append(snapshot)
        try:
            yield snapshot
        finally:
            with self._lock:
                self._snapshots.remove(snapshot)

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        """Run `operations` in order; their changes appear together."""
        self._check_open()
        outcomes, changes = run_operations(self._live, operations)
        with self._lock:
            for snapshot in self._snapshots:
                snapshot.preserve(changes)
            self._live.apply(changes)
        return outcomes

    def close(self) -> None:
        """Forget everything; idempotent."""
        self._closed = True
        self._live = _Live()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError("the memory engine is closed")


class _Live:
    """The pairs as of the last commit."""

    def __init__(self) -> None:
        self._pairs: SortedDict[bytes, bytes] = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        return self._pairs.get(key)

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        return {key: self._pairs.get(key) for key in wanted}

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Pair]:
        if start >= end:
            return
        keys = self._pairs.irange(start, end, inclusive=(True, False), reverse=reverse)
        for key in islice(keys, limit):
            yield key, self._pairs[key]

    def apply(self, changes: Changes) -> None:
        for key, value in changes.items():
            if value is None:
                self._pairs.pop(key, None)
            else:
                self._pairs[key] = value


class _Snapshot:
    """What was live when a read began: what commits have overwritten since, laid over what is live now."""

    def __init__(self, live: _Live, lock: threading.Lock) -> None:
        self._live = live
        self._lock = lock
        self._view = Overlay(live)

    def preserve(self, changes: Changes) -> None:
        """Keep what `changes` are about to overwrite; the caller holds the lock."""
        self._view.apply({key: self._live.get(key) for key in changes if key not in self._view.changes})

    def get(self, key: bytes) -> bytes | None:
        with self._lock:
            return self._view.get(key)

    def get_many(self, wanted: Iterable[bytes]) -> dict[bytes, bytes | None]:
        with self._lock:
            return self._view.get_many(wanted)

    def scan(
        self, start: bytes, end: bytes, *, limit: int | None = None, reverse: bool = False
    ) -> Iterator[Pair]:
        return scan_pages(self._page, start, end, limit, reverse)

    def _page(self, start: bytes, end: bytes, count: int, reverse: bool) -> list[Pair]:
        with self._lock:
            return list(self._view.scan(start, end, limit=count, reverse=reverse))
