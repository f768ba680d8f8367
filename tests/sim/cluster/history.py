"""What simulated programs did and were told, and the judgement whether a file system may have behaved so.

Every page of a file, and every published name, is a register: it is written with values that nobody else
writes, and read. A write that returned counts from then on for everybody. It may be undone only if its mount
was lost, or reported an error for that file, before it was durable; then what it replaced may show again.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Final

INITIAL: Final = b"initial"
ABSENT: Final = b"absent"

Register = tuple[str, int]  # the name of a file, and its page; -1: the name itself


@dataclass(eq=False, slots=True)
class Write:
    """One write of a register. `ended_s` is infinite when nobody knows whether it happened."""

    value: bytes
    begun_s: float
    ended_s: float = inf
    durable: bool = False
    doubtful_from_s: float = inf  # from then on it may be undone, unless it is durable

    def before(self, other: "Write") -> bool:
        """Whether this one had returned before the other began."""
        return self.ended_s < other.begun_s

    def undone_by(self, now_s: float) -> bool:
        """Whether it may be gone."""
        return not self.durable and self.doubtful_from_s <= now_s


@dataclass(frozen=True, slots=True)
class Read:
    """One look at a register."""

    value: bytes
    begun_s: float
    ended_s: float
    reader: str


@dataclass
class _Entry:
    writes: list[Write] = field(default_factory=list[Write])
    reads: list[Read] = field(default_factory=list[Read])


class History:
    """All registers. `check` raises AssertionError for what no correct file system does."""

    def __init__(self) -> None:
        self._entries: defaultdict[Register, _Entry] = defaultdict(_Entry)
        self.writes = 0
        self.reads = 0

    def write(self, register: Register, value: bytes, begun_s: float) -> Write:
        """A write began; set `ended_s` when it has returned well."""
        made = Write(value, begun_s)
        self._entries[register].writes.append(made)
        self.writes += 1
        return made

    def read(self, register: Register, value: bytes, begun_s: float, ended_s: float, reader: str) -> None:
        """A read returned `value`; which mounts were lost by then may only be known later."""
        self.reads += 1
        self._entries[register].reads.append(Read(value, begun_s, ended_s, reader))

    def check(self) -> None:
        """Judge all reads, knowing all that is known at the end, and against each other."""
        for register, entry in self._entries.items():
            for read in entry.reads:
                _judge(register, read, entry)
            _compare(register, entry)


def _sources(entry: _Entry, value: bytes) -> list[Write]:
    found = [write for write in entry.writes if write.value == value]
    if value == INITIAL:
        found.append(Write(INITIAL, -2.0, -1.0))
    return found


def _judge(register: Register, read: Read, entry: _Entry) -> None:
    """A read returns what was written before it ended, and nothing older than what counts for it."""
    sources = [write for write in _sources(entry, read.value) if write.begun_s <= read.ended_s]
    assert sources, f"{register}: {read.reader} read {read.value!r}, which nobody had written"
    newer = [
        write for write in entry.writes if write.ended_s < read.begun_s and not write.undone_by(read.ended_s)
    ]
    missed: Write | None = None
    for source in sources:
        missed = next((write for write in newer if source.before(write)), None)
        if missed is None:
            return
    assert missed is not None
    what = "lost" if missed.durable else "stale"
    raise AssertionError(
        f"{what}: {read.reader} read {read.value!r} of {register} at {read.begun_s:.3f}-{read.ended_s:.3f}, "
        f"but {missed.value!r} was written at {missed.begun_s:.3f}-{missed.ended_s:.3f}"
        f"{' and made durable' if missed.durable else ''}"
    )


def _compare(register: Register, entry: _Entry) -> None:
    """Reads one after another never go back, unless what the first one saw may have been undone."""
    unique = {
        write.value: write
        for write in entry.writes
        if len([other for other in entry.writes if other.value == write.value]) == 1
    }
    reads = sorted(entry.reads, key=lambda read: read.begun_s)
    for position, first in enumerate(reads):
        seen = unique.get(first.value)
        if seen is None:
            continue
        left = False
        for later in reads[position + 1 :]:
            if later.begun_s <= first.ended_s or seen.undone_by(later.ended_s):
                continue
            source = unique.get(later.value)
            if source is None or source is seen:
                assert source is None or not left, (
                    f"resurrected: {later.reader} read {later.value!r} of {register} at {later.begun_s:.3f} "
                    f"again, after something newer had been read"
                )
                continue
            assert not source.before(seen), (
                f"went back: {later.reader} read {later.value!r} of {register} at {later.begun_s:.3f}, after "
                f"{first.reader} had read {first.value!r} at {first.begun_s:.3f}"
            )
            left = left or (
                source.ended_s < inf and not source.undone_by(inf) and later.begun_s > first.ended_s
            )
