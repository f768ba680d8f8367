"""What a chunk store on disk must survive: damage, torn ends, full disks, and being killed."""

import errno
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.local import LocalChunkStore
from cairnfs.datanode.store.packed import PackPlace
from cairnfs.datanode.store.packs import LIVE, record_bytes
from cairnfs.rpc.v1 import common_pb2 as pb
from tests.contract.test_chunk_store import LARGE, SMALL, checksums, content, get, located, put


def reopened(store: LocalChunkStore, root: Path) -> LocalChunkStore:
    store.close()
    return LocalChunkStore(root)


def chunk_file(root: Path, chunk_id: bytes) -> Path:
    return root / "chunks" / chunk_id.hex()[:2] / chunk_id.hex()


def newest_pack(root: Path) -> Path:
    return max((root / "packs").iterdir())


def flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    stored = {put(store, content(size, size)): size for size in (1, SMALL, 65_536, LARGE, 1_000_000)}
    gone = [put(store, content(777)), put(store, content(LARGE, 9))]
    store.delete(gone, store.seq, store.boot)
    used = store.usage().used_bytes
    boot = store.boot
    store = reopened(store, tmp_path)
    assert {entry.chunk_id: entry.length for entry in store.list_chunks(b"", 100)} == stored
    assert all(get(store, chunk_id) == content(size, size) for chunk_id, size in stored.items())
    assert store.usage().used_bytes == used
    assert store.boot != boot
    store.close()


@pytest.mark.parametrize("position", [0, 100_000, LARGE - 1, LARGE, LARGE + 3, LARGE + 25])
def test_a_flipped_bit_in_a_file_is_found_and_healed_by_storing_again(tmp_path: Path, position: int) -> None:
    store = LocalChunkStore(tmp_path)
    chunk_id = put(store, content(LARGE))
    flip(chunk_file(tmp_path, chunk_id), position)
    with pytest.raises(CairnError) as caught:
        store.verify(chunk_id)
    assert caught.value.code == pb.ERROR_CODE_CORRUPT
    assert not store.request(chunk_id), "a corrupt chunk must not count as stored"
    assert [entry.damaged for entry in store.list_chunks(b"", 9)] == [True]
    put(store, content(LARGE))
    assert store.verify(chunk_id) == LARGE
    assert [entry.damaged for entry in store.list_chunks(b"", 9)] == [False]
    assert store.request(chunk_id)
    store.close()


@pytest.mark.parametrize("position", [5, 20, 45, 60, 70_000])
def test_a_flipped_bit_in_a_pack_is_found_and_healed_by_storing_again(tmp_path: Path, position: int) -> None:
    store = LocalChunkStore(tmp_path)
    chunk_id = put(store, content(SMALL))
    after = put(store, content(SMALL, 1))
    flip(newest_pack(tmp_path), position)
    with pytest.raises(CairnError) as caught:
        store.verify(chunk_id)
    assert caught.value.code == pb.ERROR_CODE_CORRUPT
    assert [entry.chunk_id for entry in store.list_chunks(b"", 9) if entry.damaged] == [chunk_id]
    put(store, content(SMALL))
    assert store.verify(chunk_id) == SMALL
    store = reopened(store, tmp_path)
    assert store.verify(chunk_id) == SMALL
    assert store.verify(after) == SMALL
    store.close()


def test_a_damaged_block_spares_reads_of_other_blocks(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    data = content(LARGE)
    chunk_id = put(store, data)
    flip(chunk_file(tmp_path, chunk_id), 70_000)
    assert store.read(chunk_id, 0, 65_536)[0] == data[:65_536]
    with pytest.raises(CairnError):
        store.read(chunk_id, 65_536, 1)
    store.close()


@pytest.mark.parametrize("cut", [1, 50, 4_000, SMALL - 10])
def test_a_torn_end_of_a_pack_is_cut(tmp_path: Path, cut: int) -> None:
    store = LocalChunkStore(tmp_path)
    first = put(store, content(SMALL, 1))
    torn = put(store, content(SMALL, 2))
    pack = newest_pack(tmp_path)
    store.close()
    os.truncate(pack, pack.stat().st_size - cut)
    store = LocalChunkStore(tmp_path)
    assert get(store, first) == content(SMALL, 1)
    assert store.length(torn) is None
    assert pack.stat().st_size == record_bytes(SMALL)
    put(store, content(SMALL, 2))
    store = reopened(store, tmp_path)
    assert get(store, torn) == content(SMALL, 2)
    store.close()


def test_a_record_that_never_reached_the_disk_is_dropped(tmp_path: Path) -> None:
    """After a power cut the pages of an unsynced batch may be there in any order."""
    store = LocalChunkStore(tmp_path)
    chunks = [put(store, content(SMALL, seed)) for seed in range(3)]
    pack = newest_pack(tmp_path)
    store.close()
    with pack.open("r+b") as file:
        file.seek(record_bytes(SMALL))
        file.write(bytes(SMALL // 2))
    store = LocalChunkStore(tmp_path)
    assert [entry.chunk_id for entry in store.list_chunks(b"", 9)] == sorted([chunks[0], chunks[2]])
    assert get(store, chunks[2]) == content(SMALL, 2)
    store.close()


def test_temporary_files_of_a_crash_are_removed(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    (tmp_path / "temp" / "abc-7").write_bytes(b"half")
    (tmp_path / "chunks" / "00" / ("0" * 64)).write_bytes(b"")
    store = reopened(store, tmp_path)
    assert list((tmp_path / "temp").iterdir()) == []
    assert store.list_chunks(b"", 9) == []
    store.close()


def test_a_mostly_dead_pack_is_compacted(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    chunks = [put(store, content(SMALL, seed)) for seed in range(10)]
    old = newest_pack(tmp_path)
    store.delete(chunks[:6], store.seq, store.boot)
    assert store.maintain() == 6 * record_bytes(SMALL)
    assert not old.exists()
    assert store.usage().used_bytes == 4 * record_bytes(SMALL)
    store = reopened(store, tmp_path)
    for seed in range(6, 10):
        assert get(store, chunks[seed]) == content(SMALL, seed)
    assert store.usage().chunks == 4
    assert store.maintain() == 0
    store.close()


def test_nothing_is_left_on_the_disk_of_what_was_deleted(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    stored = [put(store, content(size, size)) for size in (1, SMALL, 65_536, LARGE, 1_000_000)]
    store.delete(stored, store.seq, store.boot)
    store.maintain()
    assert store.usage().used_bytes == 0
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    store.close()


def test_a_crash_between_the_halves_of_a_compaction_loses_nothing(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    chunks = [put(store, content(SMALL, seed)) for seed in range(4)]
    old = newest_pack(tmp_path)
    store.delete(chunks[:3], store.seq, store.boot)
    before = old.read_bytes()
    store.maintain()
    store.close()
    old.write_bytes(before)
    store = LocalChunkStore(tmp_path)
    assert get(store, chunks[3]) == content(SMALL, 3)
    store.maintain()
    store.delete([chunks[3]], store.seq, store.boot)
    store.maintain()
    store = reopened(store, tmp_path)
    assert store.list_chunks(b"", 9) == []
    assert store.usage().used_bytes == 0
    store.close()


def test_a_reserve_of_the_disk_is_left_alone(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path, reserve_bytes=1 << 60)
    assert store.usage().available_bytes == 0
    with pytest.raises(CairnError) as caught:
        put(store, content(SMALL))
    assert caught.value.code == pb.ERROR_CODE_NO_SPACE
    store.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_disk_that_fills_up_midway_leaves_nothing_half_written(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalChunkStore(tmp_path)
    first = put(store, content(SMALL, 1))
    used = store.usage().used_bytes
    write = os.pwrite
    left = [SMALL // 2]

    def until_full(fd: int, data: bytes | memoryview, position: int) -> int:
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        written = write(fd, memoryview(data)[: left[0]], position)
        left[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", until_full)
    with pytest.raises(CairnError) as caught:
        put(store, content(size, 2))
    monkeypatch.undo()
    assert caught.value.code == pb.ERROR_CODE_NO_SPACE
    assert store.usage().used_bytes == used
    assert newest_pack(tmp_path).stat().st_size == record_bytes(SMALL)
    assert list((tmp_path / "temp").iterdir()) == []
    second = put(store, content(size, 2))
    store = reopened(store, tmp_path)
    assert {entry.chunk_id for entry in store.list_chunks(b"", 9)} == {first, second}
    store.close()


_STORING = """
import sys
from pathlib import Path
from cairnfs.datanode.store.local import LocalChunkStore
from tests.contract.test_chunk_store import LARGE, content, put

store = LocalChunkStore(Path(sys.argv[1]))
seed = 0
while True:
    seed += 1
    size = LARGE if seed % 3 == 0 else 1 + seed * 7919 % 200_000
    put(store, content(size, seed))
    print(seed, size, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 30])
def test_what_was_acknowledged_before_kill_9_is_there(tmp_path: Path, acknowledged: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _STORING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(acknowledged)]
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    store = LocalChunkStore(tmp_path)
    for line in lines:
        seed, size = map(int, line.split())
        assert get(store, hashlib.sha256(content(size, seed)).digest()) == content(size, seed)
    for entry in store.list_chunks(b"", 10_000):
        store.verify(entry.chunk_id)
    assert list((tmp_path / "temp").iterdir()) == []
    store.close()


def test_a_chunk_deleted_while_it_is_compacted_stays_deleted(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    keep = put(store, content(SMALL, 1))
    gone = [put(store, content(SMALL, seed)) for seed in range(2, 6)]
    store.delete(gone[1:], store.seq, store.boot)
    copy = store._packed.copy

    def delete_meanwhile(places: Sequence[PackPlace]) -> list[PackPlace]:
        store.delete(gone[:1], store.seq, store.boot)
        return copy(places)

    store._packed.copy = delete_meanwhile  # type: ignore[method-assign]
    store.maintain()
    store = reopened(store, tmp_path)
    assert [entry.chunk_id for entry in store.list_chunks(b"", 9)] == [keep]
    store.close()


def test_packs_are_closed_when_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PACK_FILE_MAX_BYTES", 2 * SMALL)
    store = LocalChunkStore(tmp_path)
    chunks = [put(store, content(SMALL, seed)) for seed in range(6)]
    assert len(list((tmp_path / "packs").iterdir())) == 3
    store = reopened(store, tmp_path)
    for seed, chunk_id in enumerate(chunks):
        assert get(store, chunk_id) == content(SMALL, seed)
    store.close()


def test_descriptors_for_others_cannot_write(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    for size in (SMALL, LARGE):
        location = store.locate(put(store, content(size)))
        assert location.descriptor is not None
        with open(location.descriptor, "rb") as file:
            assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    store.close()


def test_a_pack_that_is_held_comes_without_a_descriptor(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    first, second = store.locate(put(store, content(10))), put(store, content(20))
    again = store.locate(second, held_packs=[first.pack])
    assert again.pack == first.pack != 0
    assert again.descriptor is None
    with open(first.descriptor or 0, "rb") as file:
        assert located(again, file.fileno()) == content(20)
    store.close()


def test_neighbours_are_the_live_chunks_around_in_the_pack(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    contents = [content(5_000, seed) for seed in range(60)]
    chunk_ids = [put(store, data) for data in contents]
    store.delete(chunk_ids[28:30], store.seq, store.boot)
    for middle in (0, 27, 59):
        found = store.locate_neighbours(chunk_ids[middle])
        reach = limits.LOCATE_AHEAD_BYTES // record_bytes(5_000)
        around = range(max(0, middle - reach), min(60, middle + reach + 1))
        wanted = [chunk_ids[n] for n in around if n not in (middle, 28, 29)]
        assert [location.chunk_id for location in found if location.chunk_id in wanted] == wanted
        assert len(found) <= len(wanted) + 2, "and at the borders perhaps one more"
        alone = store.locate(chunk_ids[middle])
        with open(alone.descriptor or 0, "rb") as file:
            assert all(
                located(each, file.fileno()) == contents[chunk_ids.index(each.chunk_id)] for each in found
            )
    assert store.locate_neighbours(put(store, content(LARGE))) == []
    store.close()


def test_neighbours_are_found_beside_chunks_that_look_like_records(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    tricky = [put(store, (LIVE + b"1234") * 5_000 + bytes([seed])) for seed in range(10)]
    for middle in range(10):
        found = [location.chunk_id for location in store.locate_neighbours(tricky[middle])]
        assert tricky[middle] not in found
        assert set(found) <= set(tricky)
    store.close()


def test_a_descriptor_outlives_the_compaction_of_its_pack(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    kept, *gone = [put(store, content(SMALL, seed)) for seed in range(4)]
    before = store.locate(kept)
    store.delete(gone, store.seq, store.boot)
    assert store.maintain() > 0
    after = store.locate(kept, held_packs=[before.pack])
    assert after.pack != before.pack
    assert located(before) == located(after) == content(SMALL)
    store.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_chunk_found_damaged_is_not_located(tmp_path: Path, size: int) -> None:
    store = LocalChunkStore(tmp_path)
    chunk_id = put(store, content(size))
    flip(newest_pack(tmp_path) if size == SMALL else chunk_file(tmp_path, chunk_id), 70_000)
    location = store.locate(chunk_id)
    assert located(location) != content(size), "its checksums tell the reader"
    with pytest.raises(CairnError):
        store.verify(chunk_id)
    with pytest.raises(CairnError) as caught:
        store.locate(chunk_id)
    assert caught.value.code == pb.ERROR_CODE_CORRUPT
    put(store, content(size))
    assert located(store.locate(chunk_id)) == content(size)
    store.close()


def put_past_the_page_cache(store: LocalChunkStore, data: bytes, pieces: Sequence[int]) -> bytes:
    chunk_id = hashlib.sha256(data).digest()
    writer = store.open(chunk_id, len(data), keep_in_memory=False)
    at = 0
    for size in pieces:
        writer.append(data[at : at + size])
        at += size
    writer.append(data[at:])
    writer.finish(checksums(data))
    writer.abort()
    return chunk_id


@pytest.mark.parametrize(
    "size", [LARGE, 1_000_000, 1 << 20, limits.CHUNK_MAX_BYTES - 1, limits.CHUNK_MAX_BYTES]
)
@pytest.mark.parametrize(
    "pieces", [[], [4096, 8192], [1, 4095, 4096], [limits.FRAME_MAX_BYTES // 4], [5_000] * 3]
)
def test_what_was_written_past_the_page_cache_is_complete(
    tmp_path: Path, size: int, pieces: list[int]
) -> None:
    store = LocalChunkStore(tmp_path)
    chunk_id = put_past_the_page_cache(store, content(size), pieces)
    assert store.verify(chunk_id) == size
    store = reopened(store, tmp_path)
    assert get(store, chunk_id) == content(size)
    store.close()


def test_what_nobody_will_read_takes_no_page_cache(tmp_path: Path) -> None:
    store = LocalChunkStore(tmp_path)
    kept = put(store, content(limits.CHUNK_MAX_BYTES, 1))
    passed = put_past_the_page_cache(store, content(limits.CHUNK_MAX_BYTES, 2), [])
    try:
        assert in_page_cache(chunk_file(tmp_path, kept))
        assert not in_page_cache(chunk_file(tmp_path, passed))
    except OSError as error:
        pytest.skip(f"this file system does not tell: {error}")
    finally:
        store.close()


def in_page_cache(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(4_096)], 1 << 20, os.RWF_NOWAIT) == 4_096
        except BlockingIOError:
            return False


def test_a_file_system_that_cannot_write_past_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_open = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "no O_DIRECT")
        return plain_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    store = LocalChunkStore(tmp_path)
    assert store.verify(put_past_the_page_cache(store, content(LARGE), [])) == LARGE
    store.close()
