"""Recognizes programs that go through a directory or a tree, and says what they will want next (no I/O)."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from cairnfs.base import limits
from cairnfs.vfs.allowance import Allowance

PAUSE_S = 2.0  # longer between two calls of one kind, and a walk begins anew
VISITS_MIN = 3  # directories listed one after another that make a walk
MISSES_MIN = 2  # lookups or cold reads that make a walk
PAGE_MIN_ENTRIES = 64
USEFUL_SHARE = 16  # one entry of so many is used: the next page is worth its price
SAMPLE_ENTRIES = 61  # looked at to tell how much of a page is used; a prime, for those who take every tenth


class Page(NamedTuple):
    """A part of a listing to ask for: up to `limit` entries behind the name `after`."""

    after: bytes
    limit: int


class Entry(NamedTuple):
    """One entry of a listing. `small_bytes` is the size of a small regular file, otherwise 0."""

    name: bytes
    ino: int
    small_bytes: int
    directory: bool


_NAME: Callable[[Entry], bytes] = attrgetter("name")


def _names() -> Allowance:
    """Of entries. One more in a page costs about a thirtieth of a lookup of its own."""
    return Allowance(2 * PAGE_MIN_ENTRIES, 16, 16, limits.WALK_UNUSED_ENTRIES_MAX)


def _contents() -> Allowance:
    """Of bytes of small files."""
    return Allowance(limits.PREFETCH_FIRST_BYTES, 4, 4, limits.PREFETCH_UNUSED_MAX_BYTES)


def _read_directories() -> Allowance:
    """Of directories whose files are fetched because those of others were read."""
    return Allowance(4, 1, 2, limits.WALK_UNUSED_LISTINGS_MAX)


@dataclass(slots=True, eq=False)
class DirectoryWalk:
    """What is being done to one directory: its names are looked up, its small files are read.

    `listing` is one run of entries in the order of their names, as far as it is known. It tells what is
    likely to be asked for; whether an entry may be believed is the business of leases.
    """

    listing: list[Entry] = field(default_factory=list[Entry])
    after: bytes = b""  # the listing begins behind this name
    ended: bool = False  # and goes to the end of the directory
    ahead: list[int] = field(default_factory=list[int])  # inodes of the pages that were fetched ahead last
    epoch: int = -1  # of the directory when the listing began at its start; -1: it is not known to be whole
    paging: bool = False  # a page is on its way because names were looked up
    fetching: bool = False  # files are being fetched
    exhausted: bool = False  # there are no more small files in the listing
    foretold: bool = False  # files are fetched because those of other directories were read; so far in vain
    names: Allowance = field(default_factory=_names)
    contents: Allowance = field(default_factory=_contents)
    cold_reads: int = 0
    recent: deque[bytes] = field(default_factory=lambda: deque[bytes](maxlen=8))  # names that were not known
    expected: dict[int, int] = field(default_factory=dict[int, int])  # fetched, not yet read: bytes by inode
    _used_before: int = 0  # entries of pages before `ahead`
    _fetched_before: int = 0
    _front: int = (
        0  # files at positions before this one were read or taken, or will be when it comes round again
    )
    _taken: set[int] = field(default_factory=set[int])  # inodes that were read, or are being fetched
    _positions: dict[int, int] | None = None
    _ascending: int = 0
    _missed_s: float = float("-inf")
    _read_s: float = float("-inf")

    # ------------------------------------------------------------------ names

    def missed(self, name: bytes, now_s: float) -> None:
        """A name was looked up that was not known."""
        if now_s - self._missed_s > PAUSE_S:
            self.names.reset()
            self.ahead.clear()
            self._ascending = self._used_before = self._fetched_before = 0
            self.recent.clear()
        self._missed_s = now_s
        self.names.asked += 1
        self._ascending = self._ascending + 1 if self.recent and name > self.recent[-1] else 0
        self.recent.append(name)

    def page(self, *, eager: bool) -> Page | None:
        """The page to ask for after a miss, if any; `eager`: the first miss is reason enough."""
        limit = min(self.names.left, limits.READDIR_LIMIT_MAX)
        if self.paging or limit < PAGE_MIN_ENTRIES or not (eager or self.names.asked >= MISSES_MIN):
            return None
        name = self.recent[-1]
        listed = self.listing and self.after <= name and (self.ended or name <= self.end)
        if self._ascending and not listed and not eager:
            return Page(name, limit)
        return Page(b"" if self.after or self.ended else self.end, limit)

    def next_page(self) -> Page | None:
        """The page to ask for as soon as one has arrived: names are looked up in order, and most of them."""
        limit = min(self.names.left, limits.READDIR_LIMIT_MAX)
        in_order = self._ascending and self._used_before * 2 >= self._fetched_before > 0
        return Page(self.end, limit) if in_order and limit >= PAGE_MIN_ENTRIES and not self.ended else None

    def count_use(self, referenced: Callable[[int], bool]) -> None:
        """Find out how much of what was fetched ahead is `referenced`, by a sample."""
        count = len(self.ahead)
        if count:
            sample = range(min(count, SAMPLE_ENTRIES))
            hits = sum(referenced(self.ahead[number * count // len(sample)]) for number in sample)
            used = hits * count // len(sample)
            self.names.used = max(self.names.used, self._used_before + used)

    def fetched(self, inodes: list[int], *, more: bool) -> None:
        """A page that nobody had asked for has arrived; `more`: at once after the one before.

        What was left over of earlier ones is forgiven if enough of them was used.
        """
        self.names.fetched += len(inodes)
        if more:
            self.ahead += inodes
            return
        used = self.names.used - self._used_before
        if used * USEFUL_SHARE >= len(self.ahead):
            self.names.fetched -= len(self.ahead) - used
        self._used_before = self.names.used
        self._fetched_before = self.names.fetched - len(inodes)
        self.ahead = inodes

    @property
    def end(self) -> bytes:
        """The last name of the listing, or the one behind which it begins."""
        return self.listing[-1].name if self.listing else self.after

    @property
    def whole(self) -> bool:
        """Whether the listing is all of the directory at one epoch."""
        return self.ended and self.after == b"" and self.epoch >= 0

    def listed(self, after: bytes, entries: Sequence[Entry], *, end: bool, epoch: int) -> None:
        """A page behind `after` has arrived, which the directory's `epoch` vouches for (-1: nothing does).

        It takes the place of what was known there. A page that does not touch the listing begins a new one.
        """
        self._positions = None
        self._front = 0
        self.exhausted = False
        anew = not self.listing or not self.after <= after <= self.end
        if anew or (after == b"" and epoch != self.epoch):
            self.listing, self.after, self.ended = list(entries), after, end
            self.epoch = epoch if after == b"" else -1
            return
        low = bisect_right(self.listing, after, key=_NAME)
        high = len(self.listing)
        if not end and entries:
            high = bisect_right(self.listing, entries[-1].name, key=_NAME)
        if end or high == len(self.listing):
            self.ended = end
        self.listing[low:high] = entries
        if epoch != self.epoch:
            self.epoch = -1
        if len(self.listing) > limits.WALK_LISTING_MAX:
            self.after = self.listing[limits.WALK_LISTING_MAX // 2 - 1].name
            del self.listing[: limits.WALK_LISTING_MAX // 2]

    # ------------------------------------------------------------------ contents

    def position(self, ino: int) -> int | None:
        """Where in the listing an inode is."""
        if self._positions is None:
            self._positions = {entry.ino: index for index, entry in enumerate(self.listing)}
        return self._positions.get(ino)

    def read_cold(self, ino: int, size_bytes: int, now_s: float) -> None:
        """A small file was read that had to be fetched."""
        self._begin_reading(now_s)
        self.cold_reads += 1
        self.contents.asked += size_bytes
        self._taken.add(ino)

    def expect_reads(self, now_s: float) -> bool:
        """Files of other directories were read one after another: those of this one may be next.

        Returns whether to fetch the first of them now.
        """
        self._begin_reading(now_s)
        if self.contents.fetched or self.cold_reads >= MISSES_MIN:
            return False
        self.cold_reads = MISSES_MIN
        self.foretold = True
        return True

    def _begin_reading(self, now_s: float) -> None:
        if now_s - self._read_s > PAUSE_S:
            self.contents.reset()
            self.cold_reads = 0
            self.expected.clear()
            self._taken.clear()
            self.exhausted = False
        self._read_s = now_s

    def read_expected(self, ino: int, now_s: float) -> None:
        """A file of `expected` was read."""
        size_bytes = self.expected.pop(ino, 0)
        self._read_s = now_s
        self.contents.used += size_bytes

    @property
    def wants_contents(self) -> bool:
        """Whether more files should be fetched now: they are read one after another, and half of what was
        fetched last has been read.
        """
        if self.fetching or self.exhausted:
            return False
        unused = self.contents.fetched - self.contents.used
        return self.cold_reads >= MISSES_MIN and unused * 2 <= self.contents.left

    def files_behind(self, position: int) -> Iterator[Entry]:
        """Small files behind a position and then before it, none that was read or fetched meanwhile."""
        if not position < self._front < len(self.listing):
            self._front = position + 1
        for index in range(self._front, self._front + len(self.listing)):
            if index >= len(self.listing) and not self.ended:
                return  # the next ones are in the next page
            self._front = index
            entry = self.listing[index % len(self.listing)]
            if entry.small_bytes > 0 and entry.ino not in self._taken:
                yield entry

    def take(self, entry: Entry) -> None:
        """An entry's content is being fetched."""
        self._taken.add(entry.ino)
        self.contents.fetched += entry.small_bytes
        self.expected[entry.ino] = entry.small_bytes

    def give_up(self, ino: int) -> None:
        """What was taken could not be fetched."""
        self.contents.fetched -= self.expected.pop(ino, 0)

    def unused_bytes(self, now_s: float) -> int:
        """What was fetched and not yet read, as long as files are being read here."""
        return self.contents.fetched - self.contents.used if now_s - self._read_s <= PAUSE_S else 0


@dataclass(slots=True, eq=False)
class TreeWalk:
    """Which directories a program visits one after another, anywhere in the mount."""

    visits: int = 0
    directories: Allowance = field(
        default_factory=lambda: Allowance(8, 2, 4, limits.WALK_UNUSED_LISTINGS_MAX)
    )
    contents: Allowance = field(default_factory=_read_directories)
    expected: set[int] = field(default_factory=set[int])  # listed ahead, not yet visited
    _visited_s: float = float("-inf")
    _last: int = 0

    def visited(self, ino: int, now_s: float, *, cold: bool) -> None:
        """A program lists this directory, or looks up names in it; `cold`: nothing was known of it."""
        if now_s - self._visited_s > PAUSE_S:
            self.visits = 0
            self.directories.reset()
            self.contents.reset()
            self.expected.clear()
        self._visited_s = now_s
        if ino == self._last:
            return
        self._last = ino
        self.visits += 1
        if ino in self.expected:
            self.expected.discard(ino)
            self.directories.used += 1
        elif cold:
            self.directories.asked += 1

    def walking(self, now_s: float) -> bool:
        """Whether a program is going from directory to directory."""
        return self.visits >= VISITS_MIN and now_s - self._visited_s <= PAUSE_S

    def take(self, ino: int) -> None:
        """A directory is being listed ahead."""
        self.directories.fetched += 1
        self.expected.add(ino)
