"""Fetching ahead of programs that go through directories: how few requests it takes, and when it ends."""

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.limits import KIB
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.state import MountPolicy
from cairnfs.vfs.walks import Page
from tests.doubles.rig import MemoryChunks, Rig, SimKernel

Clock = trio.testing.MockClock


class CountedChunks(MemoryChunks):
    """Chunks that count how often one is retrieved, and can fail."""

    retrieved = 0
    broken = False

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        self.retrieved += 1
        if self.broken:
            raise CairnError(common.ERROR_CODE_UNAVAILABLE)
        return await super().retrieve(chunk_id, chunk_length, nodes, offset, length)


class CountingRig(Rig):
    """A rig that remembers what its newest client has asked for."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._asked: defaultdict[int, Counter[str]] = defaultdict(Counter)
        super().__init__(nursery)
        self.chunks = self.counted = CountedChunks()

    def receive(self, number: int, message: pb.ClientMessage) -> None:
        self._asked[number].update(request.WhichOneof("op") or "" for request in message.requests)
        super().receive(number, message)

    @property
    def asked(self) -> Counter[str]:
        """How many requests of each kind the newest client has sent."""
        return self._asked[max(self._asked)]


@asynccontextmanager
async def cold_mount(
    paths: dict[str, bytes], policy: MountPolicy | None = None
) -> AsyncIterator[tuple[SimKernel, CountingRig]]:
    """A mount of a tree that another one made."""
    async with trio.open_nursery() as nursery:
        rig = CountingRig(nursery)
        async with rig.mount() as maker:
            made = {""}
            for path, content in paths.items():
                parts = path.split("/")[1:-1]
                for depth in range(len(parts)):
                    directory = "/" + "/".join(parts[: depth + 1])
                    if directory not in made:
                        made.add(directory)
                        await maker.mkdir(directory)
                await maker.write(path, 0, content)
        async with rig.mount(policy) as kernel:
            rig.counted.retrieved = 0
            yield kernel, rig
        nursery.cancel_scope.cancel()


def flat(files: int, size: int = 100) -> dict[str, bytes]:
    return {f"/d/f{number:04d}": (b"%04d" % number).ljust(size, b".") for number in range(files)}


async def test_stat_of_file_after_file_takes_few_requests(autojump_clock: Clock) -> None:
    tree = flat(700)
    async with cold_mount(tree) as (kernel, rig):
        for path in tree:
            assert (await kernel.stat(path)).size == 100
        assert rig.asked["lookup"] <= 12
        assert rig.asked["readdir"] <= 4
        assert rig.asked.total() <= 16


async def test_names_that_are_not_there_are_known_with_the_rest(
    autojump_clock: Clock,
) -> None:
    async with cold_mount(flat(200)) as (kernel, rig):
        for number in range(100):
            assert not await kernel.exists(f"/d/absent{number}")
        assert rig.asked["lookup"] <= 25


async def test_reading_file_after_file_takes_few_requests(autojump_clock: Clock) -> None:
    tree = flat(300)
    async with cold_mount(tree) as (kernel, rig):
        for path, content in tree.items():
            assert await kernel.read(path) == content
        asked = rig.asked
        assert asked["get_extents"] <= 6
        assert asked.total() <= 40
        assert rig.counted.retrieved == len(tree)


async def test_reading_after_a_listing_takes_few_requests(autojump_clock: Clock) -> None:
    tree = flat(300)
    async with cold_mount(tree) as (kernel, rig):
        await kernel.listdir("/d")
        for path, content in tree.items():
            assert await kernel.read(path) == content
        assert rig.asked["get_extents"] <= 4
        assert rig.asked.total() <= 20


async def test_a_tree_is_read_in_few_requests(autojump_clock: Clock) -> None:
    tree = {f"/t/{a}/{b}/f{c}": f"{a}{b}{c}".encode() for a in range(6) for b in range(6) for c in range(10)}
    async with cold_mount(tree) as (kernel, rig):

        async def walk(path: str) -> int:
            count = 0
            for name in await kernel.listdir(path):
                below = f"{path}/{name}"
                if name.startswith("f"):
                    assert await kernel.read(below) == tree[below]
                    count += 1
                else:
                    count += await walk(below)
            return count

        assert await walk("/t") == len(tree)
        asked = rig.asked
        assert asked["get_extents"] <= 12
        assert asked["readdir"] <= 70
        assert asked.total() <= 80


async def test_a_tree_is_looked_through_without_asking_for_single_names(autojump_clock: Clock) -> None:
    tree = {f"/t/{a}/{b}/f{c}": b"x" for a in range(6) for b in range(6) for c in range(5)}
    async with cold_mount(tree) as (kernel, rig):
        for path in tree:
            await kernel.stat(path)
        assert rig.asked["lookup"] <= 4
        assert rig.asked["readdir"] <= 60


async def test_one_file_brings_no_others(autojump_clock: Clock) -> None:
    async with cold_mount(flat(100)) as (kernel, rig):
        await kernel.read("/d/f0050")
        await trio.sleep(1)
        assert rig.counted.retrieved == 1
        assert rig.asked["readdir"] == 0


async def test_reading_here_and_there_fetches_little(autojump_clock: Clock) -> None:
    async with cold_mount(flat(400, 64 * KIB)) as (kernel, rig):
        for number in (390, 10, 200):
            await kernel.read(f"/d/f{number:04d}")
            await trio.sleep(0.1)
        await trio.sleep(1)
        assert rig.counted.retrieved <= 30


async def test_large_files_are_not_prefetched(autojump_clock: Clock) -> None:
    async with cold_mount({**flat(3), **{f"/d/x{n}": bytes(600 * KIB) for n in range(4)}}) as (kernel, rig):
        for number in range(3):
            await kernel.read(f"/d/f{number:04d}")
        await trio.sleep(1)
        assert rig.counted.retrieved == 3


async def test_without_memory_for_it_no_content_is_fetched_ahead(
    autojump_clock: Clock,
) -> None:
    tree = flat(50)
    async with cold_mount(tree, MountPolicy(read_cache_max_bytes=0)) as (kernel, rig):
        for path, content in tree.items():
            assert await kernel.read(path) == content
        assert rig.counted.retrieved <= 2 * len(tree)


async def test_a_failure_ahead_is_not_the_readers(autojump_clock: Clock) -> None:
    tree = flat(100)
    async with cold_mount(tree) as (kernel, rig):
        first, second, *_ = tree
        await kernel.read(first)
        await kernel.stat(second)
        rig.counted.broken = True
        with pytest.raises(CairnError):
            await kernel.read(second)
        await trio.sleep(1)
        rig.counted.broken = False
        for path, content in tree.items():
            assert await kernel.read(path) == content


async def test_names_that_others_put_before_a_file_end_locating_it(
    autojump_clock: Clock,
) -> None:
    async with cold_mount({"/d/b": b"b", "/d/d": b"d", "/d/e": b"e"}) as (kernel, rig), rig.mount() as other:
        directory = kernel.fs.state.inodes.get(await kernel.resolve("/d"))
        prefetcher = kernel.fs.prefetcher
        walk = prefetcher._walk(directory.ino)
        await prefetcher._page(directory, walk, Page(b"", 100))
        files = [entry for entry in walk.listing if entry.name == b"d"]
        await other.write("/d/c", 0, b"c")
        await other.write("/d/d", 0, b"new")
        rig.messages_left = 50
        await prefetcher._locate(directory, walk, files)


async def test_what_is_remembered_of_directories_is_bounded(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WALKS_MAX", 4)
    monkeypatch.setattr(limits, "WALK_ENTRIES_MAX", 60)
    tree = {f"/d{number}/f{file}": b"x" for number in range(8) for file in range(30)}
    async with cold_mount(tree) as (kernel, _):
        walks = kernel.fs.prefetcher._walks
        for number in range(8):
            await kernel.listdir(f"/d{number}")
            assert len(walks) <= 4
            assert sum(len(walk.listing) for walk in walks.values()) <= 60 + 2 * 30
