"""One `PlanWrite` for many askers: bounds, errors, cancellation."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.planner import Planner
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.client.memory_datanodes import FakeDatanode, PlanningSession


def _spec(number: int) -> pb.ChunkSpec:
    return pb.ChunkSpec(chunk_id=number.to_bytes(32, "big"), length=1)


@pytest.fixture
def session() -> PlanningSession:
    """A session that takes a second for every plan."""
    return PlanningSession({1: FakeDatanode(1)}, delay_s=1)


async def test_more_chunks_than_one_message_holds(
    autojump_clock: MockClock, session: PlanningSession
) -> None:
    specs = [_spec(number) for number in range(limits.PLAN_CHUNKS_MAX + 5)]
    async with trio.open_nursery() as nursery:
        plans = await Planner(session, nursery).plan(specs)
    assert plans.keys() == {spec.chunk_id for spec in specs}
    assert [len(plan.chunks) for plan in session.plans] == [limits.PLAN_CHUNKS_MAX, 5]


async def test_askers_that_exclude_other_nodes_do_not_share(
    autojump_clock: MockClock, session: PlanningSession
) -> None:
    session.datanodes[2] = FakeDatanode(2)
    async with trio.open_nursery() as nursery:
        planner = Planner(session, nursery)
        for number, exclude in enumerate(([], [1], [], [1])):
            nursery.start_soon(planner.plan, [_spec(number)], frozenset(exclude))
    asked = sorted((list(plan.exclude_nodes), len(plan.chunks)) for plan in session.plans)
    assert sum(count for _, count in asked) == 4
    assert {tuple(exclude) for exclude, _ in asked} == {(), (1,)}


async def test_an_error_reaches_everybody_who_shared_the_question(
    autojump_clock: MockClock, session: PlanningSession
) -> None:
    failed: list[int] = []

    async def ask(number: int) -> None:
        with pytest.raises(CairnError):
            await planner.plan([_spec(number)])
        failed.append(number)

    session.plan_errors.extend([common_pb2.ERROR_CODE_NO_SPACE] * 2)
    async with trio.open_nursery() as nursery:
        planner = Planner(session, nursery)
        for number in range(4):
            nursery.start_soon(ask, number)
    assert sorted(failed) == [0, 1, 2, 3]
    assert len(session.plans) == 2


async def test_a_cancelled_asker_does_not_take_the_others_along(
    autojump_clock: MockClock, session: PlanningSession
) -> None:
    answered: list[int] = []
    scope = trio.CancelScope()

    async def ask_and_be_cancelled() -> None:
        with scope:
            await planner.plan([_spec(0)])

    async def ask(number: int) -> None:
        await planner.plan([_spec(number)])
        answered.append(number)

    async with trio.open_nursery() as nursery:
        planner = Planner(session, nursery)
        nursery.start_soon(ask_and_be_cancelled)
        await wait_all_tasks_blocked()
        for number in (1, 2):
            nursery.start_soon(ask, number)
        await wait_all_tasks_blocked()
        scope.cancel()
    assert sorted(answered) == [1, 2]
    assert scope.cancelled_caught


async def test_small_chunks_wait_for_no_plan_when_there_was_one_a_moment_ago(
    autojump_clock: MockClock, session: PlanningSession
) -> None:
    async with trio.open_nursery() as nursery:
        planner = Planner(session, nursery)
        await planner.plan([_spec(0)])
        assert trio.current_time() == 1
        for number in range(1, 50):
            plans = await planner.plan([_spec(number)])
            assert list(plans[_spec(number).chunk_id].nodes) == [1]
            await trio.sleep(0.1)
        assert trio.current_time() < 7
        assert len(session.plans) < 8  # renewed in the background
        session.datanodes[2] = FakeDatanode(2)
        plans = await planner.plan([_spec(0)], frozenset({1}))
        assert list(plans[_spec(0).chunk_id].nodes) == [2]
        plans = await planner.plan([_spec(100)])
        assert list(plans[_spec(100).chunk_id].nodes) == [1, 2]
