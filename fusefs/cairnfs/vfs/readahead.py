"""Foresees what the readers of one open file want next: forward, backward or in strides (no I/O)."""

from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from cairnfs.base import limits

BLOCK = limits.BLOCK_BYTES
WHOLE_FILE_BYTES = limits.MIB  # a file up to this size is fetched at once
WASTE_FREE_BYTES = 4 * BLOCK  # fetched in vain before the reader is taken for a random one
WINDOW_FACTOR = 2  # a reader is kept ahead of by so many times as much as it has read
STEPS_AHEAD_MAX = 16
DENSE = 4  # a stride of up to so many times the size of a read is read as if it left nothing out


class Range(NamedTuple):
    """File bytes [start, end)."""

    start: int
    end: int


class Foreseen(NamedTuple):
    """What follows from one read: ranges to fetch ahead, and whether whole chunks are worth fetching."""

    whole: bool
    ahead: tuple[Range, ...]


NOTHING = Foreseen(False, ())


@dataclass(slots=True, eq=False)
class Stream:
    """Reads that follow each other. `step` 0: a single one so far; otherwise where the next one starts.

    `fetched` is what was fetched ahead, whether it was read since or not; `size_bytes` that of the last read.
    """

    start: int
    end: int
    step: int = 0
    dense: bool = False  # nothing, or little, is left out between the reads
    consumed_bytes: int = 0
    fetched: Range | None = None

    @property
    def size_bytes(self) -> int:
        """Of the last read."""
        return self.end - self.start

    def continued_by(self, offset: int, end: int) -> bool:
        """Whether a read is the next one."""
        if self.step and offset == self.start + self.step:
            return True
        if self.step and not self.dense:
            return False
        if self.fetched is not None and self.fetched.start <= offset <= self.fetched.end:
            return True  # the kernel's own read-ahead does not keep the order, and not every read is told
        return (offset == self.end and self.step >= 0) or (end == self.start and self.step <= 0)

    def advance(self, offset: int, end: int) -> None:
        """The next read has come."""
        if not self.step:
            self.step = offset - self.start
            self.dense = True
        if not self.dense:
            self.start, self.end = offset, end
        elif self.step > 0:
            self.start, self.end = max(offset, self.start), max(end, self.end)
        else:
            self.start, self.end = min(offset, self.start), min(end, self.end)
        self.consumed_bytes += end - offset

    @property
    def unused_bytes(self) -> int:
        """How much of what was fetched ahead has not been read."""
        if self.fetched is None:
            return 0
        if not self.dense:
            return max(0, self._steps_ahead) * self.size_bytes
        if self.step > 0:
            return max(0, self.fetched.end - max(self.end, self.fetched.start))
        return max(0, min(self.start, self.fetched.end) - self.fetched.start)

    @property
    def _steps_ahead(self) -> int:
        furthest = self.start if self.fetched is None else self.fetched.start
        return (furthest - self.start) // self.step

    # ------------------------------------------------------------------ what comes next

    def ahead(self, window_bytes: int, file_bytes: int) -> tuple[Range, ...]:
        """What to fetch so that `window_bytes` are ahead of the last read; nothing while half of it is."""
        if not self.step:
            return ()
        if not self.dense:
            return self._strides(window_bytes, file_bytes)
        if self.unused_bytes * 2 > window_bytes:
            return ()
        return self._forward(window_bytes, file_bytes) if self.step > 0 else self._backward(window_bytes)

    def _forward(self, window_bytes: int, file_bytes: int) -> tuple[Range, ...]:
        first, start = self.fetched or (self.end, self.end)
        start = max(start, self.end)
        end = min(-(-(self.end + window_bytes) // BLOCK) * BLOCK, file_bytes)
        if end <= start:
            return ()
        self.fetched = Range(first, end)
        return (Range(start, end),)

    def _backward(self, window_bytes: int) -> tuple[Range, ...]:
        end, last = self.fetched or (self.start, self.start)
        end = min(end, self.start)
        start = max(self.start - window_bytes, 0) // BLOCK * BLOCK
        if end <= start:
            return ()
        self.fetched = Range(start, last)
        return (Range(start, end),)

    def _strides(self, window_bytes: int, file_bytes: int) -> tuple[Range, ...]:
        known, count = self._steps_ahead, min(STEPS_AHEAD_MAX, max(1, window_bytes // self.size_bytes))
        if known * 2 > count:
            return ()
        found: list[Range] = []
        for number in range(max(known, 0) + 1, count + 1):
            start = self.start + number * self.step
            if not 0 <= start < file_bytes:
                break
            found.append(Range(start, min(start + self.size_bytes, file_bytes)))
        if found:
            self.fetched = found[-1]
        return tuple(found)


@dataclass(slots=True, eq=False)
class ReadPattern:
    """The streams of one open file.

    When what was fetched in vain exceeds what was read by `WASTE_FREE_BYTES`, nothing is fetched ahead until
    reading has made up for it.
    """

    streams: list[Stream] = field(default_factory=list[Stream])  # the one that was used last comes last
    read_bytes: int = 0
    wasted_bytes: int = 0

    def observe(self, offset: int, size: int, file_bytes: int, window_max_bytes: int) -> Foreseen:
        """One read of `size` bytes (at least 1) at `offset`, all of it before the file's end.

        `window_max_bytes`: the most to have ahead of one stream now.
        """
        self.read_bytes += size
        if file_bytes <= min(WHOLE_FILE_BYTES, window_max_bytes):
            known = bool(self.streams)
            self._stream(offset, offset + size)
            return Foreseen(True, () if known or size == file_bytes else (Range(0, file_bytes),))
        stream = self._stream(offset, offset + size)
        if window_max_bytes < BLOCK or self.wasted_bytes > WASTE_FREE_BYTES + self.read_bytes:
            return NOTHING
        window_bytes = min(window_max_bytes, WINDOW_FACTOR * stream.consumed_bytes)
        return Foreseen(stream.dense, stream.ahead(window_bytes, file_bytes))

    def _stream(self, offset: int, end: int) -> Stream:
        """The stream to which a read belongs, moved on by it."""
        for stream in reversed(self.streams):
            if stream.continued_by(offset, end):
                self.streams.remove(stream)
                stream.advance(offset, end)
                break
        else:
            stream = self._stride(offset, end)
            if len(self.streams) == limits.READ_AHEAD_STREAMS_MAX:
                self.wasted_bytes += self.streams.pop(0).unused_bytes
        self.streams.append(stream)
        return stream

    def _stride(self, offset: int, end: int) -> Stream:
        """A new stream: of two single reads and this one if they are equally far apart, or of this one."""
        singles = [stream for stream in self.streams if not stream.step]
        for first, second in permutations(singles, 2):
            step = second.start - first.start
            if step and second.start + step == offset:
                self.streams.remove(first)
                self.streams.remove(second)
                dense = abs(step) <= DENSE * (end - offset)
                return Stream(offset, end, step, dense, 3 * (end - offset))
        return Stream(offset, end, consumed_bytes=end - offset)
