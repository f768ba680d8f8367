"""A mount dies without a goodbye in the middle of its work: what is left is what it did, up to some moments.

Every directory has the entries that it had at one moment, not before its last fsync (a change that the
coordinator makes itself may outlive an earlier one in another directory that was not sent yet). A file may
have older content than its name, but never wrong bytes. Another mount goes on as soon as the lease ends.
"""

import os
import random
from typing import Any

import pytest
import trio
import trio.testing

from cairnfs.base import limits
from tests.doubles.rig import Rig
from tests.torture.model import Model
from tests.torture.operations import Op, Result
from tests.torture.simulated import SimProcess

DIRECTORIES = ("/p", "/q", "/p/r")
CALLS = 150
WHOLE = 1 << 20

Entries = dict[str, int]  # numbers of inodes by name


class Work:
    """Random changes by one process, with the tree as it was after each."""

    def __init__(self, process: SimProcess, seed: int) -> None:
        self.process = process
        self.rng = random.Random(seed)
        self.model = Model(1)
        self.numbers: dict[int, int] = {}  # the model's by real inode number
        self.histories: dict[int, list[tuple[int, Entries]]] = {0: [(0, {})]}  # since which call it had these
        self.contents: dict[int, list[bytes]] = {}  # every content that an inode has had
        self.saved = 0  # all up to this call is durable
        self.number = 0

    async def do(self, call: str, *args: object) -> Result:
        self.number += 1
        op = Op(self.number, 0, call, args)
        result = await self.process.run(op)
        expected = self.model.run(op)
        assert result.error == expected.error, (op, result, expected)
        self._note()
        return result

    def _note(self) -> None:
        for node in self.model.nodes.values():
            if node.kind == "d":
                history = self.histories.setdefault(node.number, [(self.number, {})])
                if history[-1][1] != node.entries:
                    history.append((self.number, dict(node.entries)))
            elif not (known := self.contents.setdefault(node.number, [b""])) or known[-1] != node.data:
                known.append(node.data)

    async def learn(self, path: str) -> None:
        """Which real inode it is that a call has just made."""
        made = await self.process.run(Op(0, 0, "lstat", (path,)))
        expected = self.model.run(Op(0, 0, "lstat", (path,)))
        if not made.error:
            self.numbers[made.value.ino] = expected.value.ino

    def had(self, number: int, entries: Entries) -> bool:
        """Whether a directory had these entries at a moment that may be what is left."""
        history = self.histories[number]
        ends = [since for since, _ in history[1:]] + [self.number + 1]
        return any(entries == then and end > self.saved for (_, then), end in zip(history, ends, strict=True))

    async def step(self) -> None:
        """One to four calls."""
        rng = self.rng
        path = self._path()
        match rng.choice(
            ["write", "write", "write", "rename", "rename", "unlink", "link", "mkdir", "rmdir", "mode"]
        ):
            case "write":
                flags = os.O_CREAT | os.O_RDWR | rng.choice([0, 0, os.O_EXCL])
                if (await self.do("open", 1, path, flags, 0o644)).error:
                    return
                await self.learn(path)
                await self.do("pwrite", 1, rng.choice([0, 100]), rng.choice([10, 5000]))
                if rng.random() < 0.1:
                    await self.do("fsync", 1)
                    self.saved = self.number
                await self.do("close", 1)
            case "rename":
                await self.do("rename", path, self._path(), 0)
            case "link":
                await self.do("link", path, self._path())
            case "mode":
                await self.do("chmod", path, rng.choice([0o600, 0o640]))
            case "mkdir":
                path = rng.choice([*DIRECTORIES, path])
                await self.do("mkdir", path, 0o755)
                await self.learn(path)
            case other:
                await self.do(other, path)

    def _path(self) -> str:
        return f"{self.rng.choice(['', *DIRECTORIES])}/{self.rng.choice('abcdef')}"


async def check(process: SimProcess, work: Work) -> None:
    """Look at everything from another mount."""

    async def ask(call: str, *args: object) -> Any:
        result = await process.run(Op(0, 1, call, args))
        assert not result.error, (call, args, result)
        return result.value

    waiting = [("", 0)]
    while waiting:
        directory, number = waiting.pop()
        entries: Entries = {}
        for name in await ask("readdir", directory or "/"):
            path = f"{directory}/{name}"
            stat = await ask("lstat", path)
            entries[name] = work.numbers[stat.ino]
            if stat.kind == "d":
                waiting.append((path, entries[name]))
            else:
                await ask("open", 1, path, os.O_RDONLY, 0)
                content = await ask("pread", 1, 0, WHOLE)
                assert content in work.contents[entries[name]], (path, content[:50])
                await ask("close", 1)
        assert work.had(number, entries), (directory, entries, work.histories[number][-5:])


@pytest.mark.parametrize("seed", range(12))
async def test_what_a_crashed_mount_leaves_is_a_prefix_of_what_it_did(
    seed: int, autojump_clock: trio.testing.MockClock, announced_warnings: list[str]
) -> None:
    announced_warnings += ["lost the coordinator", "session_fenced"]
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as watching:
            watcher = SimProcess(watching, 1)
            async with rig.mount() as crashing:
                work = Work(SimProcess(crashing, 0), seed)
                for _ in range(CALLS):
                    await work.step()
                    if work.rng.random() < 0.1:
                        await trio.sleep(work.rng.choice([0.05, 0.4, 1.5]))
                if seed % 3 == 0:
                    work.saved = work.number
                    await check(watcher, work)  # takes everything from it; then it goes on
                    for _ in range(10):
                        await work.step()
                crashing.crashed = True
                crashing.connection.cut()
            before_s = trio.current_time()
            await check(watcher, work)
            assert trio.current_time() - before_s <= limits.LEASE_S * 2
            assert rig.faults() == []
        nursery.cancel_scope.cancel()
