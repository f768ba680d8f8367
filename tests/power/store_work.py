"""What a chunk store is put through before a power cut, and what must be there after it.

Run `python -m tests.power.store_work --seeds 1000` for more histories than the suite takes.
"""

import hashlib
import shutil
from pathlib import Path
from random import Random
from typing import Final

import pytest

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.datanode.store.checksums import BlockChecksums
from cairnfs.datanode.store.interface import SmallChunk
from cairnfs.datanode.store.local import LocalChunkStore
from cairnfs.rpc.v1 import common_pb2
from tests.power.disk import Disk, read_in, write_out
from tests.power.many_seeds import try_many
from tests.power.recording import Killed, OsRecorder

STEPS: Final = 30
PACK_FILE_BYTES: Final = 60_000  # so small that a history fills some
LARGE_BYTES: Final = limits.PACK_CHUNK_MAX_BYTES + 1
_SMALL_BYTES: Final = (1, 400, 3_000, 9_000, 70_000)
_CUTS: Final = 4

KEPT: Final = "kept"  # stored, so it must be there, whole
EITHER: Final = "either"  # being stored, or deleted: there and whole, or not there
DAMAGED: Final = "damaged"  # a bit of it was flipped: it may be found bad, and never be read wrong
Promises = dict[bytes, str]


def content_of(number: int, size: int) -> bytes:
    """The content of one chunk."""
    return Random(number).randbytes(size)


class StoreWork:
    """A store on `disk` whose every call is noted, and what it has promised."""

    def __init__(
        self, disk: Disk, rng: Random, contents: dict[bytes, bytes], damaged: set[bytes], promises: Promises
    ) -> None:
        """`promises` are those of the time before; `contents` has all chunks there ever were.

        Of those `damaged` a bad copy, deleted or replaced, may come back when no good one is left.
        """
        self._rng = rng
        self._disk = disk
        self._contents = contents
        self._first = dict(promises)
        self._now = dict(promises)
        self._log: list[tuple[int, bytes, str]] = []
        self._damaged = damaged
        self._store = LocalChunkStore(disk.root)

    def run(self, recorder: OsRecorder, steps: int) -> None:
        """Do something `steps` times; once, perhaps, the process is killed meanwhile and started again."""
        killed_at = self._rng.randrange(2 * steps)
        choices = (self._store_small, self._store_large, self._delete, self._damage, self._compact)
        for step in range(steps):
            if step == killed_at:
                recorder.kill_after = self._rng.randrange(8)
            try:
                self._rng.choices(choices, weights=(12, 2, 5, 2, 2))[0]()
            except Killed:
                self._store = LocalChunkStore(self._disk.root)
        recorder.kill_after = -1
        self._store.close()

    def promises_at(self, point: int) -> Promises:
        """What held after `point` events of the disk."""
        found = dict(self._first)
        for at, chunk_id, promise in self._log:
            if at > point:
                break
            found[chunk_id] = promise
        return found

    def _note(self, chunk_id: bytes, promise: str) -> None:
        self._now[chunk_id] = promise
        self._log.append((len(self._disk.events), chunk_id, promise))

    # ------------------------------------------------------------------ steps

    def _choose(self, size: int) -> bytes:
        """The id of a chunk of this size, new or one that there was already."""
        content = content_of(self._rng.randrange(12), size)
        chunk_id = hashlib.sha256(content).digest()
        self._contents[chunk_id] = content
        return chunk_id

    def _wants(self, chunk_id: bytes) -> bool:
        """What a datanode does first with every chunk; whether it has to be written."""
        if self._store.request(chunk_id):
            if self._now.get(chunk_id) != DAMAGED:  # damage that this process has not seen
                self._note(chunk_id, KEPT)
            return False
        self._note(chunk_id, self._unsure(chunk_id))
        return True

    def _unsure(self, chunk_id: bytes) -> str:
        return DAMAGED if chunk_id in self._damaged else EITHER

    def _store_small(self) -> None:
        ids = {self._choose(self._rng.choice(_SMALL_BYTES)) for _ in range(self._rng.randint(1, 4))}
        wanted = [chunk_id for chunk_id in sorted(ids) if self._wants(chunk_id)]
        chunks = [SmallChunk(one, self._contents[one], _checksums(self._contents[one])) for one in wanted]
        outcomes = self._store.store_batch(chunks)
        assert outcomes == [None] * len(chunks), outcomes
        for chunk_id in wanted:
            self._note(chunk_id, KEPT)

    def _store_large(self) -> None:
        chunk_id = self._choose(LARGE_BYTES)
        if self._wants(chunk_id):
            content = self._contents[chunk_id]
            writer = self._store.open(chunk_id, len(content))
            for start in range(0, len(content), 100_000):
                writer.append(content[start : start + 100_000])
            writer.finish(_checksums(content))
            self._note(chunk_id, KEPT)

    def _delete(self) -> None:
        stored = self._store.list_chunks(b"", 1_000)
        chosen = self._rng.sample(stored, min(len(stored), self._rng.randint(1, 6)))
        for entry in chosen:
            self._note(entry.chunk_id, self._unsure(entry.chunk_id))
        self._store.delete([entry.chunk_id for entry in chosen], self._store.seq, self._store.boot)

    def _damage(self) -> None:
        """Flip a bit of a stored chunk, and have it found."""
        whole = [one for one, promise in sorted(self._now.items()) if promise == KEPT]
        if not whole:
            return
        chunk_id = self._rng.choice(whole)
        location = self._store.locate(chunk_id)
        assert location.descriptor is not None
        with open(location.descriptor, "rb") as file:
            path = Path(f"/proc/self/fd/{file.fileno()}").resolve()
        name = self._disk.relative(path)
        assert name is not None
        self._disk.flip(name, location.position + self._rng.randrange(location.length))
        self._damaged.add(chunk_id)
        self._note(chunk_id, DAMAGED)
        with pytest.raises(CairnError) as caught:
            self._store.verify(chunk_id)
        assert caught.value.code == common_pb2.ERROR_CODE_CORRUPT

    def _compact(self) -> None:
        self._store.maintain()


def _checksums(content: bytes) -> list[int]:
    blocks = BlockChecksums()
    blocks.add(content)
    return blocks.blocks


def check_store(
    root: Path, contents: dict[bytes, bytes], damaged: set[bytes], promises: Promises
) -> Promises:
    """Open the store that a cut left: everything promised is there, and nothing is served wrong.

    Returns the promises that hold from now on.
    """
    store = LocalChunkStore(root)
    found: Promises = {}
    for entry in store.list_chunks(b"", 1_000):
        may_be_bad = entry.chunk_id in damaged and promises.get(entry.chunk_id) != KEPT
        content = contents[entry.chunk_id]
        try:
            data, _crc = store.read(entry.chunk_id, 0, entry.length)
            assert bytes(data) == content, f"wrong bytes of {entry.chunk_id.hex()}"
            assert store.verify(entry.chunk_id) == len(content)
        except CairnError as error:
            if not may_be_bad:
                raise AssertionError(f"{entry.chunk_id.hex()} is listed and bad: {error.detail}") from error
        found[entry.chunk_id] = DAMAGED if may_be_bad else EITHER
    for chunk_id, promise in promises.items():
        if promise == KEPT:
            assert chunk_id in found, f"{chunk_id.hex()} of {len(contents[chunk_id])} bytes is lost"
            found[chunk_id] = KEPT
    assert not list((root / "temp").iterdir())
    store.close()
    return found


def run_seed(seed: int, directory: Path, lives: int = 3) -> int:
    """One history: `lives` runs of the store, each ended by a cut that is tried at several points.

    Returns how many cuts were tried. AssertionError: something was lost, or would be served wrong.
    """
    rng = Random(seed)
    contents: dict[bytes, bytes] = {}
    damaged: set[bytes] = set()
    promises: Promises = {}
    root = directory / "0"
    root.mkdir()
    cuts = 0
    for life in range(lives):
        disk = Disk(root)
        with OsRecorder(disk) as recorder:
            work = StoreWork(disk, rng, contents, damaged, promises)
            work.run(recorder, STEPS)
        assert disk.whole() == read_in(root), "something was changed that was not recorded"
        for _ in range(_CUTS):
            cuts += 1
            point = rng.randint(0, len(disk.events))
            left = directory / f"{life + 1}"
            shutil.rmtree(left, ignore_errors=True)
            write_out(disk.after_cut(point, rng), left)
            before = work.promises_at(point)
            promises = check_store(left, contents, damaged, before)
        root = left
    return cuts


def main() -> None:
    """Try many seeds."""
    limits.PACK_FILE_MAX_BYTES = PACK_FILE_BYTES  # type: ignore[misc]
    try_many(run_seed, __doc__, "nothing lost, nothing wrong")


if __name__ == "__main__":
    main()
