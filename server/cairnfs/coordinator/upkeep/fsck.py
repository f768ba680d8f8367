"""The whole check of a file system: fresh chunk reports, metadata, replicas, and if asked for all data.

It only reads. What it finds wrong with replicas, upkeep repairs as always; the report tells how things were
when they were looked at.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.coordinator.upkeep.data_check import verify_node
from cairnfs.coordinator.upkeep.replica_check import ReplicaCheck, describe
from cairnfs.coordinator.upkeep.store import Store
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb

_POLL_S: Final = 0.05
_STEP_PAUSE_S: Final = 0.002  # clients go first


async def run_fsck(
    store: Store, upkeep: Upkeep, clock: Clock, verify_data: bool
) -> AsyncIterator[pb.FsckProgress]:
    """Progress as it happens; the last message carries the report.

    `done` and `total` count datanodes in the phases "reports" and "data", and steps (total unknown, 0)
    in the others. Raises EngineError.
    """
    asked_s = clock.monotonic()
    async for done, total in _fresh_reports(upkeep, clock):
        yield pb.FsckProgress(phase="reports", done=done, total=total)
    silent = _not_reported(upkeep, asked_s)
    # The checker counts replicas by its records alone; ReplicaCheck knows what nodes reported.
    checker = Checker(upkeep.manager.replicas, upkeep.manager.is_alive)
    async for done in _steps(store, lambda txn: not checker.step(txn)):
        yield pb.FsckProgress(phase=checker.phase, done=done)
    report = checker.report
    report.chunks = report.unreferenced = report.under_replicated = report.over_replicated = 0
    for node in silent:
        describe(report, f"datanode {node} sent no chunk report; its replicas count as recorded")
    async for done in _steps(store, ReplicaCheck(upkeep, report).step):
        yield pb.FsckProgress(phase="replicas", done=done)
    if verify_data:
        async for done, total in _verify_all(upkeep, clock, report):
            yield pb.FsckProgress(phase="data", done=done, total=total)
    yield pb.FsckProgress(phase="done", report=report)


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
