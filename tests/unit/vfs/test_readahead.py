"""Reading ahead: patterns that are recognized, windows that grow, waste that is bounded."""

import random
from itertools import pairwise

import pytest

from cairnfs.base import limits
from cairnfs.base.limits import GIB, KIB, MIB
from cairnfs.vfs.readahead import BLOCK, NOTHING, WASTE_FREE_BYTES, Foreseen, Range, ReadPattern

FILE = GIB
WINDOW = limits.READ_AHEAD_MAX_BYTES


def read(pattern: ReadPattern, offset: int, size: int = 128 * KIB, file_bytes: int = FILE) -> Foreseen:
    return pattern.observe(offset, size, file_bytes, WINDOW)


def union(ranges: list[Range]) -> int:
    """How many bytes there are in ranges that must not overlap."""
    ordered = sorted(ranges)
    assert all(one.end <= other.start for one, other in pairwise(ordered))
    return sum(each.end - each.start for each in ordered)


def test_the_first_read_of_a_large_file_promises_nothing() -> None:
    assert read(ReadPattern(), 0) == NOTHING


def test_a_small_file_is_fetched_at_once_and_once() -> None:
    pattern = ReadPattern()
    assert pattern.observe(4096, 4096, 500_000, WINDOW) == Foreseen(True, (Range(0, 500_000),))
    assert pattern.observe(8192, 4096, 500_000, WINDOW) == Foreseen(True, ())
    assert ReadPattern().observe(0, 4096, 4096, WINDOW) == Foreseen(True, ())


def test_a_forward_reader_is_kept_ahead_of_by_a_growing_window() -> None:
    pattern, fetched, most = ReadPattern(), list[Range](), 0
    for offset in range(0, 256 * MIB, 128 * KIB):
        foreseen = read(pattern, offset)
        assert foreseen.whole == (offset > 0)
        fetched += foreseen.ahead
        end = max((each.end for each in fetched), default=0)
        assert end - offset <= 2 * (offset + 256 * KIB) + BLOCK
        most = max(most, end - offset)
        if offset >= 64 * MIB:
            assert end - offset >= WINDOW // 2
    assert most <= WINDOW + BLOCK
    assert union(fetched) >= 256 * MIB - 256 * KIB


def test_a_reader_of_whom_not_all_is_told_is_still_the_same() -> None:
    pattern = ReadPattern()
    read(pattern, 0, MIB)
    (ahead,) = read(pattern, MIB, MIB).ahead
    foreseen = read(pattern, ahead.end, MIB)  # all that was fetched was read without a word
    assert foreseen.whole
    assert foreseen.ahead[0].start == ahead.end + MIB


def test_the_window_ends_with_the_file() -> None:
    pattern, size = ReadPattern(), 10 * MIB + 5
    fetched: list[Range] = []
    for offset in range(0, size, MIB):
        fetched += read(pattern, offset, min(MIB, size - offset), size).ahead
    assert max(each.end for each in fetched) == size


def test_a_backward_reader_is_followed() -> None:
    pattern, fetched = ReadPattern(), list[Range]()
    for offset in range(FILE - 256 * KIB, FILE - 64 * MIB, -256 * KIB):
        fetched += read(pattern, offset, 256 * KIB).ahead
    assert union(fetched) >= 64 * MIB - MIB
    assert min(each.start for each in fetched) < FILE - 64 * MIB


def test_a_strided_reader_gets_exactly_its_next_pieces() -> None:
    pattern, fetched = ReadPattern(), list[Range]()
    stride, size = 10 * MIB, 8 * KIB
    for number in range(50):
        foreseen = read(pattern, number * stride, size)
        assert not foreseen.whole
        fetched += foreseen.ahead
    assert len(set(fetched)) == len(fetched)
    assert {Range(number * stride, number * stride + size) for number in range(3, 50)} <= set(fetched)
    assert all(each.start % stride == 0 and each.end - each.start == size for each in fetched)


def test_a_stride_backward_ends_at_the_start_of_the_file() -> None:
    pattern = ReadPattern()
    fetched = [
        each for start in range(60 * MIB, -1, -10 * MIB) for each in read(pattern, start, 4 * KIB).ahead
    ]
    assert {each.start for each in fetched} == {start * MIB for start in (30, 20, 10, 0)}


def test_a_dense_stride_is_read_as_one_piece() -> None:
    pattern = ReadPattern()
    for number in range(3):
        foreseen = read(pattern, number * 512 * KIB, 256 * KIB)
    assert foreseen.whole
    assert foreseen.ahead


@pytest.mark.parametrize("readers", [2, 3, limits.READ_AHEAD_STREAMS_MAX])
def test_interleaved_readers_are_told_apart(readers: int) -> None:
    pattern, fetched = ReadPattern(), list[Range]()
    for step in range(64):
        for reader in range(readers):
            fetched += read(pattern, reader * reader * 100 * MIB + step * MIB, MIB).ahead
    assert union(fetched) >= readers * 63 * MIB
    assert pattern.wasted_bytes == 0


def test_reads_out_of_order_stay_one_stream() -> None:
    pattern = ReadPattern()
    for first in range(0, 64, 2):
        for number in (first + 1, first) if first > 2 else (first, first + 1):
            read(pattern, number * MIB, MIB)
    assert len(pattern.streams) == 1


def test_random_reads_fetch_nothing_ahead() -> None:
    pattern, chooser = ReadPattern(), random.Random(1)
    for _ in range(1000):
        assert read(pattern, chooser.randrange(FILE // 4096) * 4096, 4096) == NOTHING


def test_short_runs_end_reading_ahead_before_much_is_wasted() -> None:
    pattern, chooser = ReadPattern(), random.Random(1)
    fetched = used = 0
    for _ in range(300):
        start = chooser.randrange(FILE // BLOCK - 1) * BLOCK
        for number in range(3):
            fetched += union(list(read(pattern, start + number * 4096, 4096).ahead))
            used += 4096
    assert fetched <= WASTE_FREE_BYTES + used + (limits.READ_AHEAD_STREAMS_MAX + 1) * BLOCK


def test_a_small_memory_allows_no_window() -> None:
    pattern = ReadPattern()
    for offset in range(0, 16 * MIB, MIB):
        assert pattern.observe(offset, MIB, FILE, 2 * MIB) == NOTHING
