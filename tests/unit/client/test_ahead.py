"""Plans made ahead: for small chunks, for a while, never with nodes that failed."""

from cairnfs.base import limits
from cairnfs.client.ahead import PlansAhead
from cairnfs.rpc.v1 import metadata_pb2 as pb


def spec(number: int, length: int = 100) -> pb.ChunkSpec:
    return pb.ChunkSpec(chunk_id=number.to_bytes(32, "big"), length=length)


def plan(*nodes: int) -> pb.ChunkPlan:
    return pb.ChunkPlan(chunk_id=bytes(32), nodes=nodes, ticket=b"t")


def test_small_chunks_go_where_the_last_ones_went_in_turn() -> None:
    ahead = PlansAhead()
    assert ahead.take([spec(1)], 0.0) is None
    ahead.learn([plan(1, 2), plan(2, 3), plan(1, 2)], 0.0)
    plans = ahead.take([spec(1), spec(2), spec(3)], 0.1)
    assert plans is not None
    assert [list(plans[spec(n).chunk_id].nodes) for n in (1, 2, 3)] == [[1, 2], [2, 3], [1, 2]]
    assert plans[spec(1).chunk_id].chunk_id == spec(1).chunk_id
    assert plans[spec(1).chunk_id].ticket == b"t"


def test_large_chunks_are_always_planned() -> None:
    ahead = PlansAhead()
    ahead.learn([plan(1, 2)], 0.0)
    assert ahead.take([spec(1), spec(2, limits.PACK_CHUNK_MAX_BYTES + 1)], 0.0) is None


def test_a_chunk_that_is_stored_already_teaches_no_nodes() -> None:
    ahead = PlansAhead()
    ahead.learn([pb.ChunkPlan(chunk_id=bytes(32), stored=True)], 0.0)
    assert ahead.take([spec(1)], 0.0) is None


def test_placements_end_with_time_and_with_use() -> None:
    ahead = PlansAhead()
    ahead.learn([plan(1, 2)], 0.0)
    assert not ahead.wants_more(0.0)
    assert ahead.wants_more(limits.PLAN_REUSE_S / 2)
    assert ahead.take([spec(1)], limits.PLAN_REUSE_S) is None
    ahead.learn([plan(1, 2)], 10.0)
    for number in range(limits.PLAN_REUSES_MAX):
        assert ahead.wants_more(10.0) == (number >= limits.PLAN_REUSES_MAX // 2)
        assert ahead.take([spec(number)], 10.0) is not None
    assert ahead.take([spec(0)], 10.0) is None


def test_a_chunk_that_comes_again_is_asked_for() -> None:
    ahead = PlansAhead()
    ahead.learn([plan(1, 2)], 0.0)
    assert ahead.take([spec(1)], 0.0) is not None
    assert ahead.take([spec(2), spec(1)], 0.0) is None
    for number in range(10, 10 + limits.PLANS_REMEMBERED_MAX):
        ahead.learn([plan(number, 2)], 0.0)
        assert ahead.take([spec(number)], 0.0) is not None
    assert ahead.take([spec(1)], 0.0) is not None


def test_nodes_that_failed_are_not_named_again() -> None:
    ahead = PlansAhead()
    ahead.learn([plan(1, 2), plan(2, 3), plan(1, 3)], 0.0)
    ahead.forget(frozenset({2}))
    plans = ahead.take([spec(1), spec(2)], 0.0)
    assert plans is not None
    assert {tuple(each.nodes) for each in plans.values()} == {(1, 3)}
