"""Several mounts, one model: every answer is what the last change that returned left, on any mount."""

import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from tests.doubles.rig import Rig, SimKernel

NAMES = ["a", "b", "c", "d"]
DIRECTORIES = ["", "/one", "/two"]


@dataclass
class Model:
    """A tree as a dictionary from path to content (bytes), symlink target (str) or None for a directory."""

    entries: dict[str, bytes | str | None] = field(default_factory=lambda: {"": None})
    modes: dict[str, int] = field(default_factory=dict[str, int])
    xattrs: dict[str, bytes] = field(default_factory=dict[str, bytes])


class Rounds:
    """Random changes on one mount, looked at from another."""

    def __init__(self, mounts: list[SimKernel], seed: int) -> None:
        self.mounts = mounts
        self.rng = random.Random(seed)
        self.model = Model()
        self.log: list[str] = []
        self.changes: list[Callable[[SimKernel, str], Awaitable[bool]]] = [
            self.write,
            self.write,
            self.truncate,
            self.chmod,
            self.rename,
            self.unlink,
            self.symlink,
            self.setxattr,
        ]

    def some_path(self) -> str:
        return self.rng.choice(DIRECTORIES) + "/" + self.rng.choice(NAMES)

    async def run(self, steps: int) -> None:
        for directory in DIRECTORIES[1:]:
            await self.mounts[0].mkdir(directory)
            self.model.entries[directory] = None
        for _ in range(steps):
            mount = self.rng.choice(self.mounts)
            change = self.rng.choice(self.changes)
            path = self.some_path()
            self.log.append(f"{self.mounts.index(mount)} {change.__name__} {path}")
            await change(mount, path)
            await self.check(self.rng.choice(self.mounts), path)
            await self.check(self.rng.choice(self.mounts), self.some_path())
        for mount in self.mounts:
            for directory in DIRECTORIES:
                await self.check_listing(mount, directory)

    async def check(self, mount: SimKernel, path: str) -> None:
        expected = self.model.entries.get(path, "absent")
        context = f"mount {self.mounts.index(mount)} sees {path}; " + " | ".join(self.log[-12:])
        assert await mount.exists(path) == (path in self.model.entries), context
        if isinstance(expected, bytes):
            assert (await mount.stat(path)).size == len(expected), context
            assert await mount.read(path) == expected, context
            assert (await mount.stat(path)).mode & 0o7777 == self.model.modes[path], context
            assert await mount.getxattr(path, "user.x") == self.model.xattrs.get(path), context
        elif path in self.model.entries and isinstance(expected, str):
            assert await mount.readlink(path) == expected, context
        if self.rng.random() < 0.1:
            await self.check_listing(mount, self.rng.choice(DIRECTORIES))

    async def check_listing(self, mount: SimKernel, directory: str) -> None:
        expected = sorted(
            path.rpartition("/")[2]
            for path in self.model.entries
            if path and path.rpartition("/")[0] == directory
        )
        assert sorted(await mount.listdir(directory)) == expected, " | ".join(self.log[-12:])

    # ------------------------------------------------------------------ changes

    async def write(self, mount: SimKernel, path: str) -> bool:
        old = self.model.entries.get(path, b"")
        if not isinstance(old, bytes):
            return False
        offset = self.rng.choice([0, len(old), self.rng.randrange(0, 9000)])
        data = self.rng.randbytes(self.rng.choice([1, 10, 5000]))
        new = bytearray(old.ljust(offset, b"\0"))
        new[offset : offset + len(data)] = data
        file = await mount.open(path, os.O_CREAT | os.O_RDWR)
        await file.write(offset, data)
        if self.rng.random() < 0.2:
            await file.fsync()
        await file.close()
        self.model.entries[path] = bytes(new)
        self.model.modes.setdefault(path, 0o644)
        return True

    async def truncate(self, mount: SimKernel, path: str) -> bool:
        old = self.model.entries.get(path)
        if not isinstance(old, bytes):
            return False
        size = self.rng.choice([0, len(old) // 2, len(old) + 100])
        await mount.truncate(path, size)
        self.model.entries[path] = old[:size].ljust(size, b"\0")
        return True

    async def chmod(self, mount: SimKernel, path: str) -> bool:
        if not isinstance(self.model.entries.get(path), bytes):
            return False
        mode = self.rng.choice([0o600, 0o644, 0o4755])
        await mount.chmod(path, mode)
        self.model.modes[path] = mode
        return True

    async def setxattr(self, mount: SimKernel, path: str) -> bool:
        if not isinstance(self.model.entries.get(path), bytes):
            return False
        value = self.rng.randbytes(4)
        await mount.setxattr(path, "user.x", value)
        self.model.xattrs[path] = value
        return True

    def _move(self, old: str, new: str) -> None:
        self.model.entries[new] = self.model.entries.pop(old)
        tables: tuple[dict[str, Any], ...] = (self.model.modes, self.model.xattrs)
        for table in tables:
            table.pop(new, None)
            if old in table:
                table[new] = table.pop(old)

    async def rename(self, mount: SimKernel, path: str) -> bool:
        target = self.some_path()
        if path not in self.model.entries or target == path:
            return False
        await mount.rename(path, target)
        self._move(path, target)
        return True

    async def unlink(self, mount: SimKernel, path: str) -> bool:
        if path not in self.model.entries:
            with pytest.raises(CairnError):
                await mount.unlink(path)
            return False
        await mount.unlink(path)
        del self.model.entries[path]
        self.model.modes.pop(path, None)
        self.model.xattrs.pop(path, None)
        return True

    async def symlink(self, mount: SimKernel, path: str) -> bool:
        if path in self.model.entries:
            with pytest.raises(CairnError):
                await mount.symlink("x", path)
            return False
        target = f"target-{self.rng.random()}"
        await mount.symlink(target, path)
        self.model.entries[path] = target
        return True


@pytest.mark.parametrize("seed", range(6))
async def test_a_change_that_returned_is_seen_everywhere(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two, rig.mount() as three:
            await Rounds([one, two, three], seed).run(400)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", range(2))
async def test_the_same_while_connections_break(
    seed: int, autojump_clock: trio.testing.MockClock, announced_warnings: list[str]
) -> None:
    announced_warnings.append("lost the coordinator")
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            rounds = Rounds([one, two], 100 + seed)

            async def trouble() -> None:
                while True:
                    await trio.sleep(rounds.rng.random())
                    rig.cut()

            nursery.start_soon(trouble)
            await rounds.run(200)
        nursery.cancel_scope.cancel()
