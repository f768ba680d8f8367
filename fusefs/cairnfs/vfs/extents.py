"""Where the committed bytes of one file are: its slices, by block, as far as they are known."""

from collections.abc import Iterable
from typing import NamedTuple

from cairnfs.base.limits import BLOCK_BYTES
from cairnfs.rpc.v1 import common_pb2


class Extent(NamedTuple):
    """File bytes [start, start + length) are `length` bytes at `chunk_offset` of a chunk."""

    start: int
    length: int
    chunk_id: bytes
    chunk_offset: int
    chunk_length: int
    nodes: tuple[int, ...]

    @property
    def end(self) -> int:
        """The file offset after the last byte."""
        return self.start + self.length

    def clip(self, start: int, end: int) -> "Extent":
        """The part within [start, end), which must overlap."""
        low, high = max(start, self.start), min(end, self.end)
        return self._replace(start=low, length=high - low, chunk_offset=self.chunk_offset + low - self.start)


def from_slice(item: common_pb2.Slice) -> Extent:
    """The extent that a message describes."""
    return Extent(
        item.offset, item.length, item.chunk_id, item.chunk_offset, item.chunk_length, tuple(item.nodes)
    )


class ExtentMap:
    """Known blocks of one file; an unknown block must be asked for, a known empty one is a hole."""

    __slots__ = ("_blocks",)

    def __init__(self) -> None:
        self._blocks: dict[int, list[Extent]] = {}

    def clear(self) -> None:
        """Nothing is known any more."""
        self._blocks.clear()

    def forget(self, start: int, end: int) -> None:
        """Blocks that overlap [start, end) are no longer known."""
        first, last = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        for block in [b for b in self._blocks if first <= b <= last]:
            del self._blocks[block]

    def learn(self, start: int, length: int, extents: Iterable[Extent]) -> None:
        """All of [start, start + length), whole blocks, consists of exactly `extents` and holes."""
        for block in range(start // BLOCK_BYTES, -(-(start + length) // BLOCK_BYTES)):
            self._blocks[block] = []
        for extent in extents:
            self._blocks[extent.start // BLOCK_BYTES].append(extent)

    def overlay(self, extent: Extent) -> None:
        """A commit put `extent` over its block; an unknown block stays unknown."""
        block = extent.start // BLOCK_BYTES
        known = self._blocks.get(block)
        if known is None:
            return
        kept: list[Extent] = []
        for old in known:
            if old.end <= extent.start or old.start >= extent.end:
                kept.append(old)
                continue
            if old.start < extent.start:
                kept.append(old.clip(old.start, extent.start))
            if old.end > extent.end:
                kept.append(old.clip(extent.end, old.end))
        kept.append(extent)
        kept.sort()
        self._blocks[block] = kept

    def knows(self, start: int, end: int) -> bool:
        """Whether every block that overlaps [start, end) is known."""
        blocks = self._blocks
        return all(block in blocks for block in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1))

    def within(self, start: int, end: int) -> list[Extent]:
        """The extents of known blocks, clipped to [start, end), in order."""
        found: list[Extent] = []
        for block in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
            for extent in self._blocks.get(block, ()):
                if extent.start < end and extent.end > start:
                    found.append(extent.clip(start, end))
        return found
