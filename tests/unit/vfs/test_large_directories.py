"""Directories of more entries than a mount may know: listed whole, sought in, and with bounded memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from cairnfs.base import limits
from cairnfs.coordinator.namespace.create import create_inode
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.coordinator.namespace.operation import Env, Footprint, Touch
from cairnfs.engine.interface import Operation, Transaction
from cairnfs.vfs import directories
from cairnfs.vfs.interface import Listed
from tests.doubles.rig import ROOT, Rig, SimKernel

ENTRIES = 1_000
KNOWN_MAX = 400
WITH_ATTRIBUTES_MAX = 200
DIRECTORY_EVERY = 7


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds in proportion to directories that a test can make."""
    monkeypatch.setattr(limits, "INODES_KNOWN_MAX", KNOWN_MAX)
    monkeypatch.setattr(limits, "ENTRIES_KNOWN_MAX", KNOWN_MAX)
    monkeypatch.setattr(limits, "READDIR_LIMIT_MAX", 64)
    monkeypatch.setattr(limits, "LISTED_WITH_ATTRIBUTES_MAX", WITH_ATTRIBUTES_MAX)
    monkeypatch.setattr(limits, "LISTING_WINDOW_ENTRIES", 60)
    monkeypatch.setattr(directories, "PAGE_ENTRIES", 20)
    monkeypatch.setattr(directories, "AHEAD_ENTRIES", 40)


def fill(rig: Rig, directory: int, count: int) -> None:
    """Make entries in the store, without a client."""

    def make(number: int, txn: Transaction) -> None:
        [ino] = reserve_inode_numbers(txn, 1)
        env = Env(ROOT, 1, Footprint((Touch(directory),)), new_ino=ino)
        mode = 0o40755 if number % DIRECTORY_EVERY == 0 else 0o100644
        create_inode(txn, env, directory, b"%05d" % number, mode)

    for made in rig.engine.commit([Operation(partial(make, number)) for number in range(count)]):
        assert made.error is None


@asynccontextmanager
async def mounted(entries: int = ENTRIES) -> AsyncIterator[tuple[SimKernel, SimKernel]]:
    """Two mounts of a file system with one large directory, /d."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as maker:
            await maker.mkdir("/d")
            directory = await maker.resolve("/d")
        fill(rig, directory, entries)
        async with rig.mount() as kernel, rig.mount() as other:
            kernel.gives_references_back = True
            yield kernel, other
        assert rig.faults() == []
        nursery.cancel_scope.cancel()


async def listing(kernel: SimKernel, handle: int, offset: int = 0) -> list[Listed]:
    found: list[Listed] = []
    while listed := await kernel.fs.readdir(handle, offset, 7):
        found += listed
        offset = listed[-1].next_offset
    return found


async def test_a_large_directory_is_listed_whole_with_few_inodes_known() -> None:
    async with mounted() as (kernel, _):
        names = await kernel.listdir("/d")
        assert names == [f"{number:05}" for number in range(ENTRIES)]
        assert len(kernel.fs.state.inodes) <= WITH_ATTRIBUTES_MAX + 2


async def test_bare_entries_tell_number_and_type() -> None:
    async with mounted() as (kernel, _):
        handle = await kernel.fs.opendir(await kernel.resolve("/d"), ROOT)
        found = await listing(kernel, handle)
        assert [entry.bare for entry in found] == [False] * WITH_ATTRIBUTES_MAX + [True] * (
            ENTRIES - WITH_ATTRIBUTES_MAX
        )
        for entry in (found[903], found[904]):
            told = entry.node.attr
            assert told is not None
            assert told.ino == await kernel.resolve(f"/d/{entry.name.decode()}")
            assert told.mode >> 12 == (4 if entry.name == b"00903" else 8)
        await kernel.fs.releasedir(handle)


@pytest.mark.parametrize("position", [1, 20, 230, 950])
async def test_positions_before_the_window_can_be_returned_to(position: int) -> None:
    async with mounted() as (kernel, _):
        handle = await kernel.fs.opendir(await kernel.resolve("/d"), ROOT)
        names = [entry.name for entry in await listing(kernel, handle)]
        assert [entry.name for entry in await listing(kernel, handle, position)] == names[position:]
        await kernel.fs.releasedir(handle)


async def test_a_program_that_looks_everything_up_leaves_few_inodes_known() -> None:
    async with mounted() as (kernel, _):
        most = 0
        for number in range(ENTRIES):
            assert await kernel.resolve(f"/d/{number:05}")
            await trio.lowlevel.checkpoint()
            most = max(most, len(kernel.fs.state.inodes))
        await trio.testing.wait_all_tasks_blocked()
        assert most < KNOWN_MAX * 3 // 2
        assert sum(inode.entries_known for inode in kernel.fs.state.inodes) < 2 * KNOWN_MAX


async def test_what_was_forgotten_is_found_again_and_seen_to_change() -> None:
    async with mounted() as (kernel, other):
        for number in range(ENTRIES):
            await kernel.resolve(f"/d/{number:05}")
        await trio.testing.wait_all_tasks_blocked()
        await other.unlink("/d/00001")
        await other.write("/d/00002", 0, b"new")
        await other.write("/d/00003x", 0, b"made")
        names = await kernel.listdir("/d")
        assert "00001" not in names
        assert "00003x" in names
        assert await kernel.read("/d/00002") == b"new"
        assert await kernel.read("/d/00003x") == b"made"


async def test_changes_go_on_in_a_directory_that_is_forgotten_in_parts() -> None:
    async with mounted(0) as (kernel, other):
        for number in range(KNOWN_MAX + 100):
            await kernel.write(f"/d/{number:05}", 0, b"%d" % number)
        for number in range(0, KNOWN_MAX + 100, 3):
            await kernel.unlink(f"/d/{number:05}")
        left = [f"{number:05}" for number in range(KNOWN_MAX + 100) if number % 3]
        assert await other.listdir("/d") == left
        assert await kernel.listdir("/d") == left
        assert await other.read("/d/00001") == b"1"
