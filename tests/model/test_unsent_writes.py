"""Unsent writes of a mount when the coordinator restarts, or ends its session, while they are being saved."""

import os

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from tests.doubles.rig import Rig, SimKernel

_OLD, _NEW, _NEWER = b"old" * 10, b"new" * 10, b"NEW" * 10


async def _file_of(mount: SimKernel) -> None:
    await mount.write("/file", 0, _OLD)
    file = await mount.open("/file", os.O_RDWR)
    await file.fsync()
    await file.close()


@pytest.mark.announces_warnings("lost the coordinator")
async def test_a_recall_under_way_outlives_the_coordinator(autojump_clock: trio.testing.MockClock) -> None:
    """What a recall waits for when its coordinator dies, the next coordinator waits for, too."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            await _file_of(one)
            file = await one.open("/file", os.O_RDWR)
            await file.write(0, _NEW)
            rig.chunks.delay = lambda: 5.0
            read: list[bytes] = []

            async def reads() -> None:
                read.append(await two.read("/file"))

            async with trio.open_nursery() as reading:
                reading.start_soon(reads)
                await trio.sleep(1.0)
                rig.restart()
            assert read == [_NEW]
            rig.chunks.delay = None
            await file.close()
        assert not rig.faults()
        nursery.cancel_scope.cancel()


@pytest.mark.announces_warnings(
    "lost the coordinator",
    "no contact with a coordinator",
    "unsent writes are lost",
    "session_ended",
    "fenced",
)
async def test_what_was_being_sent_when_the_session_ended_is_not_committed_later(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            await _file_of(one)
            file = await one.open("/file", os.O_RDWR)
            await file.write(0, _NEW)
            rig.chunks.delay = lambda: 60.0
            await trio.sleep(3.0)  # it is being sent
            rig.chunks.delay = None
            await one.connection.partition(25.0)
            await two.write("/file", 0, _NEWER)
            other = await two.open("/file", os.O_RDWR)
            await other.fsync()
            await other.close()
            await trio.sleep(60.0)
            assert await two.read("/file") == _NEWER
            with pytest.raises(CairnError):
                await file.fsync()
            await file.close()
            assert await one.read("/file") == _NEWER
        assert not rig.faults()
        nursery.cancel_scope.cancel()
