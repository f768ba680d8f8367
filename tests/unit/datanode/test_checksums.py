"""Block checksums and frame checksums come out right however the bytes are cut."""

import itertools

import google_crc32c
from hypothesis import given, settings, strategies as st

from cairnfs.base.checksums import block_checksums
from cairnfs.base.limits import CHECKSUM_BLOCK_BYTES
from cairnfs.datanode.store.checksums import BlockChecksums, block_count, block_range

DATA = bytes(range(251)) * 1400  # five blocks and a bit


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(DATA)), max_size=6), st.integers(0, len(DATA)))
def test_any_cut_gives_the_same_blocks(cuts: list[int], end: int) -> None:
    borders = [0, *sorted(cut for cut in cuts if cut < end), end]
    checksums = BlockChecksums()
    for start, stop in itertools.pairwise(borders):
        piece = DATA[start:stop]
        assert checksums.add(memoryview(piece)) == google_crc32c.value(piece)
    assert checksums.blocks == block_checksums(DATA[:end])
    assert len(checksums.blocks) == block_count(end)


@given(st.integers(0, 300_000), st.integers(1, 100_000), st.integers(0, 100_000))
def test_a_block_range_is_the_smallest_that_covers(offset: int, length: int, rest: int) -> None:
    chunk_length = offset + length + rest
    start, end = block_range(offset, length, chunk_length)
    assert start <= offset < start + CHECKSUM_BLOCK_BYTES
    assert offset + length <= end <= chunk_length
    assert start % CHECKSUM_BLOCK_BYTES == 0
    assert end == chunk_length or (
        end % CHECKSUM_BLOCK_BYTES == 0 and end - CHECKSUM_BLOCK_BYTES < offset + length
    )
