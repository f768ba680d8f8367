"""Whom to ask first, and how long to wait."""

from cairnfs.base import limits
from cairnfs.base.clock import ManualClock
from cairnfs.client.node_ranking import NodeRanking
from cairnfs.rpc.v1 import common_pb2

_INFOS = {
    1: common_pb2.NodeInfo(node=1, host_id="far", state=common_pb2.NODE_STATE_HEALTHY),
    2: common_pb2.NodeInfo(node=2, host_id="here", state=common_pb2.NODE_STATE_HEALTHY),
    3: common_pb2.NodeInfo(node=3, host_id="far", state=common_pb2.NODE_STATE_DRAINING),
    4: common_pb2.NodeInfo(node=4, host_id="here", state=common_pb2.NODE_STATE_DEAD),
    5: common_pb2.NodeInfo(node=5, host_id="far", state=common_pb2.NODE_STATE_HEALTHY),
}


def _ranking(clock: ManualClock) -> NodeRanking:
    return NodeRanking(_INFOS.get, "here", clock.monotonic)


def _order(ranking: NodeRanking, *numbers: int) -> list[int]:
    return [info.node for info in ranking.order(numbers)]


def test_this_host_then_healthy_then_the_rest() -> None:
    assert _order(_ranking(ManualClock()), 4, 3, 1, 2, 99, 2) == [2, 1, 3, 4]


def test_equal_nodes_share_the_load() -> None:
    ranking = _ranking(ManualClock())
    assert {_order(ranking, 1, 5)[0] for _ in range(100)} == {1, 5}


def test_a_failure_counts_for_a_while() -> None:
    clock = ManualClock()
    ranking = _ranking(clock)
    ranking.failed(2)
    assert _order(ranking, 1, 2, 3) == [1, 3, 2]
    clock.advance(limits.NODE_PENALTY_S)
    assert _order(ranking, 1, 2, 3) == [2, 1, 3]
    ranking.failed(2)
    ranking.answered(2, 0.01)
    assert _order(ranking, 1, 2, 3) == [2, 1, 3], "an answer forgives"


def test_patience_follows_what_is_usual_within_bounds() -> None:
    ranking = _ranking(ManualClock())
    for _ in range(50):
        ranking.answered(1, 0.0001)
        ranking.answered(2, 0.2)
        ranking.answered(3, 60.0)
    assert ranking.patience_s(1) == limits.HEDGE_MIN_S
    assert 0.7 < ranking.patience_s(2) < 0.9
    assert ranking.patience_s(3) == limits.HEDGE_MAX_S
