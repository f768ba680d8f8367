"""The read cache on disk: what it gives back is right, what it holds is bounded, and it may fail."""

import os
import random
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id
from cairnfs.base.limits import KIB, MIB
from cairnfs.vfs.chunk_cache import ChunkCache
from cairnfs.vfs.chunk_files import FORMAT, ChunkFiles
from cairnfs.vfs.chunk_source import ChunkSource
from cairnfs.vfs.disk_cache import DiskCache
from cairnfs.vfs.extents import Extent
from tests.doubles.rig import MemoryChunks

SIZE = limits.CACHE_SIZE_MIN_BYTES


@pytest.fixture
def files(tmp_path: Path) -> ChunkFiles:
    return ChunkFiles(tmp_path / "cache", SIZE)


def stored(directory: Path) -> list[Path]:
    return [path for path in (directory / FORMAT).glob("??/*") if not path.name.startswith(".")]


def used_bytes(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in stored(directory))


@pytest.mark.parametrize("size", [1, 4096, 64 * KIB, 64 * KIB + 1, 300 * KIB])
def test_every_part_of_a_chunk_comes_back(files: ChunkFiles, size: int) -> None:
    data = random.Random(size).randbytes(size)
    name = chunk_id(data)
    assert files.read(name, size, 0, size) is None
    files.write(name, data)
    assert files.read(name, size, 0, size) == data
    chooser = random.Random(1)
    for _ in range(50):
        offset = chooser.randrange(size)
        length = chooser.randrange(1, size - offset + 1)
        assert files.read(name, size, offset, length) == data[offset : offset + length]


def test_only_its_owner_can_look_inside(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    files = ChunkFiles(cache, SIZE)
    files.write(chunk_id(b"data"), b"data")
    assert (cache / FORMAT).stat().st_mode & 0o777 == 0o700
    [path] = stored(cache)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / FORMAT).mkdir(mode=0o755)
    (tmp_path / FORMAT).chmod(0o755)
    with pytest.raises(PermissionError):
        ChunkFiles(tmp_path, SIZE)


def test_a_link_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / FORMAT).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        ChunkFiles(tmp_path, SIZE)


@pytest.mark.parametrize("where", [0, 10, 45, 60, 70, 5000, -1])
def test_a_changed_byte_makes_the_file_go(files: ChunkFiles, tmp_path: Path, where: int) -> None:
    data = random.Random(1).randbytes(100 * KIB)
    name = chunk_id(data)
    files.write(name, data)
    [path] = stored(tmp_path / "cache")
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    assert files.read(name, len(data), 0, len(data)) is None
    assert not stored(tmp_path / "cache")


@pytest.mark.parametrize("length", [0, 10, 60, 64 * KIB])
def test_a_file_cut_short_by_a_crash_is_no_chunk(files: ChunkFiles, tmp_path: Path, length: int) -> None:
    data = random.Random(1).randbytes(100 * KIB)
    files.write(chunk_id(data), data)
    [path] = stored(tmp_path / "cache")
    os.truncate(path, length)
    assert files.read(chunk_id(data), len(data), 70 * KIB, 10) is None
    assert not stored(tmp_path / "cache")


def test_another_chunks_file_is_not_taken(files: ChunkFiles, tmp_path: Path) -> None:
    files.write(chunk_id(b"one"), b"one")
    files.write(chunk_id(b"two"), b"two")
    one, two = (
        next(p for p in stored(tmp_path / "cache") if chunk_id(t).hex().endswith(p.name))
        for t in (b"one", b"two")
    )
    shutil.copy(one, two)
    assert files.read(chunk_id(b"two"), 3, 0, 3) is None
    assert files.read(chunk_id(b"one"), 3, 0, 3) == b"one"


def test_the_least_recently_used_go_when_the_bound_is_reached(tmp_path: Path) -> None:
    files, cache = ChunkFiles(tmp_path, SIZE), tmp_path
    favourite = bytes(2 * MIB)
    files.write(chunk_id(favourite), favourite)
    for number in range(SIZE // (2 * MIB) + 40):
        data = number.to_bytes(8, "big") + bytes(2 * MIB)
        files.write(chunk_id(data), data)
        if number % 10 == 0:
            for path in stored(cache):
                when = path.stat().st_mtime - 100
                os.utime(path, (when, when))
            assert files.read(chunk_id(favourite), len(favourite), 0, 10) is not None
        assert used_bytes(cache) <= SIZE
    assert used_bytes(cache) >= SIZE * 3 // 4


def test_two_processes_stay_within_the_bound(tmp_path: Path) -> None:
    """Two objects know nothing of each other, as in two processes."""
    both = [ChunkFiles(tmp_path, SIZE), ChunkFiles(tmp_path, SIZE)]
    for number in range(SIZE // (2 * MIB) + 40):
        data = number.to_bytes(8, "big") + bytes(2 * MIB)
        both[number % 2].write(chunk_id(data), data)
        assert used_bytes(tmp_path) <= SIZE
    assert both[0].read(chunk_id(data), len(data), 0, len(data)) == data


def test_abandoned_temporary_files_go(files: ChunkFiles, tmp_path: Path) -> None:
    name = chunk_id(b"x")
    shard = tmp_path / "cache" / FORMAT / name.hex()[:2]
    shard.mkdir(mode=0o700)
    old, new = shard / ".1-1", shard / ".1-2"
    for path in (old, new):
        path.touch()
    os.utime(old, (1, 1))
    files.write(name, b"x")
    assert not old.exists()
    assert new.exists()


def test_a_directory_that_vanished_is_made_again(files: ChunkFiles, tmp_path: Path) -> None:
    files.write(chunk_id(b"one"), b"one")
    shutil.rmtree(tmp_path / "cache")
    assert files.read(chunk_id(b"one"), 3, 0, 3) is None
    files.write(chunk_id(b"two"), b"two")
    assert files.read(chunk_id(b"two"), 3, 0, 3) == b"two"


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file of this process may exceed 64 KiB: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * KIB, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("small_files_only")
def test_a_chunk_that_finds_no_room_leaves_nothing(files: ChunkFiles, tmp_path: Path) -> None:
    data = bytes(200 * KIB)
    with pytest.raises(OSError, match=r"full|large"):
        files.write(chunk_id(data), data)
    assert not list((tmp_path / "cache" / FORMAT).glob("??/*"))
    assert not list((tmp_path / "cache" / FORMAT).glob("??/.*"))


# ---------------------------------------------------------------------- the asynchronous side


def extent(data: bytes) -> Extent:
    return Extent(0, len(data), chunk_id(data), 0, len(data), (1,))


async def until_stored(directory: Path, count: int) -> None:
    with trio.fail_after(20):
        while len(stored(directory)) < count:  # noqa: ASYNC110 - a thread writes
            await trio.sleep(0.01)


async def test_what_one_mount_read_another_finds(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(100_000)
    chunks = MemoryChunks({chunk_id(data): data})
    async with trio.open_nursery() as nursery:
        first = DiskCache(ChunkFiles(tmp_path, SIZE))
        nursery.start_soon(first.run)
        source = ChunkSource(chunks, ChunkCache(0), first)
        assert bytes(await source.whole(extent(data))) == data
        await until_stored(tmp_path, 1)
        chunks.chunks.clear()
        second = ChunkSource(chunks, ChunkCache(0), DiskCache(ChunkFiles(tmp_path, SIZE)))
        assert bytes(await second.whole(extent(data))) == data
        assert await second.part(extent(data).clip(500, 600)) == data[500:600]
        nursery.cancel_scope.cancel()


class BrokenFiles(ChunkFiles):
    """A disk that fails."""

    calls = 0

    def read(self, chunk_id: bytes, chunk_length: int, offset: int, length: int) -> bytes | None:
        self.calls += 1
        raise OSError(5, "input/output error")

    def write(self, chunk_id: bytes, data: bytes) -> None:
        self.calls += 1
        raise OSError(28, "no space left on device")


class HangingFiles(BrokenFiles):
    """A disk that does not answer until it is let go."""

    go = threading.Event()

    def read(self, chunk_id: bytes, chunk_length: int, offset: int, length: int) -> bytes | None:
        self.calls += 1
        self.go.wait(20)
        return None


async def test_a_disk_that_fails_is_left_alone(tmp_path: Path, announced_warnings: list[str]) -> None:
    announced_warnings.append("the disk read cache is not used for a while")
    data = b"some data"
    files = BrokenFiles(tmp_path, SIZE)
    async with trio.open_nursery() as nursery:
        disk = DiskCache(files)
        nursery.start_soon(disk.run)
        source = ChunkSource(MemoryChunks({chunk_id(data): data}), ChunkCache(0), disk)
        for _ in range(3):
            assert bytes(await source.whole(extent(data))) == data
        assert files.calls == 1
        nursery.cancel_scope.cancel()


async def test_a_full_disk_is_left_alone(tmp_path: Path, announced_warnings: list[str]) -> None:
    announced_warnings.append("no space left")
    files = BrokenFiles(tmp_path, SIZE)
    async with trio.open_nursery() as nursery:
        disk = DiskCache(files)
        nursery.start_soon(disk.run)
        disk.keep(b"1" * 32, b"data")
        with trio.fail_after(20):
            while not files.calls:  # noqa: ASYNC110 - a thread writes
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        disk.keep(b"2" * 32, b"data")
        assert await disk.get(b"1" * 32, 4, 0, 4) is None
        assert files.calls == 1
        nursery.cancel_scope.cancel()


async def test_a_disk_that_hangs_does_not_hang_readers(
    tmp_path: Path, announced_warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announced_warnings.append("no answer")
    monkeypatch.setattr(limits, "CACHE_DEADLINE_S", 0.2)
    files = HangingFiles(tmp_path, SIZE)
    disk = DiskCache(files)
    try:
        assert await disk.get(b"1" * 32, 4, 0, 4) is None
        assert await disk.get(b"1" * 32, 4, 0, 4) is None
        assert files.calls == 1
    finally:
        files.go.set()


async def test_what_waits_to_be_written_is_bounded(tmp_path: Path) -> None:
    disk = DiskCache(ChunkFiles(tmp_path, SIZE))
    block = bytes(4 * MIB)
    for number in range(20):
        disk.keep(bytes([number]) * 32, block)
    kept = [number for number in range(20) if await disk.get(bytes([number]) * 32, 4 * MIB, 0, 1)]
    assert kept == list(range(limits.CACHE_WAITING_MAX_BYTES // (4 * MIB)))
