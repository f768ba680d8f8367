"""Automatic backups: dumps of the metadata in a directory, made beside the work, the oldest removed."""

import asyncio
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cairnfs.base.clock import Clock
from cairnfs.base.logs import get_logger
from cairnfs.engine.directories import make_directory, sync_directory
from cairnfs.engine.dump import DumpDamaged, dump
from cairnfs.engine.dump_file import write_dump
from cairnfs.engine.interface import Engine, EngineError
from cairnfs.rpc.v1 import metadata_pb2 as pb

_PREFIX: Final = "metadata-"
_SUFFIX: Final = ".cairnfs"
_TIME: Final = "%Y%m%dT%H%M%SZ"
_POLL_MAX_S: Final = 60.0  # the wall clock, by which backups are due, may be set meanwhile
_RETRY_S: Final = 300.0  # after a failure, or the interval if that is shorter

_log = get_logger(__name__)


class Backups:
    """Backups of `engine` in `directory`: one every `interval_s`, the newest `keep` of them kept."""

    def __init__(self, engine: Engine, directory: Path, interval_s: float, keep: int, clock: Clock) -> None:
        self._engine = engine
        self._directory = directory
        self._interval_s = interval_s
        self._keep = keep
        self._clock = clock
        self._error = ""

    async def run(self) -> None:
        """Make every backup when it is due, until cancelled."""
        while True:
            due_s = await asyncio.to_thread(self.due_in_s)
            if due_s > 0.0:
                await asyncio.sleep(min(due_s, _POLL_MAX_S))
                continue
            await asyncio.to_thread(self.make)
            if self._error:
                await asyncio.sleep(min(_RETRY_S, self._interval_s))

    def due_in_s(self) -> float:
        """Seconds until the next backup; after a restart it goes on from the newest that is there."""
        made = self._made()
        if not made:
            return 0.0
        age_s = self._clock.wall_ns() / 1e9 - _taken_s(made[-1])
        return self._interval_s - age_s if age_s >= 0.0 else 0.0  # the clock was set back: begin anew

    def make(self) -> None:
        """Make one now and remove those that are too many; what fails is logged and shown."""
        taken = datetime.fromtimestamp(self._clock.wall_ns() / 1e9, UTC)
        path = self._directory / f"{_PREFIX}{taken.strftime(_TIME)}{_SUFFIX}"
        started_s = time.monotonic()
        try:
            make_directory(self._directory)
            with self._engine.snapshot() as view:
                found = write_dump(path, dump(view))
            for old in self._made()[: -self._keep]:
                old.unlink()
            sync_directory(self._directory)
        except (EngineError, DumpDamaged, OSError) as error:
            self._error = str(error)
            _log.warning("backup_failed", path=str(path), reason=str(error))
        else:
            self._error = ""
            _log.info(
                "backup_made",
                path=str(path),
                pairs=found.pairs,
                bytes=path.stat().st_size,
                seconds=round(time.monotonic() - started_s, 1),
            )

    def status(self) -> pb.BackupStatus:
        """What there is, and how the last attempt went."""
        status = pb.BackupStatus(directory=str(self._directory), error=self._error)
        made = self._made()
        if made:
            status.count = len(made)
            status.newest_ms = int(_taken_s(made[-1]) * 1e3)
            status.newest_bytes = made[-1].stat().st_size
        return status

    def _made(self) -> list[Path]:
        """Whole backups, oldest first."""
        found = [path for path in self._directory.glob(f"{_PREFIX}*{_SUFFIX}") if _taken_s(path) >= 0.0]
        return sorted(found)


def _taken_s(path: Path) -> float:
    """When a backup was taken, by its name, in seconds since 1970; -1 for a file of another kind."""
    name = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
    try:
        return datetime.strptime(name, _TIME).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return -1.0
