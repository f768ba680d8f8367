"""Hidden entries through a mount: found by name, and never listed, made or removed under any lease."""

import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.base.reserved import SNAPSHOTS
from cairnfs.coordinator.namespace.create import create_hidden
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.engine.interface import Operation, Transaction
from cairnfs.rpc.v1 import common_pb2 as common
from tests.doubles.rig import Rig, SimKernel

NAME = SNAPSHOTS.decode()


@asynccontextmanager
async def mounted() -> AsyncIterator[tuple[Rig, SimKernel]]:
    """A mount of a file system in which /d has a hidden directory."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as maker:
            await maker.mkdir("/d")
            directory = await maker.resolve("/d")

        def hide(txn: Transaction) -> None:
            [ino] = reserve_inode_numbers(txn, 1)
            create_hidden(txn, 1, directory, SNAPSHOTS, ino, permissions=0o555, realm=1)

        [made] = rig.engine.commit([Operation(hide)])
        assert made.error is None
        async with rig.mount() as kernel:
            yield rig, kernel
        assert rig.faults() == []
        nursery.cancel_scope.cancel()


async def refused(call: Awaitable[object], code: "common.ErrorCode.ValueType") -> None:
    """The call fails in this way."""
    with pytest.raises(CairnError) as caught:
        await call
    assert common.ErrorCode.Name(caught.value.code) == common.ErrorCode.Name(code)


async def test_a_hidden_entry_is_found_but_not_listed(autojump_clock: trio.testing.MockClock) -> None:
    async with mounted() as (_, kernel):
        for _ in range(2):  # the second time from memory
            assert await kernel.listdir("/d") == []
            assert (await kernel.stat(f"/d/{NAME}")).mode == 0o40555
        assert await kernel.listdir(f"/d/{NAME}") == []
        assert not await kernel.exists(f"/{NAME}")
        await kernel.mkdir("/d/visible")
        assert await kernel.listdir("/d") == ["visible"]
        await kernel.rmdir("/d/visible")


async def test_reserved_names_are_refused_under_a_write_lease_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with mounted() as (_, kernel):
        await kernel.listdir("/d")
        await kernel.mkdir("/new")  # whose WRITE lease comes with it
        for name in ("a", "b", "c"):  # and that on /d after a while
            await kernel.write(f"/d/{name}", 0, b"x")
        await refused(kernel.open(f"/new/{NAME}", os.O_CREAT | os.O_RDWR), common.ERROR_CODE_NOT_PERMITTED)
        for directory in ("/d", "/new"):
            await kernel.write(f"{directory}/file", 0, b"x")
            for call in (
                kernel.mkdir(f"{directory}/{NAME}"),
                kernel.symlink("target", f"{directory}/{NAME}"),
                kernel.link(f"{directory}/file", f"{directory}/{NAME}"),
                kernel.rename(f"{directory}/file", f"{directory}/{NAME}"),
            ):
                await refused(call, common.ERROR_CODE_NOT_PERMITTED)
        assert await kernel.listdir("/new") == ["file"]


async def test_a_directory_with_a_hidden_entry_is_not_removed(autojump_clock: trio.testing.MockClock) -> None:
    async with mounted() as (_, kernel):
        await kernel.listdir("/d")
        await refused(kernel.rmdir(f"/d/{NAME}"), common.ERROR_CODE_NOT_PERMITTED)
        await refused(kernel.rename(f"/d/{NAME}", "/mine"), common.ERROR_CODE_NOT_PERMITTED)
        await refused(kernel.rmdir("/d"), common.ERROR_CODE_NOT_EMPTY)
