"""Walks through directories and trees: when more is asked for, how much, and when that ends."""

import random

from cairnfs.base import limits
from cairnfs.vfs.allowance import Allowance
from cairnfs.vfs.walks import MISSES_MIN, PAUSE_S, VISITS_MIN, DirectoryWalk, Entry, Page, TreeWalk


def names(first: int, last: int) -> list[Entry]:
    return [Entry(b"%07d" % number, number + 1000, 4096, False) for number in range(first, last)]


def test_an_allowance_grows_with_use_and_ends_without() -> None:
    bytes_ahead = Allowance(first=100, per_ask=2, per_use=3, unused_max=1000)
    assert bytes_ahead.left == 100
    bytes_ahead.fetched = 100
    assert bytes_ahead.left == 0
    bytes_ahead.asked = 10
    assert bytes_ahead.left == 20
    bytes_ahead.used = 100
    assert bytes_ahead.left == 420
    bytes_ahead.used, bytes_ahead.fetched = 10_000, 10_900
    assert bytes_ahead.left == 100


class Directory:
    """A directory of numbered names whose lookups go through a walk, as the prefetcher does it."""

    def __init__(self, entries: int) -> None:
        self.entries = names(0, entries)
        self.walk = DirectoryWalk()
        self.known: set[int] = set()
        self.used: set[int] = set()
        self.misses = self.fetched = 0

    def look_up(self, number: int, now_s: float = 0.0) -> None:
        self.used.add(number + 1000)
        if number in self.known:
            return
        self.misses += 1
        self.walk.missed(b"%07d" % number, now_s)
        self.walk.count_use(self.used.__contains__)
        page = self.walk.page(eager=False)
        self.known.add(number)
        more = False
        while page is not None:
            self._answer(page, more)
            page, more = self.walk.next_page(), True

    def _answer(self, page: Page, more: bool) -> None:
        assert 0 < page.limit <= limits.READDIR_LIMIT_MAX
        behind = self.entries[int(page.after) + 1 if page.after else 0 :]
        found = behind[: page.limit]
        self.fetched += len(found)
        self.walk.listed(page.after, found, end=len(found) == len(behind), epoch=0)
        self.walk.fetched([entry.ino for entry in found], more=more)
        self.known |= {entry.ino - 1000 for entry in found}


def test_looking_up_name_after_name_reads_the_directory_in_pages() -> None:
    directory = Directory(10_000)
    for number in range(10_000):
        directory.look_up(number)
        assert directory.fetched - len(directory.used) <= limits.WALK_UNUSED_ENTRIES_MAX
    assert directory.misses <= 8


def test_every_tenth_name_still_pays() -> None:
    directory = Directory(10_000)
    for number in range(0, 10_000, 10):
        directory.look_up(number)
    assert directory.misses <= 150


def test_a_small_directory_is_read_whatever_the_order() -> None:
    directory = Directory(1_000)
    order = list(range(1_000))
    random.Random(1).shuffle(order)
    for number in order:
        directory.look_up(number)
    assert directory.misses <= 100


def test_random_names_of_a_huge_directory_do_not_read_it_all() -> None:
    directory, chooser = Directory(100_000), random.Random(1)
    for _ in range(5_000):
        directory.look_up(chooser.randrange(100_000))
    assert directory.fetched <= limits.WALK_UNUSED_ENTRIES_MAX * 1.25


def test_single_lookups_ask_for_nothing_more() -> None:
    directory = Directory(1_000)
    for number in range(100):
        directory.look_up(number, now_s=number * (PAUSE_S + 1))
    assert directory.fetched == 0


def test_pages_put_together_are_whole_only_at_one_epoch() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 10), end=False, epoch=3)
    walk.listed(walk.end, names(10, 20), end=True, epoch=3)
    assert (walk.whole, [entry.ino for entry in walk.listing]) == (True, list(range(1000, 1020)))
    walk.listed(b"%07d" % 4, names(5, 8), end=False, epoch=4)
    assert (walk.whole, [entry.ino for entry in walk.listing]) == (False, list(range(1000, 1020)))
    walk.listed(b"", names(0, 10), end=False, epoch=5)
    walk.listed(walk.end, names(10, 20), end=True, epoch=-1)
    assert not walk.whole


def test_a_page_that_does_not_touch_the_listing_begins_a_new_one() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 10), end=False, epoch=0)
    walk.listed(b"%07d" % 50, names(51, 60), end=True, epoch=0)
    assert [entry.ino for entry in walk.listing] == list(range(1051, 1060))
    assert walk.ended
    assert not walk.whole
    assert walk.position(1000) is None
    assert walk.position(1051) == 0


def test_names_that_went_are_not_listed_any_more() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 10), end=True, epoch=0)
    walk.listed(b"%07d" % 2, names(6, 8), end=False, epoch=0)
    assert [entry.ino for entry in walk.listing] == [1000, 1001, 1002, 1006, 1007, 1008, 1009]
    walk.listed(b"%07d" % 6, [], end=True, epoch=0)
    assert [entry.ino for entry in walk.listing] == [1000, 1001, 1002, 1006]


def test_a_listing_is_remembered_in_part() -> None:
    walk = DirectoryWalk()
    for first in range(0, 2 * limits.WALK_LISTING_MAX, 1000):
        walk.listed(walk.end, names(first, first + 1000), end=False, epoch=0)
    assert len(walk.listing) <= limits.WALK_LISTING_MAX
    assert walk.listing[0].name > walk.after
    assert not walk.whole


def read_all(walk: DirectoryWalk, inodes: list[int]) -> tuple[int, int]:
    """Read files one after another; returns how many were cold, and the most that lay unused."""
    cold, most = 0, 0
    for ino in inodes:
        if ino in walk.expected:
            walk.read_expected(ino, 0.0)
        else:
            cold += 1
            walk.read_cold(ino, 4096, 0.0)
        if walk.wants_contents:
            left = walk.contents.left
            for entry in walk.files_behind(walk.position(ino) or 0):
                left -= entry.small_bytes
                if left < 0:
                    break
                walk.take(entry)
        most = max(most, walk.unused_bytes(0.0))
    return cold, most


def test_reading_file_after_file_fetches_those_that_follow() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 4_000), end=True, epoch=0)
    cold, most = read_all(walk, list(range(1000, 5_000)))
    assert cold == MISSES_MIN
    assert most <= limits.PREFETCH_UNUSED_MAX_BYTES


def test_reading_in_any_order_comes_to_the_same() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 2_000), end=True, epoch=0)
    order = list(range(1000, 3000))
    random.Random(1).shuffle(order)
    cold, most = read_all(walk, order)
    assert cold <= 500
    assert most <= limits.PREFETCH_UNUSED_MAX_BYTES


def test_files_fetched_in_vain_are_few() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 10_000), end=True, epoch=0)
    for ino in range(10_999, 10_979, -1):
        walk.read_cold(ino, 4096, 0.0)
        if walk.wants_contents:
            left = walk.contents.left
            for entry in walk.files_behind(0):
                left -= entry.small_bytes
                if left < 0:
                    break
                walk.take(entry)
    assert walk.unused_bytes(0.0) <= limits.PREFETCH_FIRST_BYTES + 4 * 20 * 4096
    assert walk.unused_bytes(PAUSE_S + 1) == 0


def test_a_directory_whose_files_are_all_fetched_wants_no_more_until_its_listing_changes() -> None:
    walk = DirectoryWalk()
    walk.listed(b"", names(0, 10), end=True, epoch=0)
    for entry in walk.listing:
        walk.read_cold(entry.ino, 4096, 0.0)
    assert (walk.wants_contents, next(walk.files_behind(-1), None)) == (True, None)
    walk.exhausted = True
    wanted = [walk.wants_contents]
    walk.listed(b"%07d" % 9, names(10, 12), end=True, epoch=0)
    assert [*wanted, walk.wants_contents] == [False, True]
    assert [entry.ino for entry in walk.files_behind(9)] == [1010, 1011]


def test_what_could_not_be_fetched_is_not_counted() -> None:
    walk = DirectoryWalk()
    [entry] = names(0, 1)
    walk.take(entry)
    walk.give_up(entry.ino)
    assert walk.contents.fetched == 0
    assert not walk.expected


def test_visiting_directories_makes_a_walk_and_a_pause_ends_it() -> None:
    tree = TreeWalk()
    for ino in range(VISITS_MIN):
        assert not tree.walking(0.0)
        tree.visited(ino + 1, 0.0, cold=True)
    assert tree.walking(0.0)
    left = tree.directories.left
    for ino in range(100, 100 + left):
        tree.take(ino)
    assert tree.directories.left == 0
    tree.visited(100, 0.0, cold=False)
    assert tree.directories.used == 1
    assert tree.directories.left > 0
    assert not tree.walking(PAUSE_S + 1)


def test_looking_at_one_directory_again_and_again_is_no_walk() -> None:
    tree = TreeWalk()
    for _ in range(10):
        tree.visited(7, 0.0, cold=True)
    assert not tree.walking(0.0)
