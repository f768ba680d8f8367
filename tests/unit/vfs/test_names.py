"""What the kernel may keep of an answer about a name."""

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from cairnfs.base.errors import CairnError
from cairnfs.client.interface import SessionListener
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.core import VFS
from cairnfs.vfs.inodes import READ_LEASE
from cairnfs.vfs.state import MountPolicy
from tests.doubles.idle_kernel import IdleKernel
from tests.doubles.rig import MemoryChunks, TrioClock

CALLER = pb.Caller()
DIRECTORY, FILE = 7, 8


class Session:
    """Finds every name; the coordinator's grant for it is the test's to decide."""

    trusted = True

    def __init__(self) -> None:
        self.parent_leased = False
        self.listener: SessionListener | None = None

    async def call(self, op: Any, caller: pb.Caller | None = None, *, deadline_s: float | None = None) -> Any:
        assert isinstance(op, pb.Lookup)
        assert self.listener is not None
        await trio.lowlevel.checkpoint()
        found = common.Attr(ino=FILE, mode=0o100644, nlink=1, change=1)
        reply = pb.Reply(
            entry=pb.EntryReply(attr=found, lease=pb.LEASE_KIND_READ, parent_leased=self.parent_leased)
        )
        self.listener.on_reply(pb.Request(lookup=op), reply)
        return reply.entry

    def recall_done(self, recall_id: int, still_open: Sequence[int], open_for_write: Sequence[int]) -> None:
        raise AssertionError("no recall was made")

    def flush_done(self, number: int, error: CairnError | None) -> None:
        raise AssertionError("nothing was to be saved")

    def node(self, number: int) -> common.NodeInfo | None:
        return None


@pytest.mark.parametrize("granted", [False, True])
async def test_a_name_is_kept_only_if_it_was_granted_with_its_answer(granted: bool) -> None:
    """While a change of it is pending the answer is old; nothing is granted, the directory stays leased."""
    async with trio.open_nursery() as nursery:
        session = Session()
        vfs = VFS(session, MemoryChunks(), IdleKernel(), nursery, MountPolicy(), clock=TrioClock())
        session.listener, session.parent_leased = vfs.events, granted
        directory = vfs.state.inodes.get(DIRECTORY)
        directory.attr = common.Attr(ino=DIRECTORY, mode=0o040755, nlink=2, change=1)
        directory.attr_valid, directory.lease = True, READ_LEASE
        node = await vfs.lookup(DIRECTORY, b"name", CALLER)
        assert bool(node.entry_timeout_s) is granted
        assert node.attr_timeout_s > 0
        nursery.cancel_scope.cancel()
