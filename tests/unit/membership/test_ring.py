"""The ring of updates: what was missed, or that only a resync can tell."""

import pytest
from hypothesis import given, strategies as st

from cairnfs.coordinator.membership.ring import UpdateRing
from cairnfs.rpc.v1 import common_pb2


def filled(changes: int, size: int = 4, first_version: int = 0) -> UpdateRing:
    """A ring after so many changes; change n is of node n."""
    ring = UpdateRing(size, first_version)
    for number in range(changes):
        ring.append(common_pb2.NodeInfo(node=number))
    return ring


def test_updates_are_numbered_without_gaps() -> None:
    ring = filled(3, first_version=100)
    updates = ring.updates_since(100)
    assert updates is not None
    assert [update.version for update in updates] == [101, 102, 103]
    assert ring.version == 103


def test_nothing_missed_is_an_empty_list() -> None:
    assert filled(3).updates_since(3) == []


@pytest.mark.parametrize(
    "version",
    [0, 1],  # fallen out of the ring
)
def test_an_overflown_ring_asks_for_a_resync(version: int) -> None:
    ring = filled(6)
    assert ring.updates_since(version) is None
    assert ring.updates_since(2) is not None


def test_versions_of_another_incarnation_ask_for_a_resync() -> None:
    ring = filled(2, first_version=1_000)
    assert ring.updates_since(0) is None
    assert ring.updates_since(999) is None
    assert ring.updates_since(1_003) is None


@given(st.integers(0, 20), st.integers(1, 8), st.integers(-3, 25))
def test_what_is_told_is_exactly_what_was_missed(changes: int, size: int, seen: int) -> None:
    updates = filled(changes, size).updates_since(seen)
    if updates is None:
        assert seen < max(0, changes - size) or seen > changes
    else:
        assert [update.version for update in updates] == list(range(seen + 1, changes + 1))
        assert [update.info.node for update in updates] == list(range(seen, changes))


def test_an_empty_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        UpdateRing(0)
