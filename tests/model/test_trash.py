"""Mounts that remove, replace and restore files where a policy keeps them, and a model of the trash."""

import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import JOURNAL_AGE_S, TRASH_INO
from cairnfs.coordinator.namespace import trash, tree, usage
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from tests.doubles.rig import Rig, SimKernel

KEPT_S = 3600
SETTLED_S = JOURNAL_AGE_S + 7  # bytes wait for up to 5 s, names for JOURNAL_AGE_S
TRASH = "/.trash"
DIRECTORIES = ["", "/one", "/one/two"]


@asynccontextmanager
async def mounted(count: int, kept_s: int = KEPT_S) -> AsyncIterator[tuple[Rig, list[SimKernel]]]:
    """A file system that keeps what is removed, on several mounts; in the end fsck finds no fault."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as first, rig.mount() as second, rig.mount() as third:
            await set_trash(rig, kept_s)
            yield rig, [first, second, third][:count]
        assert rig.faults() == []
        nursery.cancel_scope.cancel()


async def set_trash(rig: Rig, trash_s: int) -> None:
    """Set how long the whole file system keeps what is removed."""
    answer, answered = trio.open_memory_channel[pb.SetPolicyReply](1)
    rig.set_policy(pb.SetPolicyRequest(path="/", trash_s=trash_s), answer.send_nowait)
    reply = await answered.receive()
    assert not reply.error, reply.detail


async def change(rig: Rig, name: str, *, remove: bool = False) -> "common.ErrorCode.ValueType":
    """Restore an entry, or remove it for good, as the command does."""
    answer, answered = trio.open_memory_channel[pb.ChangeTrashReply](1)
    rig.change_trash(pb.ChangeTrashRequest(names=[name.encode()], remove=remove), answer.send_nowait)
    [result] = (await answered.receive()).results
    return result.error


def entry_of(names: list[str], name: str) -> str:
    """The newest entry of the trash for something of this name."""
    return max(entry for entry in names if entry.split("-", 3)[3] == name)


class Rounds:
    """Random changes, and a model: what is at each path, and how often what was removed."""

    def __init__(self, rig: Rig, mounts: list[SimKernel], seed: int) -> None:
        self.rig = rig
        self.mounts = mounts
        self.rng = random.Random(seed)
        self.files: dict[str, bytes] = {}
        self.removed: Counter[tuple[str, bytes]] = Counter()
        self.made = 0
        self.changes = [
            self.write,
            self.write,
            self.unlink,
            self.rename,
            self.take_out,
            self.restore,
            self.end,
        ]

    async def run(self, steps: int) -> None:
        for directory in DIRECTORIES[1:]:
            await self.mounts[0].mkdir(directory)
        for _ in range(steps):
            path = self.rng.choice(DIRECTORIES) + "/" + self.rng.choice("abcd")
            await self.rng.choice(self.changes)(self.rng.choice(self.mounts), path)
            if self.rng.random() < 0.05:
                await self.check()
            elif self.rng.random() < 0.05:
                self.rig.cut()
        await self.check()

    def bin(self, path: str) -> None:
        content = self.files.pop(path, None)
        if content is not None:
            self.removed[path.rpartition("/")[2], content] += 1

    async def write(self, mount: SimKernel, path: str) -> None:
        self.made += 1
        content = b"%08d" % self.made
        file = await mount.open(path, os.O_CREAT | os.O_RDWR)
        await file.write(0, content)
        if self.rng.random() < 0.3:
            await file.fsync()
        await file.close()
        self.files[path] = content

    async def unlink(self, mount: SimKernel, path: str) -> None:
        if path in self.files:
            await mount.unlink(path)
            self.bin(path)

    async def rename(self, mount: SimKernel, path: str) -> None:
        other = self.rng.choice(DIRECTORIES) + "/" + self.rng.choice("abcd")
        if path in self.files and path != other:
            await mount.rename(path, other)
            self.bin(other)
            self.files[other] = self.files.pop(path)

    async def some_entry(self, mount: SimKernel) -> tuple[str, str, bytes] | None:
        """An entry that the mount sees: its name, what it was called, its content, which the model knows."""
        names = await mount.listdir(TRASH)
        if not names:
            return None
        entry = self.rng.choice(names)
        name, content = entry.split("-", 3)[3], await mount.read(f"{TRASH}/{entry}")
        assert self.removed[name, content], (entry, content)
        return entry, name, content

    async def take_out(self, mount: SimKernel, path: str) -> None:
        found = await self.some_entry(mount)
        if found is not None:
            entry, name, content = found
            await mount.rename(f"{TRASH}/{entry}", path)
            self.removed[name, content] -= 1
            self.bin(path)
            self.files[path] = content

    async def restore(self, mount: SimKernel, _path: str) -> None:
        found = await self.some_entry(mount)
        if found is None:
            return
        entry, name, content = found
        reply = self.rig.conductor.trash.list_entries(pb.ListTrashRequest())
        [path] = [one.path.decode() for one in reply.entries if one.name == entry.encode()]
        error = await change(self.rig, entry)
        assert (error == common.ERROR_CODE_EXISTS) == (path in self.files), (error, path)
        if not error:
            self.removed[name, content] -= 1
            self.files[path] = content

    async def end(self, mount: SimKernel, _path: str) -> None:
        found = await self.some_entry(mount)
        if found is not None:
            entry, name, content = found
            if self.rng.random() < 0.5:
                await mount.unlink(f"{TRASH}/{entry}")
            else:
                assert not await change(self.rig, entry, remove=True)
            self.removed[name, content] -= 1

    async def check(self) -> None:
        """What every mount sees is what the model has."""
        await trio.sleep(SETTLED_S)
        mount = self.rng.choice(self.mounts)
        for path, content in self.files.items():
            assert await mount.read(path) == content, path
        seen: Counter[tuple[str, bytes]] = Counter()
        for entry in await mount.listdir(TRASH):
            seen[entry.split("-", 3)[3], await mount.read(f"{TRASH}/{entry}")] += 1
        assert seen == +self.removed


@pytest.mark.parametrize("seed", range(4))
async def test_everything_that_loses_its_last_name_is_in_the_trash(
    seed: int, autojump_clock: trio.testing.MockClock, announced_warnings: list[str]
) -> None:
    announced_warnings.append("lost the coordinator")
    async with mounted(1 + seed % 3) as (rig, mounts):
        await Rounds(rig, mounts, seed).run(120)


async def test_bytes_that_were_not_sent_reach_the_trash(autojump_clock: trio.testing.MockClock) -> None:
    async with mounted(2) as (_, [mount, other]):
        await mount.mkdir("/d")
        open_file = await mount.open("/d/open", os.O_CREAT | os.O_RDWR)
        await open_file.write(0, b"before")
        await mount.write("/d/f", 0, b"unsent")
        await mount.unlink("/d/f")
        await mount.unlink("/d/open")
        await open_file.write(6, b" and after")
        await mount.rmdir("/d")
        # Whoever removed it sees it at once, others as soon as it is reported.
        names = await mount.listdir(TRASH)
        assert sorted(name.split("-", 3)[3] for name in names) == ["d", "f", "open"]
        await trio.sleep(SETTLED_S)
        assert await other.read(f"{TRASH}/{entry_of(names, 'f')}") == b"unsent"
        assert await other.read(f"{TRASH}/{entry_of(names, 'open')}") == b"before and after"
        await open_file.write(0, b"BEFORE")
        await open_file.close()
        await trio.sleep(SETTLED_S)
        assert await other.read(f"{TRASH}/{entry_of(names, 'open')}") == b"BEFORE and after"


async def test_without_trash_unsent_bytes_are_thrown_away(autojump_clock: trio.testing.MockClock) -> None:
    async with mounted(1) as (rig, [mount]):
        await set_trash(rig, 0)
        await mount.mkdir("/d")
        await mount.write("/d/first", 0, b"x" * 99)  # before the mount has inode numbers of its own
        await trio.sleep(SETTLED_S)
        before = rig.chunks.stored
        for number in range(5):
            await mount.write(f"/d/{number}", 0, b"x" * 100)
            await mount.unlink(f"/d/{number}")
        await trio.sleep(SETTLED_S)
        assert (rig.chunks.stored, await mount.listdir(TRASH)) == (before, [])


async def test_a_directory_with_trash_is_listed_from_memory(autojump_clock: trio.testing.MockClock) -> None:
    """Nobody has a lease on the trash; that of its directory is enough."""
    async with mounted(1) as (rig, [mount]):
        await mount.write("/f", 0, b"content")
        for _ in range(2):
            assert await mount.listdir("/") == ["f"]
        directory = mount.fs.state.inodes.get(1)
        assert (directory.complete, directory.entries[b".trash"]) == (True, TRASH_INO)
        rig.messages_left = 1_000
        assert await mount.listdir("/") == ["f"]
        assert rig.messages_left == 1_000


async def test_what_was_kept_long_enough_is_gone_and_its_space_is_free(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with mounted(2, kept_s=60) as (rig, [mount, other]):
        await mount.mkdir("/d")
        before = rig.engine.read(usage.read)
        for name in ("open", "closed"):
            await mount.write(f"/d/{name}", 0, b"content")
        await trio.sleep(SETTLED_S)
        held = await other.open("/d/open")
        for name in ("open", "closed"):
            await mount.unlink(f"/d/{name}")
        await trio.sleep(SETTLED_S)
        assert len(await other.listdir(TRASH)) == 2
        assert rig.engine.read(usage.read).inodes == before.inodes + 2
        await trio.sleep(60)
        assert await other.listdir(TRASH) == []
        assert await held.read(0, 100) == b"content"  # unlinked, and still open
        assert rig.engine.read(usage.read).inodes == before.inodes + 1
        await held.close()
        await trio.sleep(SETTLED_S)
        assert rig.engine.read(usage.read) == before


async def test_a_tree_that_was_removed_comes_back_on_all_mounts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with mounted(2) as (rig, [mount, other]):
        for directory in ("/d", "/d/e"):
            await mount.mkdir(directory)
        await mount.write("/d/e/f", 0, b"content")
        await mount.unlink("/d/e/f")
        await mount.rmdir("/d/e")
        await mount.rmdir("/d")
        names = await mount.listdir(TRASH)
        removed = f"{TRASH}/{entry_of(names, 'e')}"
        for call in (mount.mkdir, partial(mount.symlink, "x")):
            with pytest.raises(CairnError) as caught:
                await call(f"{removed}/x")
            assert caught.value.code == common.ERROR_CODE_NOT_FOUND
        assert not await change(rig, entry_of(names, "f"))
        assert await mount.listdir(TRASH) == []
        assert await other.read("/d/e/f") == b"content"
        assert await mount.read("/d/e/f") == b"content"
        await mount.write("/d/e/new", 0, b"more")
        assert await other.listdir("/d/e") == ["f", "new"]


@pytest.mark.parametrize("looks", [False, True])
async def test_a_tree_that_is_restored_at_once_is_whole_on_all_mounts(
    looks: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with mounted(2) as (rig, [mount, other]):
        await mount.mkdir("/d")
        for number in range(5):
            await mount.write(f"/d/{number}", 0, b"%d" % number)
        if looks:
            assert len(await other.listdir("/d")) == 5
        for number in range(5):
            await mount.unlink(f"/d/{number}")
        await mount.rmdir("/d")
        names = sorted(await mount.listdir(TRASH), key=lambda name: not name.endswith("d"))
        if looks:  # at the directory, which is empty
            assert await other.listdir(f"{TRASH}/{names[0]}") == []
            assert await mount.listdir(f"{TRASH}/{names[0]}") == []
        answer, answered = trio.open_memory_channel[pb.ChangeTrashReply](1)
        rig.change_trash(pb.ChangeTrashRequest(names=[name.encode() for name in names]), answer.send_nowait)
        assert [one.error for one in (await answered.receive()).results] == [0] * 6
        for kernel in (mount, other):
            assert await kernel.listdir("/d") == ["0", "1", "2", "3", "4"]
            assert await kernel.read("/d/3") == b"3"


async def test_a_policy_that_ends_loses_nothing_that_is_open(autojump_clock: trio.testing.MockClock) -> None:
    """A mount that is told late takes a file for kept that the coordinator does not keep."""
    async with mounted(1) as (rig, [mount]):
        await mount.mkdir("/d")
        file = await mount.open("/d/f", os.O_CREAT | os.O_RDWR)
        await file.write(0, b"content")
        await mount.unlink("/d/f")
        rig.conductor.context.kept_s = {}
        await trio.sleep(SETTLED_S)
        assert await mount.listdir(TRASH) == []
        await file.write(7, b" and more")
        await file.fsync()
        assert await file.read(0, 100) == b"content and more"
        await file.close()
        await trio.sleep(SETTLED_S)
        assert rig.engine.read(lambda txn: tree.find_inode(txn, file.ino)) is None


async def test_a_coordinator_that_starts_goes_on_with_the_trash(
    autojump_clock: trio.testing.MockClock, announced_warnings: list[str]
) -> None:
    announced_warnings.append("lost the coordinator")
    async with mounted(1, kept_s=60) as (rig, [mount]):
        await mount.mkdir("/d")
        await mount.write("/d/a", 0, b"content")
        await trio.sleep(SETTLED_S)
        rig.restart()
        await mount.unlink("/d/a")
        await trio.sleep(SETTLED_S)
        [entry] = await mount.listdir(TRASH)
        assert await mount.read(f"{TRASH}/{entry}") == b"content"
        rig.restart()
        await trio.sleep(90)
        assert await mount.listdir(TRASH) == []
        assert rig.engine.read(trash.retentions) == {1: 60}
        assert rig.engine.read(lambda txn: usage.read(txn, TRASH_INO)) == usage.Usage(1, 0)
