"""What a mount does in its own memory is what the coordinator makes of it: every attribute, every entry."""

import os
import random
import stat
from typing import Any

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from cairnfs.vfs.interface import SetAttributes
from tests.doubles.rig import Rig

ROOT = pb.Caller(uid=0, gid=0, umask=0o022)
USER = pb.Caller(uid=1000, gid=1001, umask=0o027)
NAMES = [b"a", b"b", b"c", b"d"]

Look = dict[str, tuple[Any, ...]]


def told(attr: common.Attr) -> tuple[Any, ...]:
    return (
        attr.mode,
        attr.uid,
        attr.gid,
        attr.nlink,
        attr.rdev,
        attr.size,
        attr.atime_ns,
        attr.mtime_ns,
        attr.ctime_ns,
        attr.parent,
        attr.realm,
    )


async def look(fs: VFS, directory: int, path: str = "") -> Look:
    """The whole tree as one mount tells it."""
    attr = (await fs.getattr(directory, ROOT)).attr
    assert attr is not None
    found = {path or "/": told(attr)}
    handle = await fs.opendir(directory, ROOT)
    entries, offset = [], 0
    while listed := await fs.readdir(handle, offset, 100):
        entries += [(entry.name, entry.node.attr) for entry in listed]
        offset = listed[-1].next_offset
    await fs.releasedir(handle)
    for name, child in sorted(entries):
        assert child is not None
        below = f"{path}/{name.decode()}"
        if stat.S_ISDIR(child.mode):
            found.update(await look(fs, child.ino, below))
        else:
            found[below] = told(child)
    return found


class Worker:
    """Random changes on one mount, by two callers."""

    def __init__(self, fs: VFS, seed: int) -> None:
        self.fs = fs
        self.rng = random.Random(seed)

    async def directories(self) -> list[int]:
        found, queue = [], [self.fs.root_ino]
        while queue:
            directory = queue.pop()
            found.append(directory)
            for name in NAMES:
                attr = (await self.fs.lookup(directory, name, ROOT)).attr
                if attr is not None and stat.S_ISDIR(attr.mode):
                    queue.append(attr.ino)
        return sorted(found)

    async def step(self) -> None:
        rng, fs = self.rng, self.fs
        caller = rng.choice([ROOT, USER])
        parents = await self.directories()
        parent, name = rng.choice(parents), rng.choice(NAMES)
        attr = (await fs.lookup(parent, name, ROOT)).attr
        new_parent, new_name = rng.choice(parents), rng.choice(NAMES)
        match rng.choice(["make", "make", "remove", "rename", "link", "attributes", "times"]):
            case "make" if attr is None:
                await self.make(parent, name, caller)
            case "remove" if attr is not None and stat.S_ISDIR(attr.mode):
                await fs.rmdir(parent, name, caller)
            case "remove" if attr is not None:
                await fs.unlink(parent, name, caller)
            case "rename" if attr is not None:
                await fs.rename(parent, name, new_parent, new_name, rng.choice([0, 0, 1, 2]), caller)
            case "link" if attr is not None:
                await fs.link(attr.ino, new_parent, new_name, caller)
            case "attributes" if attr is not None:
                mode = rng.choice([0o755, 0o2755, 0o700])
                await fs.setattr(attr.ino, SetAttributes(mode=mode, gid=rng.choice([None, 7])), None, caller)
            case "times" if attr is not None:
                await fs.setattr(attr.ino, SetAttributes(atime_ns=5, mtime_ns=6), None, caller)
            case _:
                pass

    async def make(self, parent: int, name: bytes, caller: pb.Caller) -> None:
        match self.rng.choice(["file", "directory", "symlink", "fifo", "device"]):
            case "file":
                opened, _ = await self.fs.create(parent, name, stat.S_IFREG | 0o666, os.O_RDWR, caller)
                if self.rng.random() < 0.5:
                    await self.fs.write(opened.handle, 0, b"x" * self.rng.randrange(1, 5000))
                await self.fs.flush(opened.handle, 0)
                await self.fs.release(opened.handle, None)
            case "directory":
                await self.fs.mkdir(parent, name, 0o777, caller)
            case "symlink":
                await self.fs.symlink(parent, name, b"target", caller)
            case "fifo":
                await self.fs.mknod(parent, name, stat.S_IFIFO | 0o666, 0, caller)
            case _:
                await self.fs.mknod(parent, name, stat.S_IFCHR | 0o600, 0x0105, caller)


@pytest.mark.parametrize("seed", range(8))
async def test_the_coordinator_makes_what_was_told(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            worker = Worker(one.fs, seed)
            refusals: list[int] = []
            for _ in range(6):
                for _ in range(60):
                    try:
                        await worker.step()
                    except CairnError as error:
                        refusals.append(error.code)
                    await trio.sleep(worker.rng.choice([0, 0.01, 0.3]))
                before = await look(one.fs, one.fs.root_ino)
                assert await look(two.fs, two.fs.root_ino) == before
                assert await look(one.fs, one.fs.root_ino) == before
            assert len(refusals) < 200
            assert not {common.ERROR_CODE_IO, common.ERROR_CODE_INTERNAL} & set(refusals)
        nursery.cancel_scope.cancel()


async def test_a_tree_made_alone_costs_no_round_trip_per_entry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one, rig.mount() as two:
            fs = one.fs
            top = (await fs.mkdir(fs.root_ino, b"top", 0o755, ROOT)).attr
            await fs.mkdir(fs.root_ino, b"warm", 0o755, ROOT)
            await trio.sleep(1)
            assert top is not None
            sent = one.fs.state.journal.unsettled
            for number in range(500):
                attr = (await fs.mkdir(top.ino, b"%d" % number, 0o755, ROOT)).attr
                assert attr is not None
                await fs.mknod(attr.ino, b"file", stat.S_IFREG | 0o644, 0, ROOT)
            assert fs.state.journal.unsettled + sent > 100  # they wait, or are on their way
            seen = (await two.fs.lookup(two.fs.root_ino, b"top", ROOT)).attr
            assert seen is not None
            assert (await two.fs.getattr(top.ino, ROOT)).attr is not None
            nlink = (await two.fs.getattr(top.ino, ROOT)).attr
            assert nlink is not None
            assert nlink.nlink == 502
        nursery.cancel_scope.cancel()


async def test_what_may_not_cross_the_border_of_a_policy_is_refused_at_the_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also by the mount that alone decides about both directories."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as one:
            fs = one.fs
            inside = (await fs.mkdir(fs.root_ino, b"inside", 0o755, ROOT)).attr
            outside = (await fs.mkdir(fs.root_ino, b"outside", 0o755, ROOT)).attr
            assert inside is not None
            assert outside is not None
            await trio.sleep(1)
            answers: list[pb.SetPolicyReply] = []
            rig.set_policy(pb.SetPolicyRequest(path="/inside", replicas=3), answers.append)
            await trio.sleep(1)
            assert [answer.error for answer in answers] == [0]
            for name in (b"linked", b"single"):
                await fs.mknod(outside.ino, name, stat.S_IFREG | 0o644, 0, ROOT)
            file = (await fs.lookup(outside.ino, b"linked", ROOT)).attr
            assert file is not None
            await fs.link(file.ino, outside.ino, b"other", ROOT)
            await fs.mknod(inside.ino, b"warm", stat.S_IFREG | 0o644, 0, ROOT)
            for refused in (
                fs.link(file.ino, inside.ino, b"link", ROOT),
                fs.rename(outside.ino, b"linked", inside.ino, b"linked", 0, ROOT),
            ):
                with pytest.raises(CairnError) as caught:
                    await refused
                assert caught.value.code == common.ERROR_CODE_CROSS_DEVICE
            await fs.rename(outside.ino, b"single", inside.ino, b"single", 0, ROOT)
            moved = (await fs.lookup(inside.ino, b"single", ROOT)).attr
            assert moved is not None
            assert moved.realm == inside.ino
            assert (await fs.lookup(outside.ino, b"linked", ROOT)).attr is not None
        assert rig.faults() == []
        nursery.cancel_scope.cancel()
