"""Snapshots and clones under leases: whole mounts on the coordinator's real core, without processes."""

import os
import stat
from collections.abc import AsyncIterator

import pytest
import trio
import trio.lowlevel
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.base.limits import BLOCK_BYTES, SNAPSHOTS_REALM
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.namespace import copy_tree, tree_jobs, usage
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from cairnfs.vfs.interface import SetAttributes
from tests.doubles.rig import Rig

ROOT = pb.Caller(uid=0, gid=0, umask=0o022)
READ_ONLY = common.ERROR_CODE_READ_ONLY


@pytest.fixture
async def rig(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        yield Rig(nursery)
        nursery.cancel_scope.cancel()


class Told:
    """What an operator hears."""

    def __init__(self) -> None:
        self.newest = pb.TreeProgress()
        self.over = trio.Event()

    def __call__(self, progress: pb.TreeProgress) -> None:
        assert not self.over.is_set()
        self.newest = progress
        if progress.done or progress.error:
            self.over.set()

    async def last(self) -> pb.TreeProgress:
        """The end of it."""
        with trio.fail_after(300):
            await self.over.wait()
        return self.newest


async def snapshot(rig: Rig, path: str, name: bytes) -> pb.TreeProgress:
    told = Told()
    rig._apply(rig.conductor.make_snapshot(pb.MakeSnapshotRequest(path=path, name=name), told))
    return await told.last()


async def delete(rig: Rig, path: str, name: bytes) -> pb.TreeProgress:
    told = Told()
    rig._apply(rig.conductor.delete_snapshot(pb.DeleteSnapshotRequest(path=path, name=name), told))
    return await told.last()


async def clone(rig: Rig, source: str, target: str) -> pb.TreeProgress:
    told = Told()
    rig._apply(rig.conductor.clone(pb.CloneTreeRequest(source=source, target=target), told))
    return await told.last()


async def directory(fs: VFS, name: bytes, parent: int = 0) -> int:
    attr = (await fs.mkdir(parent or fs.root_ino, name, 0o755, ROOT)).attr
    assert attr is not None
    return attr.ino


async def opened(fs: VFS, parent: int, name: bytes, content: bytes) -> tuple[int, int]:
    """Make a file and write it, but neither flush nor close it: its inode and handle."""
    opening, node = await fs.create(parent, name, stat.S_IFREG | 0o644, os.O_RDWR, ROOT)
    assert node.attr is not None
    if content:
        await fs.write(opening.handle, 0, content)
    return node.attr.ino, opening.handle


async def file(fs: VFS, parent: int, name: bytes, content: bytes = b"") -> int:
    ino, handle = await opened(fs, parent, name, content)
    await fs.release(handle, None)
    return ino


async def find(fs: VFS, path: bytes) -> int:
    ino = fs.root_ino
    for name in path.split(b"/"):
        attr = (await fs.lookup(ino, name, ROOT)).attr
        if attr is None:
            raise FileNotFoundError(path)
        ino = attr.ino
    return ino


async def content(fs: VFS, path: bytes) -> bytes:
    opening = await fs.open(await find(fs, path), os.O_RDONLY, ROOT)
    try:
        return bytes(await fs.read(opening.handle, 0, 8 * BLOCK_BYTES))
    finally:
        await fs.release(opening.handle, None)


def references(rig: Rig) -> int:
    """How many slices name chunks."""
    found = rig.engine.read(lambda txn: chunk_table.scan_chunks(txn, b"", 100_000))
    return sum(record.references for _, record in found)


async def test_a_snapshot_has_what_was_in_the_memory_of_mounts_and_stays(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one, rig.mount() as two:
        top = await directory(one.fs, b"top")
        deep = await directory(one.fs, b"deep", top)
        await file(one.fs, deep, b"a", b"first")
        _, handle = await opened(one.fs, top, b"open", b"x" * (BLOCK_BYTES + 10))
        leases = rig.conductor.context.leases
        before = leases.writers().keys() - {top}  # which gets a hidden entry
        made = await snapshot(rig, "/top", b"monday")
        assert (made.error, made.inodes, made.shared_bytes) == (0, 4, BLOCK_BYTES + 15)
        assert leases.writers().keys() >= before, "mounts save what they have, and keep their leases"
        await one.fs.write(handle, 0, b"later")
        await file(one.fs, deep, b"b", b"second")
        await one.fs.unlink(deep, b"a", ROOT)
        for mount in (one, two):
            assert await content(mount.fs, b"top/.snap/monday/deep/a") == b"first"
            assert await content(mount.fs, b"top/.snap/monday/open") == b"x" * (BLOCK_BYTES + 10)
            with pytest.raises(FileNotFoundError):
                await find(mount.fs, b"top/.snap/monday/deep/b")
        await one.fs.release(handle, None)
        assert (await content(two.fs, b"top/open"))[:5] == b"later"
    assert rig.faults() == []


async def test_nothing_of_a_snapshot_can_be_changed(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    async with rig.mount() as one:
        fs = one.fs
        top = await directory(fs, b"top")
        await directory(fs, b"sub", top)
        outside = await file(fs, top, b"f", b"content")
        assert not (await snapshot(rig, "/top", b"s")).error
        root, sub = await find(fs, b"top/.snap/s"), await find(fs, b"top/.snap/s/sub")
        inside = await find(fs, b"top/.snap/s/f")
        shelf = await find(fs, b"top/.snap")
        before = await fs.getattr(inside, ROOT)
        for attempt in (
            lambda: fs.open(inside, os.O_RDWR, ROOT),
            lambda: fs.open(inside, os.O_WRONLY | os.O_TRUNC, ROOT),
            lambda: fs.setattr(inside, SetAttributes(mode=0o600), None, ROOT),
            lambda: fs.setattr(inside, SetAttributes(size=1), None, ROOT),
            lambda: fs.setattr(root, SetAttributes(uid=5), None, ROOT),
            lambda: fs.setxattr(inside, b"user.a", b"v", 0, ROOT),
            lambda: fs.mkdir(root, b"new", 0o755, ROOT),
            lambda: fs.mkdir(shelf, b"new", 0o755, ROOT),
            lambda: fs.create(sub, b"new", stat.S_IFREG | 0o644, os.O_RDWR, ROOT),
            lambda: fs.symlink(root, b"new", b"target", ROOT),
            lambda: fs.unlink(root, b"f", ROOT),
            lambda: fs.rmdir(root, b"sub", ROOT),
            lambda: fs.rmdir(shelf, b"s", ROOT),
            lambda: fs.link(inside, top, b"out", ROOT),
            lambda: fs.link(outside, root, b"in", ROOT),
            lambda: fs.rename(root, b"f", top, b"out", 0, ROOT),
            lambda: fs.rename(top, b"f", root, b"in", 0, ROOT),
            lambda: fs.rename(root, b"f", root, b"g", 0, ROOT),
            lambda: fs.rename(shelf, b"s", shelf, b"t", 0, ROOT),
        ):
            with pytest.raises(CairnError) as caught:
                await attempt()
            assert caught.value.code == READ_ONLY
        await trio.sleep(10)
        assert (await fs.getattr(inside, ROOT)).attr == before.attr
        assert await content(fs, b"top/.snap/s/f") == b"content"
        assert (await snapshot(rig, "/top/.snap/s", b"again")).error == READ_ONLY
        with pytest.raises(CairnError) as caught:
            await fs.rmdir(fs.root_ino, b"top", ROOT)
        assert caught.value.code == common.ERROR_CODE_NOT_EMPTY
    assert rig.faults() == []


async def test_a_deleted_snapshot_gives_everything_back(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one:
        fs = one.fs
        top = await directory(fs, b"top")
        for number in range(5):
            sub = await directory(fs, b"d%d" % number, top)
            await file(fs, sub, b"f", b"content %d" % number)
        await trio.sleep(5)
        used, baseline = references(rig), rig.engine.read(usage.read)
        assert not (await snapshot(rig, "/top", b"s")).error
        assert not (await snapshot(rig, "/top/d1", b"s")).error
        assert references(rig) == 2 * used + 1
        held = await fs.open(await find(fs, b"top/.snap/s/d2/f"), os.O_RDONLY, ROOT)
        gone = await delete(rig, "/top", b"s")
        assert not gone.error
        assert bytes(await fs.read(held.handle, 0, 100)) == b"content 2", "open files outlive their names"
        with pytest.raises(FileNotFoundError):
            await find(fs, b"top/.snap")
        await fs.release(held.handle, None)
        assert not (await delete(rig, "/top/d1", b"s")).error
        await trio.sleep(5)
        assert references(rig) == used
        assert rig.engine.read(usage.read) == baseline
        assert rig.engine.read(lambda txn: usage.read(txn, SNAPSHOTS_REALM)) == usage.NOTHING
        assert rig.engine.read(tree_jobs.scan) == []
        assert (await delete(rig, "/top", b"s")).error == common.ERROR_CODE_NOT_FOUND
    assert rig.faults() == []


async def test_a_clone_is_a_tree_of_its_own(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    async with rig.mount() as one, rig.mount() as two:
        fs = one.fs
        top = await directory(fs, b"top")
        sub = await directory(fs, b"sub", top)
        linked = await file(fs, top, b"a", b"linked")
        await fs.link(linked, sub, b"b", ROOT)
        await fs.symlink(sub, b"link", b"../a", ROOT)
        await fs.mknod(sub, b"pipe", stat.S_IFIFO | 0o600, 0, ROOT)
        await fs.setxattr(sub, b"user.colour", b"green", 0, ROOT)
        await fs.setattr(sub, SetAttributes(mode=0o2750, uid=7, gid=8, mtime_ns=1_000), None, ROOT)
        _, sparse = await opened(fs, top, b"sparse", b"x")
        await fs.write(sparse, 3 * BLOCK_BYTES, b"y")
        await fs.release(sparse, None)
        assert not (await snapshot(rig, "/top", b"s")).error
        await fs.unlink(sub, b"link", ROOT)
        made = await clone(rig, "/top/.snap/s", "/top/copy")
        assert (made.done, made.inodes) == (True, 6)
        assert (await clone(rig, "/top", "/top/copy")).error == common.ERROR_CODE_EXISTS
        other = two.fs
        copy = await find(other, b"top/copy")
        attr = (await other.getattr(await find(other, b"top/copy/sub"), ROOT)).attr
        assert attr is not None
        assert (attr.mode, attr.uid, attr.gid, attr.mtime_ns) == (stat.S_IFDIR | 0o2750, 7, 8, 1_000)
        assert await other.getxattr(attr.ino, b"user.colour", ROOT) == b"green"
        assert await other.readlink(await find(other, b"top/copy/sub/link"), ROOT) == b"../a"
        assert await find(other, b"top/copy/a") == await find(other, b"top/copy/sub/b") != linked
        whole = await content(other, b"top/copy/sparse")
        assert whole == b"x" + bytes(3 * BLOCK_BYTES - 1) + b"y"
        await file(other, copy, b"new", b"new")
        await other.unlink(copy, b"a", ROOT)
        assert await content(other, b"top/copy/sub/b") == b"linked"
        assert await content(fs, b"top/a") == b"linked"
        assert (await clone(rig, "/top/a", "/single")).inodes == 1
        assert await content(fs, b"single") == b"linked"
    assert rig.faults() == []


async def test_who_writes_on_and_on_does_not_hold_a_snapshot_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery, delay=lambda: 0.3)  # sending takes time, in which more is written
        async with rig.mount() as one, rig.mount() as two:
            top = await directory(one.fs, b"top")
            _, handle = await opened(one.fs, top, b"f", b"start")

            async def write_on() -> None:
                for number in range(10_000):
                    await one.fs.write(handle, 5 + number, b"x")
                    await trio.sleep(0.01)

            async with trio.open_nursery() as writing:
                writing.start_soon(write_on)
                await one.fs.write(handle, 0, b"begin")
                with trio.fail_after(30):
                    made = await snapshot(rig, "/top", b"s")
                writing.cancel_scope.cancel()
            assert made.done
            assert (await content(two.fs, b"top/.snap/s/f"))[:5] == b"begin"
            await one.fs.release(handle, None)
        assert rig.faults() == []
        nursery.cancel_scope.cancel()


@pytest.mark.announces_warnings("copy_of_tree_given_up", "lost the coordinator")
async def test_a_coordinator_that_dies_while_copying_leaves_nothing_of_it(
    rig: Rig, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_tree, "STEP_KEYS_MAX", 60)
    async with rig.mount() as one:
        top = await directory(one.fs, b"top")
        for number in range(60):  # more than one transaction makes
            await file(one.fs, top, b"%d" % number, b"content %d" % (number % 7))
        told = Told()
        rig._apply(rig.conductor.make_snapshot(pb.MakeSnapshotRequest(path="/top", name=b"s"), told))
        with trio.fail_after(60):
            while not any(job.steps for _, job in rig.engine.read(tree_jobs.scan)):
                await trio.lowlevel.checkpoint()
        rig.restart()
        await trio.sleep(60)
        assert rig.engine.read(tree_jobs.scan) == []
        assert references(rig) == 60
        assert rig.engine.read(usage.read).inodes == 62
        made = await snapshot(rig, "/top", b"s")
        assert (made.done, made.inodes) == (True, 61)
        assert await content(one.fs, b"top/.snap/s/59") == b"content 3"
    assert rig.faults() == []
