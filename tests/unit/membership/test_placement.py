"""Placement: distinct nodes, racks and hosts apart, nobody excluded, and honest refusals."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, strategies as st

from cairnfs.base.errors import CairnError
from cairnfs.coordinator.membership.space import storable_bytes
from cairnfs.coordinator.placement.capacity import CapacitySelector
from cairnfs.coordinator.placement.first_healthy import FirstHealthySelector
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.placement.registry import load_selector
from cairnfs.coordinator.placement.selector import Candidate, Selector
from cairnfs.rpc.v1 import common_pb2
from tests.unit.membership.nodes import GIB, Members, disk_use

MIB = 1 << 20

candidates = st.lists(
    st.builds(
        Candidate,
        number=st.integers(1, 30),
        host_id=st.sampled_from("abcdef"),
        rack=st.sampled_from(("", "r1", "r2", "r3")),
        free_bytes=st.integers(0, 1 << 40),
        capacity_bytes=st.just(1 << 40),
    ),
    max_size=12,
    unique_by=lambda candidate: candidate.number,
)


@given(candidates, st.integers(0, 5), st.integers(0, 3), st.integers())
@pytest.mark.parametrize("selector", [CapacitySelector(), FirstHealthySelector()])
def test_never_two_replicas_on_a_node_and_no_fewer_than_possible(
    selector: Selector, nodes: list[Candidate], count: int, held_count: int, seed: int
) -> None:
    held, left = nodes[:held_count], nodes[held_count:]
    picked = selector.select(left, count, held, Random(seed))
    assert len({node.number for node in picked}) == len(picked) == min(count, len(left))
    assert set(picked) <= set(left)
    assert picked == selector.select(left, count, held, Random(seed))


@given(candidates, st.integers(1, 4), st.integers())
def test_racks_and_hosts_are_spread_as_far_as_possible(nodes: list[Candidate], count: int, seed: int) -> None:
    apart = [Candidate(n.number, f"host-{n.number}", n.rack, n.free_bytes, n.capacity_bytes) for n in nodes]
    picked = CapacitySelector().select(apart, count, [], Random(seed))
    assert len({node.rack for node in picked}) == min(len(picked), len({node.rack for node in apart}))
    one_rack = [Candidate(n.number, n.host_id, "", n.free_bytes, n.capacity_bytes) for n in nodes]
    picked = CapacitySelector().select(one_rack, count, [], Random(seed))
    assert len({node.host_id for node in picked}) == min(len(picked), len({n.host_id for n in one_rack}))


def test_free_space_decides_how_often_a_node_is_chosen() -> None:
    nodes = [Candidate(n, f"h{n}", "", n * GIB, 10 * GIB) for n in (1, 3)]
    rng = Random(1)
    firsts = Counter(CapacitySelector().select(nodes, 1, [], rng)[0].number for _ in range(4_000))
    assert 2.5 < firsts[3] / firsts[1] < 3.5


def placer(members: Members, selector: str = "capacity") -> Placer:
    """A placer with fixed randomness."""
    return Placer(members.manager, load_selector(selector), Random(3))


def test_held_and_excluded_nodes_are_left_out_and_racks_of_holders_avoided() -> None:
    members = Members()
    for number, rack in ((1, "a"), (2, "a"), (3, "b"), (4, "c")):
        members.join(number, rack=rack)
    for _ in range(20):
        assert placer(members).place(MIB, 1, held=[1], exclude=[3]) == [4]


@pytest.mark.announces_warnings("datanode changed state")
def test_only_healthy_writable_nodes_with_room_are_chosen() -> None:
    members = Members()
    for number in range(1, 7):
        members.join(number)
    members.manager.set_draining(1, True)
    members.beat(2, disk=disk_use(read_only=True))
    members.beat(3, disk=disk_use(MIB - 1))
    members.register(4)  # joining again
    members.pass_time(members.settings.dead_s)
    members.beat(5)
    assert placer(members).place(MIB, 3) == [5]


def test_fewer_nodes_than_replicas_are_used_as_they_are() -> None:
    members = Members(replicas=3)
    members.join(1)
    members.join(2)
    assert sorted(placer(members).place(MIB, 3)) == [1, 2]


def refusal(members: Members, **arguments: list[int]) -> int:
    """The error code that placing a chunk ends with."""
    with pytest.raises(CairnError) as refused:
        placer(members).place(MIB, 2, **arguments)
    return refused.value.code


def test_full_is_no_space_and_absent_is_unavailable() -> None:
    members = Members()
    assert refusal(members) == common_pb2.ERROR_CODE_UNAVAILABLE
    members.join(1)
    assert refusal(members, exclude=[1]) == common_pb2.ERROR_CODE_UNAVAILABLE
    members.beat(1, disk=disk_use(MIB - 1))
    assert refusal(members) == common_pb2.ERROR_CODE_NO_SPACE
    members.beat(1, disk=disk_use(read_only=True))
    assert refusal(members) == common_pb2.ERROR_CODE_NO_SPACE
    members.join(2)
    members.pass_time(members.settings.suspect_s)
    members.beat(1, disk=disk_use(read_only=True))
    assert refusal(members) == common_pb2.ERROR_CODE_UNAVAILABLE  # the other one may come back


def test_nodes_not_heard_since_the_start_are_waited_for() -> None:
    """A restarted coordinator called the cluster full until the first heartbeat."""
    members = Members(replicas=2)
    known = [common_pb2.NodeInfo(node=n, uuid=f"uuid-{n}", address=f"a:{n}") for n in (1, 2)]
    members.manager.restore(known, members.now)
    assert refusal(members) == common_pb2.ERROR_CODE_UNAVAILABLE
    assert not members.manager.low_space()
    members.beat(1, disk=disk_use(GIB))
    assert refusal(members) == common_pb2.ERROR_CODE_UNAVAILABLE  # one replica would be too few
    members.beat(2, disk=disk_use(GIB))
    assert sorted(placer(members).place(MIB, 2)) == [1, 2]


def test_a_burst_spreads_by_debits_which_never_make_the_cluster_full() -> None:
    members = Members()
    members.join(1, free_bytes=10 * MIB)
    members.join(2, free_bytes=10 * MIB)
    chosen = Counter(placer(members).place(4 * MIB, 1)[0] for _ in range(4))
    assert chosen == {1: 2, 2: 2}
    assert placer(members).place(4 * MIB, 1) in ([1], [2])


def test_the_primary_knows_where_the_replicas_are() -> None:
    members = Members()
    members.join(1)
    members.join(2)
    assert placer(members, "first-healthy").place(MIB, 2) == [2, 1]  # 1 has not heard of 2 yet
    members.beat(1, seen_version=members.manager.version)
    assert placer(members, "first-healthy").place(MIB, 2) == [1, 2]


def test_selectors_are_found_by_name() -> None:
    assert isinstance(load_selector("first-healthy"), FirstHealthySelector)
    with pytest.raises(ValueError, match="capacity, first-healthy"):
        load_selector("no-such")


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 3))
def test_storable_is_what_greedy_placement_can_store(sizes: list[int], replicas: int) -> None:
    left = list(sizes)
    copies = min(replicas, len(left))
    stored = 0
    while True:
        fullest_last = sorted(range(len(left)), key=lambda index: left[index], reverse=True)[:copies]
        if left[fullest_last[-1]] == 0:
            break
        for index in fullest_last:
            left[index] -= 1
        stored += 1
    assert storable_bytes(sizes, replicas) == stored
