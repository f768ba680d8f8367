"""The figures of upkeep for `Status`."""

from dataclasses import dataclass

from cairnfs.coordinator.upkeep.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class UpkeepFigures:
    """Counts for people; those of chunks are as of the last walk over all of them."""

    safe_mode: bool
    chunks: int
    garbage_chunks: int
    under_replicated: int
    repairs_running: int


def figures(upkeep: Upkeep) -> UpkeepFigures:
    """What upkeep knows now."""
    tally, repairer = upkeep.scanner.tally, upkeep.repairer
    return UpkeepFigures(
        safe_mode=upkeep.safe_mode.active,
        chunks=tally.chunks,
        garbage_chunks=tally.garbage,
        under_replicated=repairer.waiting + repairer.running,
        repairs_running=repairer.running,
    )
