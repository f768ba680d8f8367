"""Bugs planted to see that the simulation finds their like: each takes one safeguard out of the product."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.assembly import Coordinator
from cairnfs.coordinator.conductor.context import Context
from cairnfs.datanode import intake, transfers
from cairnfs.datanode.store import checked, files, packs
from cairnfs.datanode.store.checksums import BlockChecksums
from cairnfs.datanode.store.requests import RequestLog
from cairnfs.vfs.flusher import Flusher
from cairnfs.vfs.recalls import Recalls
from cairnfs.vfs.sender import Sender
from tests.sim.cluster.engines import Database

Patch = tuple[Any, str, Any]


def _nothing(*_: Any, **__: Any) -> None:
    """Takes the place of what should be done."""


def _acknowledge_early() -> list[Patch]:
    """A datanode says that it has a small chunk before it is on its disk."""
    real = intake.RunningTransfer._small

    def small(self: intake.RunningTransfer, effect: Any) -> None:
        real(self, effect)
        if isinstance(effect, transfers.Finish):
            self.perform(self.transfer.on_stored())

    return [(intake.RunningTransfer, "_small", small)]


def _recall_nobody() -> list[Patch]:
    """Leases are granted without asking those who have others."""
    return [(Context, "recall", _nothing)]


def _forget_what_is_recalled() -> list[Patch]:
    """A mount that comes back does not claim what it has not given up yet (this was a real bug)."""
    return [(Recalls, "unanswered", lambda _: {})]


def _commit_for_a_lost_session() -> list[Patch]:
    """What was being sent when a session ended is committed in the next one (this was a real bug)."""
    return [(Sender, "_check_session", _nothing)]


def _ignore_the_term() -> list[Patch]:
    """A deposed coordinator goes on answering, and the database takes its commits."""
    fenced: list[Patch] = [(Database, "leads", lambda _self, _epoch: True)]
    return [*fenced, (Coordinator, "_is_deposed", lambda _: False)]


def _accept_damage() -> list[Patch]:
    """Checksums are not compared when chunks are read and received, so damage is copied as good."""
    real = checked.checked_range

    def unchecked(
        chunk_id: bytes, blocks: bytes, start: int, _expected: Any, offset: int, length: int
    ) -> tuple[memoryview, int]:
        sums = BlockChecksums()
        sums.add(blocks)
        return real(chunk_id, blocks, start, sums.blocks, offset, length)

    return [(packs, "checked_range", unchecked), (files, "checked_range", unchecked)]


PLANTS: Final[dict[str, Callable[[], list[Patch]]]] = {
    "skip-sync": lambda: [(packs.Pack, "_sync", _nothing)],
    "early-ack": _acknowledge_early,
    "no-recall": _recall_nobody,
    "free-reclaim": _forget_what_is_recalled,
    "late-commit": _commit_for_a_lost_session,
    "no-fence": _ignore_the_term,
    "no-grace": lambda: [(RequestLog, "protects", lambda *_: False)],
    "dead-chunk": lambda: [(chunk_table, "_require_usable", _nothing)],
    "accept-damage": _accept_damage,
    "no-flush": lambda: [(Flusher, "flush", _flush_nothing)],
}


async def _flush_nothing(*_: Any) -> None:
    """An fsync, a recall or a rename that does not wait for what was written."""


@contextmanager
def planted(name: str) -> Generator[None]:
    """While entered, the product has this bug."""
    patches = PLANTS[name]() if name else []
    before = [(owner, attribute, vars(owner)[attribute]) for owner, attribute, _ in patches]
    for owner, attribute, value in patches:
        setattr(owner, attribute, value)
    try:
        yield
    finally:
        for owner, attribute, value in before:
            setattr(owner, attribute, value)
