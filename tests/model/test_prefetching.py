"""Mounts walk through directories while another one changes them: what is fetched ahead is never stale."""

import random
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common
from tests.doubles.rig import MemoryChunks, Rig, SimKernel

FILES = 40
NAMES = [f"f{number:02d}" for number in range(FILES)]


class SlowChunks(MemoryChunks):
    """Chunks that take a while, so that recalls come while some are on their way."""

    rng = random.Random(0)

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        await trio.sleep(self.rng.random() * 0.02)
        return await super().retrieve(chunk_id, chunk_length, nodes, offset, length)


class Versions:
    """Files whose content is a number that grows; -1 while there is none."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.done = dict.fromkeys(NAMES, -1)  # of the last change that returned
        self.begun = dict.fromkeys(NAMES, -1)  # of the last change that was begun
        self.there: set[str] = set()  # which of them the last changes left
        self.next = 0
        self.over = False

    async def change(self, mount: SimKernel, directory: str) -> None:
        name = self.rng.choice(NAMES)
        path, self.next = f"{directory}/{name}", self.next + 1
        self.begun[name] = self.next
        if name in self.there and self.rng.random() < 0.3:
            await mount.unlink(path)
            self.there.discard(name)
            self.done[name] = self.next
            return
        if self.rng.random() < 0.5:
            other = f"{directory}/new"
            await mount.write(other, 0, b"%08d" % self.next)
            await mount.rename(other, path)
        else:
            await mount.write(path, 0, b"%08d" % self.next)
        self.there.add(name)
        self.done[name] = self.next

    async def look(self, mount: SimKernel, directory: str, name: str) -> None:
        """What is read is at least as new as what was there when the call began."""
        path, least, there = f"{directory}/{name}", self.done[name], name in self.there
        try:
            content = await mount.read(path)
        except CairnError as error:
            if error.code not in (common.ERROR_CODE_NOT_FOUND, common.ERROR_CODE_STALE):
                raise
            content = b""
        if content:
            assert least <= int(content) <= self.begun[name], f"{path}: {content!r} instead of {least}"
        else:  # gone, or made and not yet written
            assert not there or self.begun[name] > least, f"{path} is missing"

    async def walk(self, mount: SimKernel, directory: str) -> None:
        while not self.over:
            order = list(NAMES)
            match self.rng.randrange(4):
                case 0:
                    self.rng.shuffle(order)
                case 1:
                    await mount.listdir(directory)
                case 2:
                    for name in order:
                        await mount.exists(f"{directory}/{name}")
                case _:
                    pass
            for name in order[: self.rng.randrange(FILES)]:
                await self.look(mount, directory, name)
            await trio.sleep(self.rng.random() * 0.5)

    async def settle(self, mount: SimKernel, directory: str) -> None:
        """Nothing changes any more: everything is exactly what the last changes left."""
        assert set(await mount.listdir(directory)) == self.there
        for name in NAMES:
            path = f"{directory}/{name}"
            assert await mount.exists(path) == (name in self.there)
            if name in self.there:
                assert int(await mount.read(path)) == self.done[name]


@pytest.mark.parametrize("seed", range(4))
async def test_walks_see_every_change_that_returned(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        rig.chunks = SlowChunks()
        async with rig.mount() as writer, rig.mount() as one, rig.mount() as two:
            await writer.mkdir("/d")
            versions = Versions(seed)
            async with trio.open_nursery() as walkers:
                for mount in (one, two):
                    walkers.start_soon(versions.walk, mount, "/d")
                for _ in range(150):
                    await versions.change(writer, "/d")
                    await trio.sleep(versions.rng.random() * 0.1)
                versions.over = True
            for mount in (one, two, writer):
                await versions.settle(mount, "/d")
        nursery.cancel_scope.cancel()
