"""Limits under leases: whole mounts on the coordinator's real core, without processes."""

import os
import stat
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.coordinator.namespace import usage
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from tests.doubles.rig import Rig

ROOT = pb.Caller(uid=0, gid=0, umask=0o022)


@pytest.fixture
async def rig(autojump_clock: trio.testing.MockClock) -> AsyncIterator[Rig]:
    async with trio.open_nursery() as nursery:
        yield Rig(nursery)
        nursery.cancel_scope.cancel()


async def set_policy(rig: Rig, **what: Any) -> pb.SetPolicyReply:
    replies: list[pb.SetPolicyReply] = []
    rig._apply(rig.conductor.set_policy(pb.SetPolicyRequest(**what), replies.append))
    await trio.sleep(5)  # until what is in it is counted, too
    return replies[0]


async def directory(fs: VFS, name: bytes) -> int:
    attr = (await fs.mkdir(fs.root_ino, name, 0o755, ROOT)).attr
    assert attr is not None
    return attr.ino


async def file(fs: VFS, parent: int, name: bytes, size: int = 0) -> int:
    """Make a file, write it and close it; returns its number."""
    opened, node = await fs.create(parent, name, stat.S_IFREG | 0o644, os.O_RDWR, ROOT)
    assert node.attr is not None
    try:
        if size:
            await fs.write(opened.handle, 0, b"x" * size)
        await fs.flush(opened.handle, 0)
    finally:
        await fs.release(opened.handle, None)
    return node.attr.ino


async def refused(fs: VFS, parent: int, name: bytes, size: int = 0) -> None:
    with pytest.raises(CairnError) as caught:
        await file(fs, parent, name, size)
    assert caught.value.code == common.ERROR_CODE_QUOTA


def used(rig: Rig, realm: int) -> usage.Usage:
    return rig.engine.read(lambda txn: usage.read(txn, realm))


async def test_edquot_comes_from_the_call_that_is_too_much(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one, rig.mount() as two:
        top = await directory(one.fs, b"top")
        assert not (await set_policy(rig, path="/top", inodes_limit=4, space_limit_bytes=10_000)).error
        await file(one.fs, top, b"a", 6_000)
        await refused(two.fs, top, b"b", 6_000)
        await file(two.fs, top, b"c", 4_000)
        await refused(one.fs, top, b"d")
        await one.fs.unlink(top, b"c", ROOT)
        await file(one.fs, top, b"d", 4_000)  # what was removed a moment ago makes room
        assert used(rig, top) == usage.Usage(4, 10_000)
        await file(one.fs, one.fs.root_ino, b"elsewhere", 20_000)
    assert rig.faults() == []


async def test_a_replica_count_alone_takes_no_write_lease_away(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one:
        top = await directory(one.fs, b"top")
        await file(one.fs, top, b"early", 100)
        reply = await set_policy(rig, path="/top", replicas=3)
        assert (reply.realm.replicas, reply.realm.wished_replicas) == (3, 3)
        for number in range(20):
            await file(one.fs, top, b"%d" % number, 10)
        opened, node = await one.fs.create(top, b"late", stat.S_IFREG | 0o644, os.O_RDWR, ROOT)
        await one.fs.write(opened.handle, 0, b"y" * 100)
        await trio.sleep(1)
        assert node.attr is not None
        assert rig.conductor.context.leases.writers().keys() >= {top, node.attr.ino}
        assert rig.conductor.context.exclusive_realms == set()
        await one.fs.release(opened.handle, None)
        await set_policy(rig, path="/top", space_limit_bytes=10_000)
        assert rig.conductor.context.exclusive_realms == {top}
        assert top not in rig.conductor.context.leases.writers()
    assert rig.faults() == []


async def test_a_limit_finds_what_is_in_the_memory_of_mounts(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one:
        fs = one.fs
        top = await directory(fs, b"top")
        for number in range(20):
            await file(fs, top, b"%d" % number, 100)
        opened, _ = await fs.create(top, b"open", stat.S_IFREG | 0o644, os.O_RDWR, ROOT)
        await fs.write(opened.handle, 0, b"y" * 100)
        reply = await set_policy(rig, path="/top", inodes_limit=22, space_limit_bytes=2_200)
        assert not reply.error
        assert used(rig, top) == usage.Usage(22, 2_100)
        await fs.write(opened.handle, 100, b"y" * 100)
        with pytest.raises(CairnError):
            await fs.write(opened.handle, 200, b"y")
        await fs.release(opened.handle, None)
        await refused(fs, top, b"late")
    assert rig.faults() == []


async def test_a_file_that_moves_in_is_not_written_from_memory_any_more(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one:
        fs = one.fs
        top = await directory(fs, b"top")
        await set_policy(rig, path="/top", space_limit_bytes=1_000)
        opened, _ = await fs.create(fs.root_ino, b"a", stat.S_IFREG | 0o644, os.O_RDWR, ROOT)
        await fs.write(opened.handle, 0, b"y" * 500)
        await fs.rename(fs.root_ino, b"a", top, b"a", 0, ROOT)
        await trio.sleep(1)
        with pytest.raises(CairnError):
            await fs.write(opened.handle, 500, b"y" * 600)
        await fs.write(opened.handle, 500, b"y" * 500)
        await fs.release(opened.handle, None)
        assert used(rig, top) == usage.Usage(2, 1_000)
    assert rig.faults() == []


@pytest.mark.announces_warnings("lost the coordinator")
async def test_a_restarted_coordinator_goes_on_with_the_walk(
    rig: Rig, autojump_clock: trio.testing.MockClock
) -> None:
    async with rig.mount() as one:
        fs = one.fs
        top = await directory(fs, b"top")
        for number in range(5):
            attr = (await fs.mkdir(top, b"%d" % number, 0o755, ROOT)).attr
            assert attr is not None
            await file(fs, attr.ino, b"f", 10)
        await trio.sleep(2)
        replies: list[pb.SetPolicyReply] = []
        request = pb.SetPolicyRequest(path="/top", inodes_limit=11)
        rig._apply(rig.conductor.set_policy(request, replies.append))
        while not replies:
            await trio.lowlevel.checkpoint()
        rig.restart()
        await trio.sleep(15)
        assert used(rig, top) == usage.Usage(11, 50)
        await refused(fs, top, b"late")
        assert not (await set_policy(rig, path="/top", remove=True)).error
        await file(fs, top, b"late")
        assert rig.engine.read(lambda txn: usage.find_realm(txn, top)) is None
    assert rig.faults() == []


async def test_a_path_that_is_not_there_is_refused(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    async with rig.mount() as one:
        await file(one.fs, one.fs.root_ino, b"file")
        assert (await set_policy(rig, path="/none", inodes_limit=1)).error == common.ERROR_CODE_NOT_FOUND
        assert (await set_policy(rig, path="/file", inodes_limit=1)).error == common.ERROR_CODE_INVALID
        assert (await set_policy(rig, path="/", remove=True)).error == common.ERROR_CODE_INVALID
    assert rig.faults() == []
