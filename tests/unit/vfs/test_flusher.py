"""The flusher: waiting for what others send, failures that are kept and tried again."""

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.client.interface import SessionListener
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from cairnfs.vfs.inodes import WRITE_LEASE, Inode
from cairnfs.vfs.state import FileHandle, MountPolicy
from tests.doubles.idle_kernel import IdleKernel
from tests.doubles.rig import MemoryChunks, TrioClock


class Session:
    """A session whose batches wait until they are let go; their entries may then fail."""

    trusted = True

    def __init__(self) -> None:
        self.changes: list[pb.BatchEntry] = []
        self.go = trio.Event()
        self.failure: CairnError | None = None
        self.listener: SessionListener | None = None

    async def call(self, op: Any, caller: pb.Caller | None = None, *, deadline_s: float | None = None) -> Any:
        assert isinstance(op, pb.Batch)
        assert self.listener is not None
        self.changes.extend(op.entries)
        await self.go.wait()
        reply = pb.Reply(batch=pb.BatchReply(executed=len(op.entries)))
        if self.failure is not None:
            for index in range(len(op.entries)):
                reply.batch.results.add(index=index, error=self.failure.code)
        self.listener.on_reply(pb.Request(batch=op), reply)
        return reply.batch

    def recall_done(self, recall_id: int, still_open: Sequence[int], open_for_write: Sequence[int]) -> None:
        raise AssertionError("no recall was made")

    def flush_done(self, number: int, error: CairnError | None) -> None:
        raise AssertionError("nothing was to be saved")

    def node(self, number: int) -> common_pb2.NodeInfo | None:
        return None


def opened(session: Session, nursery: trio.Nursery) -> tuple[VFS, Inode]:
    vfs = VFS(session, MemoryChunks(), IdleKernel(), nursery, MountPolicy(), clock=TrioClock())
    session.listener = vfs.events
    inode = vfs.state.inodes.get(7)
    inode.attr = common_pb2.Attr(ino=7, mode=0o100644, change=1)
    inode.attr_valid, inode.lease, inode.handles = True, WRITE_LEASE, 1
    return vfs, inode


async def test_a_flush_waits_for_attributes_that_another_one_sends() -> None:
    async with trio.open_nursery() as nursery:
        session = Session()
        vfs, inode = opened(session, nursery)
        vfs.flusher.change(inode, pb.SetAttr(ino=7, mode=0o600))
        nursery.start_soon(vfs.flusher.flush, inode)
        await trio.testing.wait_all_tasks_blocked()
        vfs.flusher.change(inode, pb.SetAttr(ino=7, mode=0o640))
        nursery.start_soon(vfs.flusher.flush, inode)
        await trio.testing.wait_all_tasks_blocked()  # would never be so if it asked again and again
        assert [entry.set_attr.mode for entry in session.changes] == [0o600]
        session.go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert [entry.set_attr.mode for entry in session.changes] == [0o600, 0o640]
        assert not inode.unsaved
        nursery.cancel_scope.cancel()


async def test_bytes_go_before_attributes() -> None:
    async with trio.open_nursery() as nursery:
        session = Session()
        session.go.set()
        vfs, inode = opened(session, nursery)
        vfs.flusher.write(inode, 0, b"data")
        vfs.flusher.change(inode, pb.SetAttr(ino=7, mode=0o400))
        await vfs.flusher.flush(inode)
        assert [entry.WhichOneof("op") for entry in session.changes] == ["commit_write", "set_attr"]
        assert vfs.state.dirty_bytes == 0
        nursery.cancel_scope.cancel()


async def test_a_failure_in_the_background_is_kept_and_tried_again(
    autojump_clock: trio.testing.MockClock, announced_warnings: list[str]
) -> None:
    announced_warnings.append("writing behind failed")
    async with trio.open_nursery() as nursery:
        session = Session()
        session.go.set()
        vfs, inode = opened(session, nursery)
        vfs.state.chunks.failure = CairnError(common_pb2.ERROR_CODE_NO_SPACE)  # type: ignore[attr-defined]
        vfs.flusher.write(inode, 0, b"data")
        await trio.sleep(5)
        assert inode.error is not None
        assert inode.error.code == common_pb2.ERROR_CODE_NO_SPACE
        assert inode.dirty.size_bytes == 4
        vfs.state.chunks.failure = None  # type: ignore[attr-defined]
        await trio.sleep(5)
        assert not inode.unsaved
        nursery.cancel_scope.cancel()


async def test_bytes_of_a_file_that_is_gone_are_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        session = Session()
        session.go.set()
        session.failure = CairnError(common_pb2.ERROR_CODE_NOT_FOUND)
        vfs, inode = opened(session, nursery)
        inode.handles = 0
        vfs.flusher.write(inode, 0, b"data")
        vfs.flusher.change(inode, pb.SetAttr(ino=7, mode=0o400))
        await trio.sleep(5)
        assert not inode.unsaved
        assert inode.error is None
        assert vfs.state.dirty_bytes == 0
        nursery.cancel_scope.cancel()


async def test_small_files_share_a_job(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        session = Session()
        session.go.set()
        vfs, first = opened(session, nursery)
        for number in range(100, 150):
            inode = vfs.state.inodes.get(number)
            inode.attr = common_pb2.Attr(ino=number, change=1)
            inode.lease = WRITE_LEASE
            vfs.flusher.write(inode, 0, str(number).encode())
        await trio.sleep(3)
        assert sorted(entry.commit_write.ino for entry in session.changes) == list(range(100, 150))
        assert all(not inode.unsaved for inode in vfs.state.inodes)
        assert first.dirty.size_bytes == 0
        nursery.cancel_scope.cancel()


async def test_every_open_file_is_told_of_a_loss_once(
    autojump_clock: trio.testing.MockClock, announced_warnings: list[str]
) -> None:
    announced_warnings.append("unsent writes are lost")
    async with trio.open_nursery() as nursery:
        vfs, inode = opened(Session(), nursery)
        for handle in (1, 2):
            vfs.state.files[handle] = FileHandle(inode, os.O_RDWR, direct=False, writable=True)
        vfs.flusher.write(inode, 0, b"data")
        nursery.start_soon(fails_once, vfs.fsync, 1, False)
        await trio.testing.wait_all_tasks_blocked()
        vfs.events._recalls.session_lost()
        await trio.testing.wait_all_tasks_blocked()
        await vfs.flush(1, 0)  # fsync has told it already
        await fails_once(vfs.flush, 2, 0)
        assert inode.error is None
        await vfs.flush(1, 0)
        nursery.cancel_scope.cancel()


async def fails_once(call: Callable[..., Awaitable[None]], *args: object) -> None:
    with pytest.raises(CairnError, match="the session had ended"):
        await call(*args)


async def test_a_file_opened_later_is_told_only_of_what_nobody_knows_yet(
    announced_warnings: list[str],
) -> None:
    announced_warnings.append("unsent writes are lost")
    async with trio.open_nursery() as nursery:
        vfs, inode = opened(Session(), nursery)
        flags = os.O_RDWR
        vfs.flusher.write(inode, 0, b"data")
        first = vfs._new_file(inode, flags, shared=False).handle
        vfs.events._recalls.session_lost()
        second, third = (vfs._new_file(inode, flags, shared=False).handle for _ in range(2))
        await fails_once(vfs.flush, second, 0)
        fourth = vfs._new_file(inode, flags, shared=False).handle
        await vfs.flush(fourth, 0)
        await fails_once(vfs.flush, first, 0)
        await fails_once(vfs.flush, third, 0)
        assert inode.error is None
        nursery.cancel_scope.cancel()
