"""ExtentMap against a plain array of owners."""

from hypothesis import given, strategies as st

from cairnfs.base.limits import BLOCK_BYTES
from cairnfs.vfs.extents import Extent, ExtentMap


def extent(start: int, length: int, chunk: int) -> Extent:
    return Extent(start, length, bytes([chunk]) * 32, 0, length, (1,))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=12))
def test_newer_extents_cover_older_ones(writes: list[tuple[int, int]]) -> None:
    known = ExtentMap()
    known.learn(0, BLOCK_BYTES, [])
    model: dict[int, tuple[int, int]] = {}
    for chunk, (start, length) in enumerate(writes):
        known.overlay(extent(start, length, chunk))
        for position in range(start, start + length):
            model[position] = (chunk, position - start)
    found = known.within(0, 100)
    assert found == sorted(found)
    seen = {e.start + i: (e.chunk_id[0], e.chunk_offset + i) for e in found for i in range(e.length)}
    assert seen == model


def test_an_unknown_block_stays_unknown_after_a_commit() -> None:
    known = ExtentMap()
    known.overlay(extent(0, 10, 1))
    assert not known.knows(0, 10)
    known.learn(0, BLOCK_BYTES, [extent(0, 10, 1)])
    assert known.knows(0, 10)
    assert not known.knows(0, BLOCK_BYTES + 1)
    known.forget(5, 6)
    assert not known.knows(0, 10)


def test_within_clips_chunk_offsets() -> None:
    known = ExtentMap()
    known.learn(0, BLOCK_BYTES, [extent(10, 20, 7)])
    assert known.within(15, 18) == [Extent(15, 3, bytes([7]) * 32, 5, 20, (1,))]
    assert known.within(0, 10) == []
