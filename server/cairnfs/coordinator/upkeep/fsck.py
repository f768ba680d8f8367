"""The whole check of a file system: fresh chunk reports, metadata, replicas, and if asked for all data.

What it finds wrong with replicas, upkeep repairs as always. What it finds wrong with metadata it mends when
it is asked to, in rounds of checks and repairs until a check finds nothing more to mend; it may break off at
any time and be run again. The report tells how things were when they were looked at last.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final, Protocol

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.coordinator.namespace.mends import Mend
from cairnfs.coordinator.upkeep.data_check import verify_node
from cairnfs.coordinator.upkeep.lost_data import LostData
from cairnfs.coordinator.upkeep.replica_check import ReplicaCheck, describe
from cairnfs.coordinator.upkeep.store import Store
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb

_POLL_S: Final = 0.05
_STEP_PAUSE_S: Final = 0.002  # clients go first


class Mender(Protocol):
    """Carries out repairs (the coordinator's driver)."""

    async def mend(self, mend: Mend) -> bool:
        """Repair one finding; whether there was something to do. Raises CairnError, EngineError."""
        ...

    def look_for_orphans(self) -> None:
        """Reap orphans that a repair recorded."""
        ...


async def run_fsck(
    store: Store, upkeep: Upkeep, clock: Clock, request: pb.FsckRequest, mender: Mender
) -> AsyncIterator[pb.FsckProgress]:
    """Progress as it happens; the last message carries the report.

    `done` and `total` count datanodes in the phases "reports" and "data", and steps (total unknown, 0)
    in the others. Raises EngineError.
    """
    asked_s = clock.monotonic()
    async for done, total in _fresh_reports(upkeep, clock):
        yield pb.FsckProgress(phase="reports", done=done, total=total)
    silent = _not_reported(upkeep, asked_s)
    rounds = _Rounds(store, upkeep, mender, repair=request.repair)
    async for progress in rounds.run():
        yield progress
    report = rounds.report
    report.chunks = report.unreferenced = report.under_replicated = report.over_replicated = 0
    for node in silent:
        describe(report, f"datanode {node} sent no chunk report; its replicas count as recorded")
    replicas = ReplicaCheck(upkeep, report)
    async for done in _steps(store, replicas.step):
        yield pb.FsckProgress(phase="replicas", done=done)
    lost = LostData(replicas.lost)
    async for done in _steps(store, lost.step):
        yield pb.FsckProgress(phase="lost data", done=done)
    report.lost.extend(lost.ranges())
    if request.repair:
        upkeep.scanner.request()
    if request.verify_data:
        async for done, total in _verify_all(upkeep, clock, report):
            yield pb.FsckProgress(phase="data", done=done, total=total)
    yield pb.FsckProgress(phase="done", report=report)


class _Rounds:
    """Checks of the metadata, with repairs in between if asked for."""

    def __init__(self, store: Store, upkeep: Upkeep, mender: Mender, *, repair: bool) -> None:
        self._store = store
        self._upkeep = upkeep
        self._mender = mender
        self._repair = repair
        self._repairs: list[str] = []
        self._mended = 0
        self._failed: list[str] = []
        self.report = pb.FsckReport()

    async def run(self) -> AsyncIterator[pb.FsckProgress]:
        """Progress of all rounds; `report` is that of the last one."""
        doubted: set[str] = set()
        for left in reversed(range(limits.FSCK_ROUNDS_MAX if self._repair else 1)):
            # The checker counts replicas by its records alone; ReplicaCheck knows what nodes reported.
            checker = Checker(self._upkeep.manager.replicas, self._upkeep.manager.is_alive)
            async for done in _steps(self._store, partial(_check_step, checker)):
                yield pb.FsckProgress(phase=checker.phase, done=done)
            self.report = checker.report
            if not left or not checker.mends:
                break
            due = [mend for mend in checker.mends if not mend.doubtful or mend.finding in doubted]
            doubted = {mend.finding for mend in checker.mends if mend.doubtful}
            self._failed = []
            for number, mend in enumerate(due):
                await self._mend(mend)
                yield pb.FsckProgress(phase="repair", done=number + 1, total=len(due))
            self._mender.look_for_orphans()
        self.report.mended = self._mended
        self.report.repairs.extend(self._repairs)
        for text in self._failed:
            describe(self.report, text)

    async def _mend(self, mend: Mend) -> None:
        try:
            changed = await self._mender.mend(mend)
        except CairnError as error:
            self._failed.append(f"not mended: {mend.finding}: {error}")
            return
        self._mended += changed
        if changed and len(self._repairs) < limits.FSCK_PROBLEMS_MAX:
            self._repairs.append(mend.finding)


def _check_step(checker: Checker, txn: ReadTransaction) -> bool:
    return not checker.step(txn)


async def _steps(store: Store, step: Callable[[ReadTransaction], bool]) -> AsyncIterator[int]:
    """Take `step` until it says that nothing follows; yields how many were taken."""
    done, more = 0, True
    while more:
        more = store.read(step)
        done += 1
        yield done
        await asyncio.sleep(_STEP_PAUSE_S)


async def _fresh_reports(upkeep: Upkeep, clock: Clock) -> AsyncIterator[tuple[int, int]]:
    """Ask all nodes that answer for a report, and wait for it; yields how many came, of how many."""
    asked_s = clock.monotonic()
    for node in _answering(upkeep):
        upkeep.request_report(node)
    missing = -1
    while clock.monotonic() - asked_s < limits.FSCK_REPORTS_DEADLINE_S:
        total, now_missing = len(_answering(upkeep)), len(_not_reported(upkeep, asked_s))
        if now_missing != missing:
            missing = now_missing
            yield total - missing, total
        if not missing:
            return
        await asyncio.sleep(_POLL_S)


def _answering(upkeep: Upkeep) -> list[int]:
    return [node.number for node in upkeep.manager if node.alive]


def _not_reported(upkeep: Upkeep, since_s: float) -> list[int]:
    return [
        number
        for number in _answering(upkeep)
        if (at_s := upkeep.last_report_s(number)) is None or at_s < since_s
    ]


async def _verify_all(upkeep: Upkeep, clock: Clock, report: pb.FsckReport) -> AsyncIterator[tuple[int, int]]:
    """Verify all nodes at once; yields how many are done, of how many."""
    nodes = _answering(upkeep)
    tasks = {asyncio.create_task(verify_node(upkeep, clock, node, report)) for node in nodes}
    try:
        while tasks:
            yield len(nodes) - len(tasks), len(nodes)
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        yield len(nodes), len(nodes)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
