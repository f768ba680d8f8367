"""The border between handlers and kernel."""

import errno
from typing import NoReturn

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.fuse.boundary import guarded, guarded_task
from cairnfs.fuse.lowlevel import lib, pyfuse3
from cairnfs.fuse.lowlevel.interrupts import end_overdue, under_way
from cairnfs.fuse.lowlevel.workers import Worker, working
from cairnfs.rpc.v1 import common_pb2


async def outcome(error: BaseException) -> int:
    @guarded()
    async def handler() -> NoReturn:
        raise error

    with pytest.raises(pyfuse3.FUSEError) as raised:
        await handler()
    return raised.value.errno


async def test_a_cairn_error_gives_its_errno() -> None:
    assert await outcome(CairnError(common_pb2.ERROR_CODE_NOT_EMPTY)) == errno.ENOTEMPTY
    wrapped = ExceptionGroup("nursery", [CairnError(common_pb2.ERROR_CODE_QUOTA)])
    assert await outcome(wrapped) == errno.EDQUOT


@pytest.mark.announces_warnings("operation failed", "bug in a handler")
async def test_what_an_operator_should_see_is_logged() -> None:
    assert await outcome(CairnError(common_pb2.ERROR_CODE_CORRUPT)) == errno.EIO
    assert await outcome(ValueError("a bug")) == errno.EIO


async def test_a_fuse_error_passes() -> None:
    assert await outcome(pyfuse3.FUSEError(errno.ENOTTY)) == errno.ENOTTY


@pytest.mark.announces_warnings("exceeded its deadline")
async def test_a_handler_that_hangs_times_out(autojump_clock: trio.testing.MockClock) -> None:
    @guarded(deadline_s=5)
    async def handler() -> None:
        await trio.sleep_forever()

    async def worker() -> None:
        with trio.CancelScope(), working(Worker()) as own, own.scope:
            with pytest.raises(pyfuse3.FUSEError) as raised:
                await handler()
            assert raised.value.errno == errno.ETIMEDOUT

    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker)
        await trio.sleep(4)
        end_overdue()
        assert under_way
        await trio.sleep(2)
        end_overdue()
    assert not under_way


@pytest.mark.announces_warnings("exceeded its deadline")
async def test_a_task_that_hangs_times_out(autojump_clock: trio.testing.MockClock) -> None:
    @guarded_task(deadline_s=5)
    async def handler() -> None:
        await trio.sleep_forever()

    with pytest.raises(pyfuse3.FUSEError) as raised:
        await handler()
    assert raised.value.errno == errno.ETIMEDOUT


async def test_the_end_of_the_mount_answers_eintr() -> None:
    @guarded()
    async def handler() -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as mount, working(Worker()) as own, own.scope:
        mount.cancel()
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await handler()
        assert raised.value.errno == errno.EINTR


async def test_a_handler_that_waits_gives_way_and_keeps_its_scopes() -> None:
    """Values, errors and cancellations pass through the border while a handler waits in its scopes."""

    @guarded()
    async def handler() -> int:
        with trio.move_on_after(0):
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
        assert lib.cairn_current.request in under_way
        return 7

    with working(Worker()) as own, own.scope:
        assert await handler() == 7
    assert not under_way


async def test_a_handler_that_never_waits_is_not_watched() -> None:
    @guarded()
    async def handler() -> int:
        assert not under_way
        return 7

    assert await handler() == 7
