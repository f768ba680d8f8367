"""Files and directories that several mounts change at once: nothing is lost, nothing waits for ever."""

import os
import random

import pytest
import trio
import trio.testing

from tests.doubles.rig import Rig, SimKernel


@pytest.mark.parametrize("seed", range(4))
async def test_two_mounts_write_one_file(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Each writes its own half in small pieces and reads everywhere; both halves are whole at the end."""
    length = 40_000
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            await one.write("/file", 0, bytes(length))

            async def work(mount: SimKernel, half: int) -> None:
                rng = random.Random(seed * 10 + half)
                file = await mount.open("/file", os.O_RDWR)
                start = half * length // 2
                for offset in range(0, length // 2, 500):
                    await file.write(start + offset, bytes([half + 1]) * 500)
                    assert await file.read(start + offset, 500) == bytes([half + 1]) * 500
                    await file.read(rng.randrange(length), 1000)
                    if rng.random() < 0.2:
                        await trio.sleep(rng.random())
                await file.close()

            async with trio.open_nursery() as workers:
                workers.start_soon(work, one, 0)
                workers.start_soon(work, two, 1)
            expected = b"\1" * (length // 2) + b"\2" * (length // 2)
            assert await one.read("/file") == expected
            assert await two.read("/file") == expected
        nursery.cancel_scope.cancel()


async def test_appends_from_two_mounts_lose_no_record(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            await one.write("/log", 0, b"")

            async def work(mount: SimKernel, letter: bytes) -> None:
                file = await mount.open("/log", os.O_WRONLY | os.O_APPEND)
                for _ in range(30):
                    await file.write(0, letter * 100)
                    await trio.sleep(0.01)
                await file.close()

            async with trio.open_nursery() as workers:
                workers.start_soon(work, one, b"a")
                workers.start_soon(work, two, b"b")
            content = await two.read("/log")
            records = [content[index : index + 100] for index in range(0, len(content), 100)]
            assert sorted(records) == [b"a" * 100] * 30 + [b"b" * 100] * 30
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(3))
async def test_two_mounts_change_one_directory(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Creates, renames and removals of both at once; each name ends as its last change left it."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:

            async def work(mount: SimKernel, owner: str) -> None:
                rng = random.Random(f"{seed}{owner}")
                for index in range(40):
                    await mount.write(f"/{owner}{index}", 0, b"x" * index)
                    if index % 3 == 0:
                        await mount.rename(f"/{owner}{index}", f"/{owner}-{index}")
                    elif index % 3 == 1:
                        await mount.unlink(f"/{owner}{index}")
                    await mount.exists(f"/{'ab'[owner == 'a']}{rng.randrange(40)}")

            async with trio.open_nursery() as workers:
                workers.start_soon(work, one, "a")
                workers.start_soon(work, two, "b")
            expected = sorted(
                f"{owner}-{index}" if index % 3 == 0 else f"{owner}{index}"
                for owner in "ab"
                for index in range(40)
                if index % 3 != 1
            )
            assert sorted(await one.listdir("/")) == expected
            assert sorted(await two.listdir("/")) == expected
        nursery.cancel_scope.cancel()
