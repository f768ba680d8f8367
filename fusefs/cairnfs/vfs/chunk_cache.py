"""Chunks held in memory, least recently used first out. Chunks never change, so nothing here goes stale."""

from collections import OrderedDict

Piece = tuple[bytes, int, int]  # of a chunk: its id, an offset in it, a length


class ChunkCache:
    """Chunks, whole or in pieces, and how often parts were wanted of those that are not held."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: what may be held; a chunk being fetched does not count."""
        self.max_bytes = max_bytes
        self._bytes = 0
        self._pieces: OrderedDict[Piece, bytes] = OrderedDict()
        self._misses: dict[bytes, int] = {}

    def get(self, piece: Piece) -> bytes | None:
        """Exactly this piece, if held."""
        data = self._pieces.get(piece)
        if data is not None:
            self._pieces.move_to_end(piece)
        return data

    def __contains__(self, piece: Piece) -> bool:
        return piece in self._pieces

    def put(self, piece: Piece, data: bytes) -> None:
        """Hold a piece, dropping old ones as needed."""
        if piece in self._pieces or len(data) > self.max_bytes:
            return
        self._pieces[piece] = data
        self._bytes += len(data)
        while self._bytes > self.max_bytes:
            _, old = self._pieces.popitem(last=False)
            self._bytes -= len(old)

    def count_miss(self, chunk_id: bytes) -> int:
        """A part of a chunk was wanted that is not held; returns how often so far."""
        if len(self._misses) > 10_000:
            self._misses.clear()
        count = self._misses[chunk_id] = self._misses.get(chunk_id, 0) + 1
        return count
