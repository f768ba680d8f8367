"""Edits of a file's slices: cuts, overlays, joins, and exact counts, within the bounds of one transaction."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import (
    BLOCK_BYTES,
    EXTENT_BLOCKS_PER_STEP,
    REALM_DEPTH_MAX,
    SLICES_MAX,
    STEP_KEYS_MAX,
    STEP_VALUES_MAX_BYTES,
)
from cairnfs.coordinator import chunk_table, keys
from cairnfs.coordinator.namespace import policies
from cairnfs.coordinator.records import NO_WISH, SLICE_BYTES, BlockSlice, decode_slices, encode_slices
from cairnfs.engine.interface import ReadTransaction, Transaction
from cairnfs.rpc.v1 import common_pb2 as pb

_KEYS_PER_CHUNK: Final = 2  # its record and its entry in the garbage index
_LENGTH: Final = itemgetter(1)  # of a BlockSlice
_CHUNK_ID: Final = itemgetter(3)
_CHUNK: Final = itemgetter(3, 4)  # its name and length
_RESERVED_KEYS: Final = 10 + 2 * REALM_DEPTH_MAX  # the inode, the usage of its realms and the like


def read_block(txn: ReadTransaction, ino: int, block: int) -> list[BlockSlice]:
    """The slices of one block of a file, sorted and disjoint."""
    value = txn.get(keys.extent(ino, block))
    return [] if value is None else decode_slices(value)


def overlapping(slices: Sequence[BlockSlice], start: int, end: int) -> list[BlockSlice]:
    """What of sorted `slices` lies in [start, end), cut to it."""
    low, high = _window(slices, start, end)
    return [one.cut(max(one.offset, start), min(one.end, end)) for one in slices[low:high]]


def _window(slices: Sequence[BlockSlice], start: int, end: int) -> tuple[int, int]:
    low = bisect_right(slices, start, key=_end_of)
    return low, max(low, bisect_left(slices, end, key=_offset_of))


def _end_of(one: BlockSlice) -> int:
    return one.offset + one.length


def _offset_of(one: BlockSlice) -> int:
    return one.offset


class ExtentEditor:
    """Collects edits of one file's blocks, then writes blocks and chunk references at once.

    One transaction holds a limited number of keys and bytes, so every edit says how far it came; what is
    left goes into another step. An editor that has done nothing yet always gets further.
    """

    def __init__(self, txn: Transaction, ino: int) -> None:
        self._txn = txn
        self._ino = ino
        self._blocks: dict[int, list[BlockSlice]] = {}
        self._changed: set[int] = set()
        self._references: Counter[bytes] = Counter()
        self._chunk_lengths: dict[bytes, int] = {}
        self._value_bytes = 0
        self.allocated_delta = 0

    @property
    def most_slices(self) -> int:
        """How many slices there are in the fullest block that was edited."""
        return max(map(len, self._blocks.values()), default=0)

    def replace(self, block: int, start: int, end: int, new: Sequence[BlockSlice]) -> int:
        """Let `new` (sorted, disjoint, inside) be all there is in [start, end) of `block`.

        Returns the offset up to which that is done, `end` or less.
        """
        slices = self._open(block, len(new))
        if slices is None:
            return start
        low, high = _window(slices, start, end)
        reached = self._affordable_end([*slices[low:high], *new], start, end)
        if reached < end:
            new = overlapping(new, start, reached)
        self._splice(block, start, reached, new)
        return reached

    def lay(self, block: int, new: Sequence[BlockSlice]) -> int:
        """Lay `new` (sorted, disjoint) over what there is in `block`, all in one go.

        Returns how many slices are done; that may be none: `replace` does part of one.
        """
        slices = self._open(block, 2 * len(new))
        if slices is None:
            return 0
        low, high = _window(slices, new[0].offset, new[-1].end)
        old = slices[low:high]
        fresh = {one.chunk_id for one in old}.union(one.chunk_id for one in new) - self._references.keys()
        if len(fresh) > self._room_for_chunks():
            return 0
        if low > 0 and new[0].continues(slices[low - 1]):
            low -= 1
            old.insert(0, slices[low])
        if high < len(slices):  # the last one may be continued
            old.append(slices[high])
            high += 1
        pieces = _laid(old, new)
        if pieces != old:
            self._count(old, -1)
            self._count(pieces, 1)
            slices[low:high] = pieces
            self._changed.add(block)
        return len(new)

    def clear_from_end(self, block: int, start: int) -> int:
        """Remove what lies in `block` from `start` on, the last bytes first.

        Returns the offset from which that is done, `start` or more.
        """
        slices = self._open(block, 0)
        if slices is None:
            return BLOCK_BYTES
        reached = self._affordable_start(slices[_window(slices, start, BLOCK_BYTES)[0] :], start)
        self._splice(block, reached, BLOCK_BYTES, [])
        return reached

    def finish(self, now_ns: int, stored: Mapping[bytes, Iterable[int]] | None = None) -> None:
        """Write all but the usage (`allocated_delta`); `stored` names nodes that have just stored a chunk.

        Raises CairnError CHUNK_GONE when a chunk now referenced is neither stored nor known, OVERLOADED when
        a block got more than SLICES_MAX slices.
        """
        if self.most_slices > SLICES_MAX:
            raise CairnError(pb.ERROR_CODE_OVERLOADED, f"a block of inode {self._ino} needs compaction")
        for block in self._changed:
            slices = self._blocks[block]
            if slices:
                self._txn.put(keys.extent(self._ino, block), encode_slices(slices))
            else:
                self._txn.delete(keys.extent(self._ino, block))
        grows = any(count > 0 for count in self._references.values())
        wish = policies.wish_of(self._txn, self._ino) if grows else NO_WISH
        short = False
        for chunk_id, count in self._references.items():
            if count > 0:
                nodes = stored.get(chunk_id, ()) if stored else ()
                length = self._chunk_lengths[chunk_id]
                record = chunk_table.add_references(self._txn, chunk_id, length, nodes, count, wish)
                short |= wish.replicas > len(record.nodes)
            elif count < 0:
                chunk_table.drop_reference(self._txn, chunk_id, now_ns, -count)
        if short:
            policies.note_short(self._txn, self._ino, self._changed)

    # -------------------------------------------------------------- bounds

    def _open(self, block: int, more_slices: int) -> list[BlockSlice] | None:
        slices = self._blocks.get(block)
        if slices is None:
            if self._blocks and self._is_full():
                return None
            slices = self._blocks[block] = read_block(self._txn, self._ino, block)
            self._value_bytes += SLICE_BYTES * len(slices)
        self._value_bytes += SLICE_BYTES * more_slices
        return slices

    def _is_full(self) -> bool:
        return (
            len(self._blocks) >= EXTENT_BLOCKS_PER_STEP
            or self._value_bytes >= STEP_VALUES_MAX_BYTES
            or self._room_for_chunks() < _KEYS_PER_CHUNK
        )

    def _room_for_chunks(self) -> int:
        used = _RESERVED_KEYS + len(self._blocks) + _KEYS_PER_CHUNK * len(self._references)
        return (STEP_KEYS_MAX - used) // _KEYS_PER_CHUNK

    def _affordable_end(self, touched: list[BlockSlice], start: int, end: int) -> int:
        room = self._room_for_chunks()
        if len(touched) <= room:
            return end
        fresh: set[bytes] = set()
        for one in sorted(touched, key=_offset_of):
            if one.chunk_id not in self._references:
                fresh.add(one.chunk_id)
                if len(fresh) > room:
                    return max(start, one.offset)
        return end

    def _affordable_start(self, touched: Sequence[BlockSlice], start: int) -> int:
        room = self._room_for_chunks()
        fresh: set[bytes] = set()
        for one in reversed(touched):
            if one.chunk_id not in self._references:
                fresh.add(one.chunk_id)
                if len(fresh) > room:
                    return one.end
        return start

    # -------------------------------------------------------------- the edit itself

    def _splice(self, block: int, start: int, end: int, new: Sequence[BlockSlice]) -> None:
        slices = self._blocks[block]
        low, high = _window(slices, start, end)
        pieces = list(new)
        if low < high:
            first, last = slices[low], slices[high - 1]
            if first.offset < start:
                pieces.insert(0, first.cut(first.offset, start))
            if last.end > end:
                pieces.append(last.cut(end, last.end))
        if pieces and low > 0 and pieces[0].continues(slices[low - 1]):
            low -= 1
            pieces.insert(0, slices[low])
        if pieces and high < len(slices) and slices[high].continues(pieces[-1]):
            pieces.append(slices[high])
            high += 1
        pieces = _joined(pieces)
        if slices[low:high] != pieces:
            self._count(slices[low:high], -1)
            self._count(pieces, 1)
            slices[low:high] = pieces
            self._changed.add(block)

    def _count(self, slices: Sequence[BlockSlice], sign: int) -> None:
        for chunk_id, count in Counter(map(_CHUNK_ID, slices)).items():
            self._references[chunk_id] += sign * count
        self._chunk_lengths.update(map(_CHUNK, slices))
        self.allocated_delta += sign * sum(map(_LENGTH, slices))


def _laid(old: Sequence[BlockSlice], new: Sequence[BlockSlice]) -> list[BlockSlice]:
    """`new` and what of `old` they leave; both are sorted and disjoint."""
    laid: list[BlockSlice] = []
    at, border = 0, 0  # the first of `old` that may have bytes from `border` on
    for one in new:
        while at < len(old) and old[at].offset < one.offset:
            kept = old[at]
            start, end = max(kept.offset, border), min(kept.end, one.offset)
            if start < end:
                laid.append(kept if end - start == kept.length else kept.cut(start, end))
            if kept.end > one.offset:
                break
            at += 1
        laid.append(one)
        border = one.end
        while at < len(old) and old[at].end <= border:
            at += 1
    for kept in old[at:]:
        laid.append(kept if kept.offset >= border else kept.cut(border, kept.end))
    return _joined(laid)


def _joined(slices: Iterable[BlockSlice]) -> list[BlockSlice]:
    """`slices` with those made one that follow each other in the file and in their chunk."""
    joined: list[BlockSlice] = []
    for one in slices:
        if joined and one.continues(joined[-1]):
            joined[-1] = joined[-1]._replace(length=joined[-1].length + one.length)
        else:
            joined.append(one)
    return joined
