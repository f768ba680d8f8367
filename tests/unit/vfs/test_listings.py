"""Listing directories without Python: nothing is told too late, and no entry is lost or told twice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from cairnfs.base.reserved import SNAPSHOTS
from cairnfs.coordinator.namespace.create import create_hidden
from cairnfs.coordinator.namespace.ids import reserve_inode_numbers
from cairnfs.engine.interface import Operation, Transaction
from cairnfs.vfs.interface import Listed
from tests.doubles.answering import HANDLES_FROM, AnsweringVFS, MemoryAnswers
from tests.doubles.rig import ROOT, Rig, SimKernel

Clock = trio.testing.MockClock
NAMES = [f"{number:02}" for number in range(0, 60, 2)]


def book(kernel: SimKernel) -> MemoryAnswers:
    assert isinstance(kernel.fs, AnsweringVFS)
    return kernel.fs.book


@asynccontextmanager
async def two_mounts() -> AsyncIterator[tuple[SimKernel, SimKernel]]:
    """One that made the files NAMES and a hidden entry in `/d`, and another that has not looked yet."""
    async with trio.open_nursery() as nursery:
        rig = Rig(nursery)
        async with rig.mount() as maker, rig.mount() as kernel:
            await maker.mkdir("/d")
            for name in NAMES:
                await maker.write(f"/d/{name}", 0, b"x")
            await kernel.stat("/d")
            directory = await maker.resolve("/d")

            def hide(txn: Transaction) -> None:
                [ino] = reserve_inode_numbers(txn, 1)
                create_hidden(txn, 1, directory, SNAPSHOTS, ino, permissions=0o555, realm=1)

            assert rig.engine.commit([Operation(hide)])[0].error is None
            yield maker, kernel
        assert rig.faults() == []
        nursery.cancel_scope.cancel()


async def part(kernel: SimKernel, handle: int, offset: int, count: int) -> list[Listed]:
    """The next entries, of which the kernel keeps nothing."""
    found: list[Listed] = []
    while len(found) < count and (listed := await kernel.fs.readdir(handle, offset, count - len(found))):
        for entry in listed:
            kernel.fs.listed(entry)
            if entry.node.attr is not None and not entry.bare:
                kernel.fs.forget([(entry.node.attr.ino, 1)])
        found += listed
        offset = listed[-1].next_offset
    return found


def names(listed: list[Listed]) -> list[str]:
    return [entry.name.decode() for entry in listed]


async def test_all_but_the_first_entry_of_a_page_are_told_without_python(autojump_clock: Clock) -> None:
    async with two_mounts() as (_, kernel):
        assert await kernel.listdir("/d") == NAMES
        assert book(kernel).answered["readdir"] >= len(NAMES) // 7


async def test_a_directory_that_is_known_is_opened_and_listed_without_python(autojump_clock: Clock) -> None:
    async with two_mounts() as (_, kernel):
        await kernel.listdir("/d")
        await kernel.listdir("/d")  # now it is published as a whole
        before = book(kernel).answered.copy()
        assert await kernel.listdir("/d") == NAMES
        after = book(kernel).answered
        assert after["opendir"] == before["opendir"] + 1
        assert after["readdir"] == before["readdir"] + len(NAMES) // 7 + 2


async def test_changes_elsewhere_end_it(autojump_clock: Clock) -> None:
    async with two_mounts() as (maker, kernel):
        expected = list(NAMES)
        for number in range(6):
            for _ in range(3):
                assert await kernel.listdir("/d") == expected
            match number % 3:
                case 0:
                    await maker.write(f"/d/{number:02}-new", 0, b"x")
                    expected = sorted([*expected, f"{number:02}-new"])
                case 1:
                    await maker.unlink(f"/d/{expected.pop(3)}")
                case _:
                    await maker.rename(f"/d/{expected.pop(5)}", f"/d/{number:02}-moved")
                    expected = sorted([*expected, f"{number:02}-moved"])
        assert book(kernel).answered["opendir"]


async def test_changes_here_end_it(autojump_clock: Clock) -> None:
    async with two_mounts() as (_, kernel):
        for number in range(4):
            for _ in range(2):
                await kernel.listdir("/d")
            await kernel.write(f"/d/z{number}", 0, b"x")
            await kernel.unlink(f"/d/{NAMES[number]}")
            expected = [*NAMES[number + 1 :], *[f"z{made}" for made in range(number + 1)]]
            assert await kernel.listdir("/d") == expected


async def test_python_goes_on_by_name_with_what_others_began(autojump_clock: Clock) -> None:
    async with two_mounts() as (maker, kernel):
        for _ in range(2):
            await kernel.listdir("/d")
        handle = await kernel.fs.opendir(await kernel.resolve("/d"), ROOT)
        assert handle > HANDLES_FROM
        first = await part(kernel, handle, 0, 10)
        for name in ("00", "03", NAMES[10], "31"):  # two before and two behind, two of which are new
            if name in NAMES:
                await maker.unlink(f"/d/{name}")
            else:
                await maker.write(f"/d/{name}", 0, b"x")
        rest = await part(kernel, handle, first[-1].next_offset, 100)
        found = names(first) + names(rest)
        assert len(found) == len(set(found))
        assert set(NAMES) - {"00", NAMES[10]} <= set(found) <= {*NAMES, "03", "31"}
        again = await part(kernel, handle, 0, 100)
        assert names(again) == sorted({*NAMES, "03", "31"} - {"00", NAMES[10]})
        await kernel.fs.releasedir(handle)


async def test_a_position_from_before_is_found_again(autojump_clock: Clock) -> None:
    async with two_mounts() as (maker, kernel):
        for _ in range(2):
            await kernel.listdir("/d")
        handle = await kernel.fs.opendir(await kernel.resolve("/d"), ROOT)
        whole = await part(kernel, handle, 0, 100)
        await maker.write("/d/z", 0, b"x")
        for entry in (whole[20], whole[4], whole[12]):
            next_one = (await part(kernel, handle, entry.next_offset, 1))[0]
            assert next_one.name > entry.name
            assert next_one.name.decode() == NAMES[NAMES.index(entry.name.decode()) + 1]
        await kernel.fs.releasedir(handle)


async def test_a_directory_that_others_opened_outlives_its_name(autojump_clock: Clock) -> None:
    async with two_mounts() as (_, kernel):
        await kernel.mkdir("/e")
        await kernel.listdir("/")
        for _ in range(3):
            await kernel.listdir("/e")
        ino = await kernel.resolve("/e")
        handle = await kernel.fs.opendir(ino, ROOT)
        assert handle > HANDLES_FROM
        await kernel.rmdir("/e")
        assert await part(kernel, handle, 0, 10) == []
        assert (await kernel.fs.getattr(ino, ROOT)).attr is not None
        await kernel.fs.releasedir(handle)
        book(kernel).catch_up()
        assert kernel.fs.state.inodes.get(ino).handles == 0
