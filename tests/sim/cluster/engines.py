"""The metadata of a simulated cluster: one store that several coordinators want to lead, as with PostgreSQL.

`Leadership`, which decides who leads, is the real one. The server it talks to is a row in memory, and a
commit is what `engine/postgres.py` makes of it: it counts in that row, or finds that another epoch leads.
What is committed stays; what is under way when its coordinator dies may happen or not, as a whole.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cairnfs.base import limits
from cairnfs.engine import postgres_tables as tables
from cairnfs.engine.committer import Deliver, Done
from cairnfs.engine.interface import (
    EngineBroken,
    EngineError,
    EngineUnreachable,
    Operation,
    Outcome,
    ReadTransaction,
    T,
)
from cairnfs.engine.memory import MemoryEngine
from cairnfs.engine.postgres_connection import Result, bigint
from cairnfs.engine.postgres_leader import Leadership
from tests.sim.cluster.clockwork import Process
from tests.sim.cluster.network import Network

DATABASE: Final = "database"  # its host


@dataclass
class LeaderRow:
    """The one row that tells who leads."""

    epoch: int = 0
    renewals: int = 0
    commits: int = 0
    term_ms: int = 0
    owner: bytes = b""


@dataclass
class Database:
    """What the coordinators share; `led` tells every change of leadership."""

    engine: MemoryEngine = field(default_factory=MemoryEngine)
    row: LeaderRow = field(default_factory=LeaderRow)
    fenced: bool = True  # a planted bug may take that away

    def leads(self, epoch: int) -> bool:
        """Whether `epoch` is still the newest."""
        return self.row.epoch == epoch or not self.fenced


class _Link:
    """Does what `engine.postgres_link.Link` does for the four statements of leadership."""

    def __init__(self, engine: "SharedEngine") -> None:
        self._engine = engine
        self._name = b""
        self._parameters: tuple[bytes, ...] = ()

    def get(self, _patience_s: float) -> "_Link":
        if not self._engine.reachable:
            raise EngineUnreachable("the database does not answer")
        return self

    def send(self, name: bytes, *parameters: bytes) -> None:
        self._name, self._parameters = name, parameters

    def sync(self, _patience_s: float) -> list[Result]:
        row = self._engine.database.row
        values = [int.from_bytes(value, "big") for value in self._parameters]
        match self._name:
            case tables.OBSERVE:
                found = (bigint(row.epoch), bigint(row.renewals), bigint(row.commits), bigint(row.term_ms))
                return [_result([(*found, row.owner)])]
            case tables.DEPOSE:
                if (row.epoch, row.renewals, row.commits) != tuple(values[2:]):
                    return [_result([])]
                row.epoch, row.renewals = row.epoch + 1, row.renewals + 1
                row.owner, row.term_ms = self._parameters[0], values[1]
                return [_result([(bigint(row.epoch),)])]
            case tables.RENEW:
                if not self._engine.database.leads(values[0]):
                    return [_result([])]
                row.renewals, row.term_ms = row.renewals + 1, values[1]
                return [_result([(bigint(row.epoch),)])]
            case _:
                if row.epoch == values[0]:
                    row.owner, row.renewals = b"", row.renewals + 1
                return [_result([])]

    def drop(self) -> None:
        pass


def _result(rows: list[tuple[bytes | None, ...]]) -> Result:
    result = Result.__new__(Result)
    result.tag, result.count, result.rows = b"", len(rows), rows
    return result


class SharedEngine:
    """The engine as one coordinator process sees it."""

    def __init__(self, database: Database, process: Process, network: Network) -> None:
        self.database = database
        self.process = process
        self._network = network
        self._broken: EngineBroken | None = None
        self.leadership = Leadership(_Link(self), "database")  # type: ignore[arg-type]

    @property
    def reachable(self) -> bool:
        """Whether messages pass in both directions."""
        here, there = self.process.name, DATABASE
        return not (self._network.is_cut(here, there) or self._network.is_cut(there, here))

    @property
    def leads_until_s(self) -> float:
        """See Engine."""
        return self.leadership.until_s

    def acquire_leadership(self, owner: str, term_s: float) -> int:
        """See Engine."""
        return self.leadership.acquire(owner, term_s)

    def renew_leadership(self) -> None:
        """See Engine."""
        self.leadership.renew()

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """See Engine; a look-up that gets no answer holds its process up, as in the real one."""
        if not self.reachable:
            self.process.pause(limits.ENGINE_READ_S)
            raise EngineUnreachable("the database does not answer")
        return self.database.engine.read(body)

    @contextmanager
    def snapshot(self) -> Iterator[ReadTransaction]:
        """See Engine."""
        with self.database.engine.snapshot() as view:
            yield view

    def commit(self, operations: Sequence[Operation]) -> list[Outcome]:
        """See Engine: what happens in the database, at once."""
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))
        database = self.database
        if not database.leads(self.leadership.epoch):
            self._broken = self.leadership.deposed()
            raise self._broken
        database.row.commits += 1
        return database.engine.commit(operations)

    def was_broken(self, reason: str) -> EngineBroken:
        """The fate of a commit stayed unknown: nothing is committed any more."""
        self._broken = self._broken or EngineBroken(reason)
        return self._broken

    def close(self) -> None:
        """See Engine."""
        self.leadership.resign()


class SimCommitter:
    """Does what `engine.committer.Committer` does, and takes its time instead of a thread."""

    def __init__(self, engine: SharedEngine, deliver: Deliver) -> None:
        self._engine = engine
        self._deliver = deliver
        self._queue: deque[tuple[Operation, Done]] = deque()
        self._busy = False
        self._closed = False

    def submit(self, operation: Operation, done: Done) -> None:
        """See Committer."""
        if self._closed:
            raise RuntimeError("the committer is closed")
        self._queue.append((operation, done))
        if not self._busy:
            self._busy = True
            self._after(self._travel_s(), self._send)

    def _travel_s(self) -> float:
        return self._engine.process.delay_s() / 2

    def _after(self, delay_s: float, step: Callable[[], None]) -> None:
        self._engine.process.timeline.after(delay_s, step)

    def _send(self) -> None:
        """The batch reaches the database, unless that is cut off; a paused process has sent it before."""
        engine = self._engine
        if engine.process.dead or self._closed:
            return
        count = min(len(self._queue), limits.GROUP_COMMIT_MAX_OPERATIONS)
        batch = [self._queue.popleft() for _ in range(count)]
        started_s = engine.process.clock.monotonic()
        if not engine.reachable:
            self._retry(batch, started_s)
            return
        self._run(batch, started_s)

    def _retry(self, batch: list[tuple[Operation, Done]], started_s: float) -> None:
        """Nothing was committed yet; ENGINE_COMMIT_S later that is what the caller hears."""
        engine = self._engine
        if engine.process.dead or self._closed:
            return
        if engine.reachable:
            self._run(batch, engine.process.clock.monotonic())
        elif engine.process.clock.monotonic() - started_s < limits.ENGINE_COMMIT_S:
            self._after(0.5, lambda: self._retry(batch, started_s))
        else:
            error = EngineUnreachable("the database does not answer")
            self._answer([Outcome(error=error)] * len(batch), batch, None)

    def _run(self, batch: list[tuple[Operation, Done]], started_s: float) -> None:
        try:
            outcomes = self._engine.commit([operation for operation, _ in batch])
        except EngineError as error:
            self._answer([Outcome(error=error)] * len(batch), batch, None)
        else:
            self._answer(outcomes, batch, started_s)

    def _answer(
        self, outcomes: list[Outcome], batch: list[tuple[Operation, Done]], started_s: float | None
    ) -> None:
        self._after(
            self._travel_s(),
            lambda: self._arrived(outcomes, batch, started_s, self._engine.process.clock.monotonic()),
        )

    def _arrived(
        self,
        outcomes: list[Outcome],
        batch: list[tuple[Operation, Done]],
        started_s: float | None,
        since_s: float,
    ) -> None:
        """The answer; while it cannot arrive the coordinator asks again, and gives up at last."""
        engine = self._engine
        if engine.process.dead:
            return
        if not engine.reachable:
            if engine.process.clock.monotonic() - since_s < limits.ENGINE_COMMIT_S:
                self._after(0.5, lambda: self._arrived(outcomes, batch, started_s, since_s))
                return
            outcomes = [Outcome(error=engine.was_broken("a commit was not answered"))] * len(batch)
        elif started_s is not None:
            engine.leadership.shown(started_s)
        engine.process.loop.call_soon(self._deliver, self._pairs(batch, outcomes))
        self._busy = bool(self._queue)
        if self._busy:
            self._after(self._travel_s(), self._send)

    @staticmethod
    def _pairs(batch: list[tuple[Operation, Done]], outcomes: list[Outcome]) -> list[tuple[Done, Outcome]]:
        return [(done, outcome) for (_, done), outcome in zip(batch, outcomes, strict=True)]

    def close(self) -> None:
        """See Committer: what is queued is dropped, as when the process ends."""
        self._closed = True
