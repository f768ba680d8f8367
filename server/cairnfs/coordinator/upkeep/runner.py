"""The tasks that drive upkeep with a store: time, record changes, repair, scanning, garbage collection."""

import asyncio
from collections.abc import Awaitable, Callable

from cairnfs.base.clock import Clock
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.upkeep.policies import Phase
from cairnfs.coordinator.upkeep.store import Store
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import EngineError

log = get_logger(__name__)

IDLE_S = 0.2
BUSY_S = 0.01
RETRY_S = 1.0


class UpkeepRunner:
    """Runs one step of everything after another, so that no two of them race.

    Each step is bounded; while there is more to do, the next follows after a pause that leaves the
    event loop to clients.
    """

    def __init__(self, store: Store, upkeep: Upkeep, clock: Clock) -> None:
        self._store = store
        self._upkeep = upkeep
        self._clock = clock

    async def run(self) -> None:
        """Drive upkeep until cancelled; what was not done is found again after the next start."""
        while True:
            try:
                more = await self.step()
            except EngineError as error:
                log.warning("upkeep waits for the metadata engine", error=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception:  # clients are served even when upkeep has a bug
                log.exception("upkeep step failed")
                await asyncio.sleep(RETRY_S)
            else:
                await asyncio.sleep(BUSY_S if more else IDLE_S)

    async def step(self) -> bool:
        """Do the next bit of everything; whether there is more to do at once."""
        upkeep = self._upkeep
        upkeep.tick(self._clock.monotonic())
        if not upkeep.collector.resumed:
            now_ns = self._clock.wall_ns()
            self._store.read(lambda txn: upkeep.collector.resume(txn, now_ns))
        more = await self._commit_changes()
        if upkeep.safe_mode.active:
            return more
        work: tuple[Callable[[], Awaitable[bool]], ...] = (
            self._scan,
            self._repair,
            self._move,
            self._flag,
            self._carry_out,
            self._collect,
        )
        for part in work:
            more |= await part()
        return more

    async def _commit_changes(self) -> bool:
        changes = self._upkeep.changes
        batch = changes.next_batch()
        if batch:
            changes.applied(batch, await self._store.commit(changes.operation(batch)))
        return len(changes) > 0

    async def _scan(self) -> bool:
        now = self._clock.monotonic()
        return self._store.read(lambda txn: self._upkeep.scanner.step(txn, now))

    async def _repair(self) -> bool:
        repairer = self._upkeep.repairer
        now = self._clock.monotonic()
        if repairer.waiting:
            self._store.read(lambda txn: repairer.start_copies(txn, now))
        return False

    async def _move(self) -> bool:
        upkeep, now = self._upkeep, self._clock.monotonic()
        mover, repairer = upkeep.mover, upkeep.repairer
        if mover.waiting:
            self._store.read(lambda txn: mover.start_moves(txn, now))
        idle = not (repairer.waiting or repairer.running or mover.waiting)
        tally = upkeep.scanner.tally
        return self._store.read(lambda txn: upkeep.rebalancer.step(txn, tally, now, idle=idle))

    async def _flag(self) -> bool:
        found = self._upkeep.faults.to_flag(self._clock.monotonic())
        if found is None:
            return False
        number, trouble = found
        log.warning("datanode is not trusted any more", node=number, detail=trouble)
        await self._store.commit(nodes_table.failing(number, trouble))
        self._upkeep.manager.set_failing(number, trouble)
        return True

    async def _carry_out(self) -> bool:
        now = self._clock.monotonic()
        operation = self._store.read(lambda txn: self._upkeep.policies.step(txn, now))
        if operation is None:
            return False
        before = self._upkeep.policies.phase
        await self._store.commit(operation)
        if before is Phase.APPLYING:
            self._upkeep.scanner.request()  # for what is to be trimmed
        return True

    async def _collect(self) -> bool:
        collector, clock = self._upkeep.collector, self._clock
        due = self._store.read(lambda txn: collector.find(txn, clock.wall_ns()))
        if not due:
            return False
        marked = await self._store.commit(collector.marking(due, clock.wall_ns()))
        collector.marked(marked)
        return True
