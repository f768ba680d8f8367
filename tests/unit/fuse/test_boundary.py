"""The border between handlers and kernel."""

import errno
from typing import NoReturn

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.fuse.boundary import guarded
from cairnfs.fuse.lowlevel import lib, pyfuse3
from cairnfs.fuse.lowlevel.interrupts import UnderWay, under_way
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

    with pytest.raises(pyfuse3.FUSEError) as raised:
        await handler()
    assert raised.value.errno == errno.ETIMEDOUT


async def test_the_end_of_the_mount_answers_eintr() -> None:
    @guarded()
    async def handler() -> None:
        await trio.sleep_forever()

    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await handler()
        assert raised.value.errno == errno.EINTR


async def test_a_watched_handler_leaves_the_current_request_alone() -> None:
    another = UnderWay(trio.CancelScope(), any_signal=False)
    under_way[lib.cairn_current.request] = another
    try:

        @guarded(watched=True)
        async def handler() -> UnderWay:
            return under_way[lib.cairn_current.request]

        assert await handler() is another
        assert under_way[lib.cairn_current.request] is another
    finally:
        del under_way[lib.cairn_current.request]
