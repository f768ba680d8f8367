"""What every chunk store must do, on disk and in memory."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from cairnfs.base import limits
from cairnfs.base.clock import SystemClock
from cairnfs.base.errors import CairnError
from cairnfs.datanode.disks.array import DiskArray
from cairnfs.datanode.store.checksums import BlockChecksums
from cairnfs.datanode.store.interface import ChunkLocation, ChunkStore, SmallChunk
from cairnfs.datanode.store.local import LocalChunkStore
from cairnfs.datanode.store.memory import MemoryChunkStore
from cairnfs.rpc.v1 import common_pb2 as pb

SMALL = 100_000
LARGE = limits.PACK_CHUNK_MAX_BYTES + 77


def over_disks(*roots: Path) -> DiskArray:
    """A store over several directories."""
    disks = [(root, root.name, "") for root in roots]
    for root in roots:
        root.mkdir(exist_ok=True)
    return DiskArray(disks, lambda root, log: LocalChunkStore(root, requests=log), SystemClock(), Random(5))


@pytest.fixture(params=["memory", "local", "disks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChunkStore]:
    made: ChunkStore
    match request.param:
        case "memory":
            made = MemoryChunkStore()
        case "local":
            made = LocalChunkStore(tmp_path)
        case _:
            made = over_disks(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    yield made
    made.close()


def content(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(b"%d" % seed).digest(size)


def checksums(data: bytes) -> list[int]:
    blocks = BlockChecksums()
    blocks.add(data)
    return blocks.blocks


def put(store: ChunkStore, data: bytes, chunk_id: bytes | None = None) -> bytes:
    """Store `data` the way its size asks for; raises what the store reports."""
    chunk_id = chunk_id or hashlib.sha256(data).digest()
    if len(data) <= limits.PACK_CHUNK_MAX_BYTES:
        (problem,) = store.store_batch([SmallChunk(chunk_id, data, checksums(data))])
        if problem is not None:
            raise problem
    else:
        writer = store.open(chunk_id, len(data))
        try:
            for start in range(0, len(data), 100_000):
                writer.append(memoryview(data)[start : start + 100_000])
            writer.finish(checksums(data))
        finally:
            writer.abort()
    return chunk_id


def get(store: ChunkStore, chunk_id: bytes) -> bytes:
    length = store.length(chunk_id)
    assert length is not None
    return bytes(store.read(chunk_id, 0, length)[0])


def code_of(caught: "pytest.ExceptionInfo[CairnError]") -> int:
    return caught.value.code


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, SMALL, limits.PACK_CHUNK_MAX_BYTES, LARGE])
def test_what_was_stored_comes_back(store: ChunkStore, size: int) -> None:
    data = content(size)
    chunk_id = put(store, data)
    assert store.length(chunk_id) == size
    assert get(store, chunk_id) == data
    assert store.verify(chunk_id) == size


def test_a_chunk_of_the_largest_size(store: ChunkStore) -> None:
    data = content(limits.CHUNK_MAX_BYTES)
    assert get(store, put(store, data)) == data


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (1, 65_535), (65_535, 2), (65_536, 30_000), (70_001, 1), (99_999, 1)]
)
def test_a_range_is_exact_and_carries_its_checksum(
    store: ChunkStore, size: int, offset: int, length: int
) -> None:
    data = content(size)
    chunk_id = put(store, data)
    found, crc = store.read(chunk_id, offset, length)
    assert found == data[offset : offset + length]
    assert crc == BlockChecksums().add(data[offset : offset + length])


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 0), (0, SMALL + 1), (SMALL, 1)])
def test_a_range_outside_of_the_chunk_is_invalid(store: ChunkStore, offset: int, length: int) -> None:
    chunk_id = put(store, content(SMALL))
    with pytest.raises(CairnError) as caught:
        store.read(chunk_id, offset, length)
    assert code_of(caught) == pb.ERROR_CODE_INVALID


def test_an_absent_chunk_is_not_found(store: ChunkStore) -> None:
    absent = bytes(32)
    assert store.length(absent) is None
    for action in (lambda: store.read(absent, 0, 1), lambda: store.verify(absent)):
        with pytest.raises(CairnError) as caught:
            action()
        assert code_of(caught) == pb.ERROR_CODE_NOT_FOUND


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_content_under_a_wrong_name_is_refused(store: ChunkStore, size: int) -> None:
    wrong = hashlib.sha256(b"something else").digest()
    with pytest.raises(CairnError) as caught:
        put(store, content(size), wrong)
    assert code_of(caught) == pb.ERROR_CODE_CORRUPT
    assert store.length(wrong) is None
    assert store.usage().chunks == 0


def test_one_bad_chunk_of_a_batch_leaves_the_others(store: ChunkStore) -> None:
    good, bad = content(500, 1), content(500, 2)
    batch = [
        SmallChunk(hashlib.sha256(good).digest(), good, checksums(good)),
        SmallChunk(bytes(32), bad, checksums(bad)),
        SmallChunk(b"short", bad, checksums(bad)),
    ]
    outcomes = store.store_batch(batch)
    assert outcomes[0] is None
    assert [isinstance(outcome, CairnError) for outcome in outcomes] == [False, True, True]
    assert get(store, batch[0].chunk_id) == good


def test_a_chunk_is_written_whole_or_not_at_all(store: ChunkStore) -> None:
    data = content(LARGE)
    chunk_id = hashlib.sha256(data).digest()
    writer = store.open(chunk_id, LARGE)
    writer.append(data[:1000])
    with pytest.raises(CairnError):
        writer.finish(checksums(data))
    writer.abort()
    assert store.length(chunk_id) is None


def test_more_bytes_than_announced_are_refused(store: ChunkStore) -> None:
    data = content(LARGE)
    writer = store.open(hashlib.sha256(data).digest(), LARGE)
    with pytest.raises(CairnError) as caught:
        writer.append(data + b"x")
    writer.abort()
    assert code_of(caught) == pb.ERROR_CODE_INVALID


def test_an_aborted_chunk_leaves_nothing(store: ChunkStore) -> None:
    before = store.usage()
    writer = store.open(bytes(32), LARGE)
    writer.append(content(1000))
    writer.abort()
    writer.abort()
    after = store.usage()
    assert (after.chunks, after.used_bytes) == (before.chunks, before.used_bytes)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_storing_again_keeps_one_chunk(store: ChunkStore, size: int) -> None:
    data = content(size)
    chunk_id = hashlib.sha256(data).digest()
    assert not store.request(chunk_id)
    put(store, data)
    assert store.request(chunk_id)
    put(store, data)
    assert get(store, chunk_id) == data
    assert store.usage().chunks == 1


def test_a_listing_is_sorted_and_goes_on_after_any_id(store: ChunkStore) -> None:
    expected = sorted((put(store, content(size, size)), size) for size in (10, 20, 30, LARGE, 40))
    listed = [(entry.chunk_id, entry.length) for entry in store.list_chunks(b"", 100)]
    assert listed == expected
    page = store.list_chunks(expected[1][0], 2)
    assert [entry.chunk_id for entry in page] == [chunk_id for chunk_id, _ in expected[2:4]]
    assert store.list_chunks(expected[-1][0], 5) == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_deleted_chunk_is_gone(store: ChunkStore, size: int) -> None:
    chunk_id = put(store, content(size))
    other = put(store, content(size, 1))
    assert store.delete([chunk_id, bytes(32)], store.seq, store.boot) == []
    assert store.length(chunk_id) is None
    assert [entry.chunk_id for entry in store.list_chunks(b"", 10)] == [other]
    assert store.usage().chunks == 1
    assert put(store, content(size)) == chunk_id
    assert get(store, chunk_id) == content(size)


def test_a_chunk_requested_after_the_decision_is_kept(store: ChunkStore) -> None:
    chunk_id = put(store, content(SMALL))
    store.request(chunk_id)
    decided = store.seq
    store.request(chunk_id)
    assert store.seq == decided + 1
    assert store.delete([chunk_id], decided, store.boot) == [chunk_id]
    assert store.length(chunk_id) == SMALL
    assert store.delete([chunk_id], decided + 1, store.boot) == []
    assert store.length(chunk_id) is None


def test_a_decision_made_about_another_boot_deletes_nothing(store: ChunkStore) -> None:
    chunk_id = put(store, content(SMALL))
    assert store.delete([chunk_id], 1 << 60, "an older boot") == [chunk_id]
    assert store.length(chunk_id) == SMALL


def test_a_full_store_says_so_and_stays_as_it_was(
    request: pytest.FixtureRequest, tmp_path: Path, store: ChunkStore
) -> None:
    capacity = 1_000_000
    full: ChunkStore = (
        MemoryChunkStore(capacity)
        if isinstance(store, MemoryChunkStore)
        else LocalChunkStore(tmp_path / "full", capacity_bytes=capacity)
    )
    first = put(full, content(LARGE, 1))
    used = full.usage().used_bytes
    assert full.usage().read_only
    big = content(900_000, 2)
    with pytest.raises(CairnError) as caught:
        full.open(hashlib.sha256(big).digest(), len(big))
    assert code_of(caught) == pb.ERROR_CODE_NO_SPACE
    fillers = [put(full, content(250_000, seed)) for seed in (3, 4)]
    with pytest.raises(CairnError) as caught:
        put(full, content(250_000, 5))
    assert code_of(caught) == pb.ERROR_CODE_NO_SPACE
    full.delete(fillers, full.seq, full.boot)
    full.maintain()
    assert full.usage().used_bytes == used
    assert get(full, first) == content(LARGE, 1)
    full.close()


def located(location: ChunkLocation, descriptor: int | None = None) -> bytes:
    """The bytes at a location, read by its own descriptor (closed here) or by another of the same file."""
    if location.descriptor is not None:
        with open(location.descriptor, "rb") as file:
            return os.pread(file.fileno(), location.length, location.position)
    assert descriptor is not None
    return os.pread(descriptor, location.length, location.position)


@pytest.mark.parametrize("size", [1, 65_536, SMALL, limits.PACK_CHUNK_MAX_BYTES, LARGE])
def test_a_located_chunk_is_read_from_its_descriptor(store: ChunkStore, size: int) -> None:
    put(store, content(777))
    data = content(size, 5)
    location = store.locate(put(store, data))
    assert location.length == size
    assert list(location.block_checksums) == checksums(data)
    assert location.descriptor is not None
    assert located(location) == data


def test_only_stored_chunks_are_located(store: ChunkStore) -> None:
    with pytest.raises(CairnError) as caught:
        store.locate(bytes(32))
    assert code_of(caught) == pb.ERROR_CODE_NOT_FOUND


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_descriptor_outlives_the_deletion_of_its_chunk(store: ChunkStore, size: int) -> None:
    data = content(size)
    chunk_id = put(store, data)
    location = store.locate(chunk_id)
    assert store.delete([chunk_id], store.seq, store.boot) == []
    store.maintain()
    assert located(location) == data
