"""Slots, bells, budgets and gathering."""

from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cairnfs.base.errors import CairnError
from cairnfs.client.grpc_reasons import short_reason
from cairnfs.client.waiting import Bell, ByteBudget, Slot, gather
from cairnfs.rpc.v1 import common_pb2


async def test_a_slot_gives_its_first_value_before_and_after_waiting() -> None:
    slot = Slot[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slot.wait)
        await wait_all_tasks_blocked()
        slot.put(1)
        slot.put(2)
    assert await slot.wait() == 1


async def test_a_slot_outlives_a_cancelled_waiter() -> None:
    slot = Slot[int]()
    with trio.move_on_after(0):
        await slot.wait()
    slot.put(3)
    assert await slot.wait() == 3


async def test_a_slot_raises_its_error() -> None:
    slot = Slot[int]()
    slot.put_error(CairnError(common_pb2.ERROR_CODE_IO))
    with pytest.raises(CairnError):
        await slot.wait()


async def test_a_bell_remembers_one_ring() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with trio.move_on_after(0) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_budget_admits_in_order_and_never_more_than_its_limit() -> None:
    budget = ByteBudget(10)
    held = await budget.acquire(8)
    admitted: list[str] = []

    async def take(name: str, size: int) -> None:
        await budget.acquire(size)
        admitted.append(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "big", 9)
        await wait_all_tasks_blocked()
        nursery.start_soon(take, "small", 1)
        await wait_all_tasks_blocked()
        assert admitted == [], "the small one does not overtake"
        budget.release(held)
    assert sorted(admitted) == ["big", "small"]


async def test_a_cancelled_waiter_leaves_the_budget_intact() -> None:
    budget = ByteBudget(10)
    held = await budget.acquire(10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.acquire, 10)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    budget.release(held)
    assert await budget.acquire(1000) == 10, "more than the limit counts as the limit"


async def test_cancelling_the_first_waiter_lets_the_next_one_in() -> None:
    budget = ByteBudget(10)
    await budget.acquire(8)
    scope = trio.CancelScope()

    async def take_much() -> None:
        with scope:
            await budget.acquire(10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_much)
        await wait_all_tasks_blocked()
        nursery.start_soon(budget.acquire, 2)
        await wait_all_tasks_blocked()
        scope.cancel()


async def test_gather_keeps_order_and_raises_the_first_error_after_all_have_ended() -> None:
    ended: list[int] = []

    async def work(number: int) -> int:
        await trio.lowlevel.checkpoint()
        ended.append(number)
        if number in (1, 2):
            raise CairnError(common_pb2.ERROR_CODE_IO, str(number))
        return number

    assert await gather([lambda: work(0), lambda: work(3)]) == [0, 3]
    with pytest.raises(CairnError, match="1"):
        await gather([partial(work, number) for number in range(4)])
    assert sorted(ended) == [0, 0, 1, 2, 3, 3]
    assert await gather([]) == []


def test_short_reason() -> None:
    long = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: error: Connection refused"
    )
    assert short_reason(long, "x") == "Connection refused"
    assert short_reason("ended as asked", "x") == "ended as asked"
    assert short_reason(None, "UNAVAILABLE") == "UNAVAILABLE"
