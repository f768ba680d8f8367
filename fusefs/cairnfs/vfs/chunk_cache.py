"""Chunks held in memory, least recently used first out. Chunks never change, so nothing here goes stale."""

from collections import OrderedDict

import trio


class ChunkCache:
    """Whole chunks by id, and who is fetching which."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: what may be held; a chunk being fetched does not count."""
        self._max_bytes = max_bytes
        self._bytes = 0
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self.fetching: dict[bytes, trio.Event] = {}
        self.misses: dict[bytes, int] = {}  # partial reads of chunks that are not held

    def get(self, chunk_id: bytes) -> bytes | None:
        """The chunk, if held."""
        data = self._chunks.get(chunk_id)
        if data is not None:
            self._chunks.move_to_end(chunk_id)
        return data

    def __contains__(self, chunk_id: bytes) -> bool:
        return chunk_id in self._chunks

    def put(self, chunk_id: bytes, data: bytes) -> None:
        """Hold a chunk, dropping old ones as needed."""
        if chunk_id in self._chunks or len(data) > self._max_bytes:
            return
        self._chunks[chunk_id] = data
        self._bytes += len(data)
        while self._bytes > self._max_bytes:
            _, old = self._chunks.popitem(last=False)
            self._bytes -= len(old)

    def count_miss(self, chunk_id: bytes) -> int:
        """A part of a chunk was wanted that is not held; returns how often so far."""
        if len(self.misses) > 10_000:
            self.misses.clear()
        count = self.misses[chunk_id] = self.misses.get(chunk_id, 0) + 1
        return count
