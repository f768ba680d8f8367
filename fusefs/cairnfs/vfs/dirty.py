"""Bytes of one file that were written here and are not yet committed; no I/O, no clock."""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from cairnfs.base.limits import BLOCK_BYTES


@dataclass(slots=True)
class Run:
    """Consecutive dirty bytes; `start` is an offset in the file."""

    start: int
    data: bytearray

    @property
    def end(self) -> int:
        """The offset just after the last byte."""
        return self.start + len(self.data)


class Runs:
    """Disjoint, non-adjacent runs of one block, in order; `size_bytes` are held."""

    __slots__ = ("runs", "size_bytes")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.size_bytes = 0

    def write(self, start: int, data: memoryview) -> int:
        """Put `data` at `start`, over what is there; returns by how many bytes the runs grew."""
        runs = self.runs
        if runs and start == runs[-1].end:
            runs[-1].data += data
            grown = len(data)
        else:
            grown = self._put(start, start + len(data), data)
        self.size_bytes += grown
        return grown

    def _put(self, start: int, end: int, data: memoryview) -> int:
        runs = self.runs
        low = bisect_left(runs, start, key=_end_of)
        high = bisect_right(runs, end, key=_start_of)
        if low >= high:
            runs.insert(low, Run(start, bytearray(data)))
            return len(data)
        first, last = runs[low], runs[high - 1]
        before = sum(len(run.data) for run in runs[low:high])
        behind = bytes(memoryview(last.data)[end - last.start :]) if last is not first else b""
        if first.start <= start:
            first.data[start - first.start : end - first.start] = data
        else:
            first.data[: max(0, end - first.start)] = data
            first.start = start
        first.data += behind
        del runs[low + 1 : high]
        return len(first.data) - before

    def cut(self, end: int) -> int:
        """Drop everything from offset `end` on; returns how many bytes went."""
        runs = self.runs
        before = self.size_bytes
        low = bisect_left(runs, end, key=_start_of)
        self.size_bytes -= sum(len(run.data) for run in runs[low:])
        del runs[low:]
        if runs and runs[-1].end > end:
            self.size_bytes -= runs[-1].end - end
            del runs[-1].data[end - runs[-1].start :]
        return before - self.size_bytes

    def within(self, start: int, end: int) -> list[Run]:
        """The runs that have bytes in [start, end)."""
        runs = self.runs
        return runs[bisect_right(runs, start, key=_end_of) : bisect_left(runs, end, key=_start_of)]


def _start_of(run: Run) -> int:
    return run.start


def _end_of(run: Run) -> int:
    return run.start + len(run.data)


@dataclass(frozen=True, slots=True)
class Piece:
    """Dirty bytes that cover part of a read."""

    start: int
    data: bytes


@dataclass(slots=True)
class DirtyFile:
    """Unsent bytes of one file, by block: `unsent` are newest; `sending` are frozen until committed.

    A block is sent again only when its previous sending has ended, so that commits keep the order of writes.
    """

    unsent: dict[int, Runs] = field(default_factory=dict[int, Runs])
    sending: dict[int, Runs] = field(default_factory=dict[int, Runs])
    size_bytes: int = 0  # of both
    since_s: float = 0.0  # when the oldest unsent byte was written
    mtime_ns: int = 0  # of the last write, or as utimensat(2) set it since
    ctime_ns: int = 0  # of the last write

    def __bool__(self) -> bool:
        return bool(self.unsent or self.sending)

    @property
    def end(self) -> int:
        """The offset after the last dirty byte, 0 when clean."""
        layers = (self.unsent, self.sending)
        return max((layer[max(layer)].runs[-1].end for layer in layers if layer), default=0)

    def write(self, offset: int, data: bytes | memoryview, now_s: float, now_ns: int) -> int:
        """Take `data`; returns by how many bytes memory grew."""
        if not self.unsent:
            self.since_s = now_s
        self.mtime_ns = self.ctime_ns = now_ns
        view = memoryview(data)
        grown = 0
        while view:
            block, start = divmod(offset, BLOCK_BYTES)
            part = view[: BLOCK_BYTES - start]
            runs = self.unsent.get(block)
            if runs is None:
                runs = self.unsent[block] = Runs()
            grown += runs.write(offset, part)
            offset += len(part)
            view = view[len(part) :]
        self.size_bytes += grown
        return grown

    def full_blocks(self) -> list[int]:
        """Blocks that are dirty throughout and not being sent."""
        return [
            block
            for block, runs in self.unsent.items()
            if len(runs.runs) == 1 and len(runs.runs[0].data) == BLOCK_BYTES and block not in self.sending
        ]

    def take(self, blocks: list[int]) -> dict[int, Runs]:
        """Freeze `blocks` for sending; those already being sent are left for later."""
        taken: dict[int, Runs] = {}
        for block in blocks:
            if block not in self.sending and block in self.unsent:
                taken[block] = self.sending[block] = self.unsent.pop(block)
        return taken

    def sent(self, blocks: dict[int, Runs]) -> int:
        """`blocks` are committed; returns how many bytes of memory that frees."""
        freed = 0
        for block, runs in blocks.items():
            if self.sending.get(block) is runs:
                del self.sending[block]
                freed += runs.size_bytes
        self.size_bytes -= freed
        return freed

    def failed(self, blocks: dict[int, Runs]) -> int:
        """`blocks` could not be sent: they are unsent again, below newer writes. Returns bytes freed."""
        freed = 0
        for block, runs in blocks.items():
            if self.sending.get(block) is not runs:
                continue
            del self.sending[block]
            newer = self.unsent.get(block)
            self.unsent[block] = runs
            if newer is not None:
                before = runs.size_bytes + newer.size_bytes
                for run in newer.runs:
                    runs.write(run.start, memoryview(run.data))
                freed += before - runs.size_bytes
        self.size_bytes -= freed
        return freed

    def discard(self) -> int:
        """Forget everything that is not being sent; returns bytes freed."""
        freed = sum(runs.size_bytes for runs in self.unsent.values())
        self.unsent.clear()
        self.size_bytes -= freed
        return freed

    def abandon(self) -> int:
        """Forget everything, also what is being sent: it comes to nothing. Returns bytes freed."""
        freed = self.size_bytes
        self.unsent.clear()
        self.sending.clear()
        self.size_bytes = 0
        return freed

    def cut(self, end: int) -> int:
        """Forget unsent bytes from offset `end` on; returns bytes freed."""
        freed = 0
        for block in [b for b in self.unsent if (b + 1) * BLOCK_BYTES > end]:
            runs = self.unsent[block]
            freed += runs.cut(end)
            if not runs.runs:
                del self.unsent[block]
        self.size_bytes -= freed
        return freed

    def pieces(self, start: int, end: int) -> list[Piece]:
        """Dirty bytes within [start, end), older ones first: later pieces win."""
        found: list[Piece] = []
        first, last = start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        for layer in (self.sending, self.unsent):
            if not layer:
                continue
            for block in range(first, last + 1):
                runs = layer.get(block)
                if runs is not None:
                    found.extend(_clip(run, start, end) for run in runs.within(start, end))
        return found


def _clip(run: Run, start: int, end: int) -> Piece:
    low, high = max(start, run.start), min(end, run.end)
    return Piece(low, bytes(memoryview(run.data)[low - run.start : high - run.start]))
