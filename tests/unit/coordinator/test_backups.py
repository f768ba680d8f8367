"""Automatic backups: when they are due, which are kept, what is shown, and that they restore."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from cairnfs.base.clock import Clock
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.cli.main import main
from cairnfs.coordinator.assembly import Coordinator
from cairnfs.coordinator.backups import Backups
from cairnfs.engine.dump import LOADING_KEY, check, load
from cairnfs.engine.interface import Operation
from cairnfs.engine.memory import MemoryEngine
from cairnfs.engine.open import open_engine

DAY_S = 86_400.0
START_S = 1_800_000_000


class WallClock(Clock):
    """Stands still until it is moved."""

    now_s = float(START_S)

    def monotonic(self) -> float:
        return self.now_s

    def wall_ns(self) -> int:
        return int(self.now_s * 1e9)


def filled(value: bytes = b"1") -> MemoryEngine:
    engine = MemoryEngine()
    engine.commit([Operation(lambda transaction: transaction.put(b"a", value))])
    return engine


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def first_in(directory: Path) -> Path:
    """The first backup there, once it is made."""
    while not (made := list(directory.glob("*.cairnfs"))):
        time.sleep(0.01)
    return made[0]


def test_backups_are_due_by_the_newest_that_is_there_and_the_oldest_go(tmp_path: Path) -> None:
    clock, directory = WallClock(), tmp_path / "some" / "backups"
    backups = Backups(filled(), directory, DAY_S, 2, clock)
    assert backups.due_in_s() == 0.0
    assert backups.status().count == 0
    for _ in range(3):
        backups.make()
        clock.now_s += DAY_S
    (directory / "metadata-of-mine.cairnfs").write_text("not a backup")
    assert names(directory) == [
        "metadata-20270116T080000Z.cairnfs",
        "metadata-20270117T080000Z.cairnfs",
        "metadata-of-mine.cairnfs",
    ]
    clock.now_s -= DAY_S / 4
    again = Backups(filled(), directory, DAY_S, 2, clock)
    assert again.due_in_s() == DAY_S / 4
    status = again.status()
    assert (status.count, status.newest_ms) == (2, (START_S + 2 * int(DAY_S)) * 1000)
    assert status.newest_bytes == (directory / "metadata-20270117T080000Z.cairnfs").stat().st_size
    clock.now_s = START_S  # set back: nobody waits until that time comes again
    assert again.due_in_s() == 0.0


@pytest.mark.announces_warnings("backup_failed")
def test_a_backup_that_fails_is_shown_and_leaves_those_that_are_there(tmp_path: Path) -> None:
    clock, engine = WallClock(), filled()
    backups = Backups(engine, tmp_path, DAY_S, 1, clock)
    backups.make()
    there = names(tmp_path)
    clock.now_s += DAY_S
    engine.close()
    backups.make()
    assert "closed" in backups.status().error
    assert names(tmp_path) == there


def test_a_backup_restores(tmp_path: Path) -> None:
    Backups(filled(b"kept"), tmp_path, DAY_S, 1, WallClock()).make()
    (path,) = tmp_path.iterdir()
    engine = MemoryEngine()
    with path.open("rb") as file:
        assert load(engine, file).pairs == 1
    assert engine.read(lambda view: view.get(b"a")) == b"kept"


def test_a_coordinator_makes_backups_and_they_restore_into_another_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = CoordinatorSettings(listen="127.0.0.1:0", backup_dir=str(tmp_path / "backups"))

    async def serve() -> str:
        engine = open_engine("sqlite", tmp_path / "first")
        coordinator = Coordinator(settings, engine)
        await coordinator.start()
        try:
            made = await asyncio.to_thread(first_in, tmp_path / "backups")
            words = ["--coordinators", coordinator.address]
            assert await asyncio.to_thread(main, ["status", *words]) == 0
            assert await asyncio.to_thread(main, ["meta", "dump", str(tmp_path / "dump"), *words]) == 0
        finally:
            await coordinator.stop()
            engine.close()
        return str(made)

    made = asyncio.run(serve())
    shown = capsys.readouterr().out
    assert f"backups      1 in {tmp_path / 'backups'}, newest " in shown
    for number, source in enumerate((made, str(tmp_path / "dump"))):
        target = ["--engine-data", str(tmp_path / f"restored-{number}")]
        assert main(["meta", "load", source, *target]) == 0
        assert "all compared" in capsys.readouterr().out
        assert main(["meta", "dump", str(tmp_path / "again"), *target]) == 0
        with Path(source).open("rb") as one, (tmp_path / "again").open("rb") as two:
            assert check(one) == check(two)
        assert main(["meta", "load", source, *target]) == 1
        assert "not empty" in capsys.readouterr().err


def test_a_coordinator_does_not_serve_a_part_of_a_dump() -> None:
    engine = MemoryEngine()
    engine.commit([Operation(lambda transaction: transaction.put(LOADING_KEY, b""))])

    async def make() -> Any:
        return Coordinator(CoordinatorSettings(listen="127.0.0.1:0"), engine)

    with pytest.raises(ValueError, match="a part of a dump"):
        asyncio.run(make())
