"""Power cuts at every kind of moment: what was acknowledged is there, and nothing wrong is served."""

import contextlib
import hashlib
import logging
from pathlib import Path

import pytest

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.checksums import BlockChecksums
from cairnfs.datanode.store.interface import SmallChunk
from cairnfs.datanode.store.local import LocalChunkStore
from tests.power import engine_work, store_work
from tests.power.disk import Disk, write_out
from tests.power.recording import Killed, OsRecorder


@pytest.fixture(autouse=True)
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    monkeypatch.setattr(limits, "PACK_FILE_MAX_BYTES", store_work.PACK_FILE_BYTES)


@pytest.mark.parametrize("seed", [0, 5, 65, 150])
def test_a_chunk_store_keeps_its_promises(seed: int, tmp_path: Path) -> None:
    store_work.run_seed(seed, tmp_path)


@pytest.mark.parametrize("seed", range(4))
def test_the_embedded_engine_keeps_its_promises(seed: int, tmp_path: Path) -> None:
    engine_work.run_seed(seed, tmp_path)


def small(content: bytes) -> SmallChunk:
    blocks = BlockChecksums()
    blocks.add(content)
    return SmallChunk(hashlib.sha256(content).digest(), content, blocks.blocks)


def put(store: LocalChunkStore, chunk: SmallChunk) -> None:
    if len(chunk.data) <= limits.PACK_CHUNK_MAX_BYTES:
        assert store.store_batch([chunk]) == [None]
    else:
        writer = store.open(chunk.chunk_id, len(chunk.data))
        writer.append(chunk.data)
        writer.finish(chunk.block_checksums)


def test_a_chunk_stored_again_outlives_the_bad_copy_that_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark of the bad record may be lost: the good one is still the one that counts."""
    monkeypatch.setattr(limits, "PACK_FILE_MAX_BYTES", 1)  # every append begins another pack
    root = tmp_path / "store"
    root.mkdir()
    disk = Disk(root)
    chunk = small(b"precious")
    with OsRecorder(disk):
        store = LocalChunkStore(root)
        assert store.store_batch([chunk]) == [None]
        place = store.locate(chunk.chunk_id, held_packs=(1,))
        disk.flip("packs/0000000001.pack", place.position)
        with pytest.raises(CairnError):
            store.verify(chunk.chunk_id)
        assert store.store_batch([chunk]) == [None]
        store.close()
    write_out(disk.synced(), tmp_path / "left")
    store = LocalChunkStore(tmp_path / "left")
    assert store.verify(chunk.chunk_id) == len(chunk.data)
    store.close()


@pytest.mark.parametrize("large", [False, True])
def test_what_a_killed_process_left_is_durable_before_anything_rests_on_it(
    large: bool, tmp_path: Path
) -> None:
    """A chunk in the page cache must not be acknowledged as "already here" and then go with the power.

    Nor a chunk that is appended to a pack whose name was never synced.
    """
    content = b"x" * (store_work.LARGE_BYTES if large else 100)
    chunk = small(content)
    for calls in range(12):
        root = tmp_path / f"store{calls}"
        root.mkdir()
        disk = Disk(root)
        with OsRecorder(disk) as recorder:
            store = LocalChunkStore(root)
            recorder.kill_after = calls
            with contextlib.suppress(Killed):
                put(store, chunk)
            recorder.kill_after = -1
            store = LocalChunkStore(root)
            if not store.request(chunk.chunk_id):
                put(store, chunk)
            store.close()
        write_out(disk.synced(), tmp_path / f"left{calls}")
        store = LocalChunkStore(tmp_path / f"left{calls}")
        assert store.verify(chunk.chunk_id) == len(content)
        store.close()
