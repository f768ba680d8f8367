"""Inodes without a name: reaped as soon as no session has them open."""

from cairnfs.base.limits import ROOT_INO
from cairnfs.base.logs import get_logger
from cairnfs.coordinator import keys
from cairnfs.coordinator.conductor.context import Context
from cairnfs.coordinator.leases import Pending
from cairnfs.coordinator.namespace.operation import Touch
from cairnfs.coordinator.namespace.reap import list_orphans, reap_step
from cairnfs.coordinator.recalls import Waiter, wake
from cairnfs.coordinator.sessions import Session
from cairnfs.engine.interface import EngineBroken, Operation, Outcome
from cairnfs.rpc.v1 import metadata_pb2 as pb

log = get_logger(__name__)


class Reaping(Pending):
    """The end of one orphan; belongs to no session."""

    __slots__ = ("flow", "ino")

    def __init__(self, flow: "Orphans", ino: int) -> None:
        super().__init__("")
        self.flow = flow
        self.ino = ino
        self.touches = {ino: Touch(ino)}

    def proceed(self) -> None:
        """All who had a lease have said whether they have it open."""
        self.flow.reap(self)


class Orphans:
    """Knows all orphans, and reaps them in steps."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: set[int] = set()
        self._reaping: set[int] = set()
        self._failed: set[int] = set()
        self._awaited: list[tuple[set[int], Waiter]] = []

    def __len__(self) -> int:
        return len(self._known)

    @property
    def reaping(self) -> int:
        """How many are being reaped now."""
        return len(self._reaping)

    def add(self, ino: int) -> None:
        """The last link of `ino` went."""
        if ino != ROOT_INO:
            self._known.add(ino)

    def removed(self, session: Session, ino: int, *, keep_open: bool) -> None:
        """`session` took the last link of `ino`, which it has open or not. To be followed by `check`."""
        if keep_open and session.alive:
            self._context.leases.note_open(session.id, ino, write=True)
        else:
            self._context.leases.drop(session.id, ino)
        self.add(ino)

    def find_all(self) -> None:
        """After the start: take in what is recorded, and reap what nobody reclaimed."""
        self._known.update(self._context.read(lambda txn: list(list_orphans(txn))))
        for ino in sorted(self._known):
            self.check(ino)

    def retry(self) -> None:
        """Try again what the engine refused."""
        failed, self._failed = self._failed, set()
        for ino in sorted(failed):
            self.check(ino)

    def released(self, session_id: str, ino: int) -> None:
        """The session closed `ino`. What it may still cache of an orphan, nobody can ask it for."""
        if ino in self._known:
            self._context.leases.drop(session_id, ino)
            self.check(ino)

    def await_reaping(self, waiter: Waiter) -> bool:
        """Let `waiter` go on when all that is being reaped now is; false when nothing is."""
        if not self._reaping:
            return False
        waiter.waits += 1
        self._awaited.append((set(self._reaping), waiter))
        return True

    def check(self, ino: int) -> None:
        """Reap `ino` if it is an orphan that nobody has open. Lease holders are asked first."""
        context = self._context
        if ino not in self._known or ino in self._reaping:
            return
        if context.leases.is_open(ino) or context.sessions.recovering:
            return
        self._reaping.add(ino)
        reaping = Reaping(self, ino)
        context.leases.add_pending(reaping)
        self._ask_or_reap(reaping)

    def reap(self, reaping: Reaping) -> None:
        """Go on after the lease holders' answers."""
        if self._context.leases.is_open(reaping.ino):
            self._end(reaping)
        else:
            self._ask_or_reap(reaping)

    def _ask_or_reap(self, reaping: Reaping) -> None:
        context, ino = self._context, reaping.ino
        for holder in context.leases.holders(ino):
            context.recall(reaping, holder, pb.RecallItem(ino=ino))
        if not reaping.waits:
            self._step(reaping)

    def _step(self, reaping: Reaping) -> None:
        ino, now_ns = reaping.ino, self._context.clock.wall_ns()
        locks = (keys.inode(ino), keys.orphan(ino))
        operation = Operation(lambda txn: reap_step(txn, ino, now_ns), locks, prefetch=locks[:1])
        self._context.commit(operation, lambda outcome: self._stepped(reaping, outcome))

    def _stepped(self, reaping: Reaping, outcome: Outcome) -> None:
        if isinstance(outcome.error, EngineBroken):
            return
        if outcome.error is not None:
            log.warning("orphan_not_reaped", ino=reaping.ino, reason=str(outcome.error))
            self._end(reaping)
            self._failed.add(reaping.ino)
        elif outcome.value:
            self._known.discard(reaping.ino)
            self._end(reaping)
        else:
            self._step(reaping)

    def _end(self, reaping: Reaping) -> None:
        self._reaping.discard(reaping.ino)
        self._context.leases.remove_pending(reaping)
        over: list[Waiter] = []
        for inos, waiter in self._awaited:
            inos.discard(reaping.ino)
            if not inos:
                over.append(waiter)
        if over:
            self._awaited = [(inos, waiter) for inos, waiter in self._awaited if inos]
            wake(over)
