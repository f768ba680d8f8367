"""The part of fsck that compares chunk records with the datanodes."""

from cairnfs.base import limits
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.records import ChunkRecord, ChunkState
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import ReadTransaction
from cairnfs.rpc.v1 import metadata_pb2 as pb


def describe(report: pb.FsckReport, problem: str) -> None:
    """Add a text to the report, as long as there is room."""
    if len(report.problems) < limits.FSCK_PROBLEMS_MAX:
        report.problems.append(problem)


class ReplicaCheck:
    """Walks the chunk table in steps and counts, in `report`, what is not as it should be.

    A replica counts when its node is alive and its newest report does not lack it. A chunk without one
    is missing. Otherwise it should have the configured number of replicas, but never more than there
    are nodes that are not dead: what nobody could repair is no fault of the file system.
    """

    def __init__(self, upkeep: Upkeep, report: pb.FsckReport) -> None:
        self._upkeep = upkeep
        self._report = report
        self._after = b""
        self.lost: list[bytes] = []  # chunks without a replica, the first FSCK_PROBLEMS_MAX

    def step(self, txn: ReadTransaction) -> bool:
        """Check the next chunks; whether more follow."""
        found = chunk_table.scan_chunks(txn, self._after, limits.SCAN_STEP_CHUNKS)
        for chunk_id, record in found:
            self._report.chunks += 1
            if record.references == 0 or record.state != ChunkState.LIVE:
                self._report.unreferenced += 1
            elif record.nodes:
                self._check(chunk_id, record)
            else:  # which the metadata check has counted as missing
                self._note_lost(chunk_id)
        if found:
            self._after = found[-1][0]
        return len(found) == limits.SCAN_STEP_CHUNKS

    def _check(self, chunk_id: bytes, record: ChunkRecord) -> None:
        manager, report = self._upkeep.manager, self._report
        held = [
            number
            for number in record.nodes
            if manager.is_alive(number) and not self._upkeep.is_absent(number, chunk_id)
        ]
        wished = record.wish.count(manager.replicas)
        wanted = min(wished, sum(1 for node in manager if node.alive))
        text = f"chunk {chunk_id.hex()}: {len(held)} of {wanted} replicas (recorded on {list(record.nodes)})"
        if not held:
            report.missing += 1
            self._note_lost(chunk_id)
            describe(report, f"missing: {text}")
        elif len(held) < wanted:
            report.under_replicated += 1
            describe(report, f"under-replicated: {text}")
        elif len(held) > max(wanted, wished + self._to_be_emptied(held)):
            report.over_replicated += 1
            describe(report, f"over-replicated: {text}")

    def _note_lost(self, chunk_id: bytes) -> None:
        if len(self.lost) < limits.FSCK_PROBLEMS_MAX:
            self.lost.append(chunk_id)

    def _to_be_emptied(self, held: list[int]) -> int:
        """How many replicas are on nodes that are drained or failing: they come on top."""
        return sum(1 for number in held if not self._upkeep.manager.keeps_replicas(number))
