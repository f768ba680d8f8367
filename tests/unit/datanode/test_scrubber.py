"""The scrubber reads everything, keeps to its rate, and tells of what is bad."""

import asyncio
from pathlib import Path

import pytest

from cairnfs.base.clock import ManualClock
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.scrubber import CHUNK_COST_MIN_BYTES, Scrubber
from cairnfs.datanode.store.memory import MemoryChunkStore
from tests.contract.test_chunk_store import LARGE, content, over_disks, put

RATE = 10 * LARGE


class SleepingClock(ManualClock):
    """Time passes only where somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)


def damage(root: Path, large_id: bytes, small: bytes) -> None:
    """Flip a bit in a chunk file and in a record of a pack."""
    (victim,) = root.glob(f"*/chunks/*/{large_id.hex()}")
    victim.write_bytes(b"X" + victim.read_bytes()[1:])
    for pack in root.glob("*/packs/*"):
        data = bytearray(pack.read_bytes())
        at = data.find(small)
        if at >= 0:
            data[at + len(small) // 2] ^= 16
            pack.write_bytes(data)


@pytest.mark.announces_warnings("bad chunk")
def test_everything_is_read_and_what_is_bad_is_told(tmp_path: Path) -> None:
    store = over_disks(tmp_path / "a", tmp_path / "b")
    large = [put(store, content(LARGE, seed)) for seed in range(6)]
    small = [put(store, content(3_000, seed)) for seed in range(600)]
    found: list[bytes] = []

    async def scenario() -> Scrubber:
        disk = Disk(store)
        scrubber = Scrubber(disk, 1 << 40, found.append, ManualClock())
        await scrubber.scrub_once()
        assert found == []
        damage(tmp_path, large[2], content(3_000, 7))
        await scrubber.scrub_once()
        disk.close()
        return scrubber

    scrubber = asyncio.run(scenario())
    assert sorted(found) == sorted([large[2], small[7]])
    assert scrubber.figures.chunks == 2 * 606
    assert scrubber.figures.bytes == 2 * (6 * LARGE + 600 * 3_000)
    assert scrubber.figures.bad_chunks == 2
    store.close()


@pytest.mark.parametrize(("size", "count"), [(LARGE, 60), (100, 500)])
def test_the_rate_is_kept(monkeypatch: pytest.MonkeyPatch, size: int, count: int) -> None:
    store, clock = MemoryChunkStore(), SleepingClock()
    for seed in range(count):
        put(store, content(size, seed))
    monkeypatch.setattr("cairnfs.datanode.scrubber.asyncio.sleep", clock.sleep)

    async def scenario() -> float:
        disk = Disk(store)
        started_s = clock.monotonic()
        await Scrubber(disk, RATE, lambda _: None, clock).scrub_once()
        disk.close()
        return clock.monotonic() - started_s

    spent_s = asyncio.run(scenario())
    due_s = count * max(size, CHUNK_COST_MIN_BYTES) / RATE
    assert due_s - 1.6 <= spent_s <= due_s
