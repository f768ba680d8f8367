"""Where the committed bytes of one file are: its slices, by block, as far as they are known."""

from bisect import bisect_left, bisect_right
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
        low, high = _touched(known, extent.start, extent.end)
        new = [extent]
        if low < high:
            first, last = known[low], known[high - 1]
            if first.start < extent.start:
                new.insert(0, first.clip(first.start, extent.start))
            if last.end > extent.end:
                new.append(last.clip(extent.end, last.end))
        known[low:high] = new

    def knows(self, start: int, end: int) -> bool:
        """Whether every block that overlaps [start, end) is known."""
        blocks = self._blocks
        return all(block in blocks for block in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1))

    def at(self, offset: int) -> Extent | None:
        """The extent of a known block that holds this byte of the file."""
        known = self._blocks.get(offset // BLOCK_BYTES, [])
        low, high = _touched(known, offset, offset + 1)
        return known[low] if low < high else None

    def within(self, start: int, end: int) -> list[Extent]:
        """The extents of known blocks, clipped to [start, end), in order."""
        found: list[Extent] = []
        for block in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
            known = self._blocks.get(block, [])
            low, high = _touched(known, start, end)
            found += known[low:high]
        if found and found[0].start < start:
            found[0] = found[0].clip(start, end)
        if found and found[-1].end > end:
            found[-1] = found[-1].clip(start, end)
        return found


def _touched(known: list[Extent], start: int, end: int) -> tuple[int, int]:
    """Which of `known`, in order, have bytes in [start, end)."""
    low = bisect_right(known, start, key=_end_of)
    return low, max(low, bisect_left(known, end, key=_start_of))


def _start_of(extent: Extent) -> int:
    return extent.start


def _end_of(extent: Extent) -> int:
    return extent.start + extent.length
