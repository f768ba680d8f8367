"""The part of fsck that has every datanode re-read every chunk it holds."""

import asyncio

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.coordinator.upkeep.replica_check import describe
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.rpc.v1 import metadata_pb2 as pb, nodes_pb2


async def verify_node(upkeep: Upkeep, clock: Clock, node: int, report: pb.FsckReport) -> None:
    """Verify all chunks of one node; bad ones are counted, and handed to repair."""
    after = b""
    while True:
        result = await _verify_batch(upkeep, clock, node, after)
        if result is None or result.error:
            detail = result.detail if result is not None else "no answer"
            describe(report, f"datanode {node} was not verified to its end: {detail}")
            return
        for chunk_id in result.corrupt:
            report.corrupt += 1
            describe(report, f"corrupt: chunk {chunk_id.hex()} on datanode {node}")
            upkeep.doubts.found_bad(chunk_id, node)
        if result.end or result.last <= after:
            return
        after = result.last


async def _verify_batch(upkeep: Upkeep, clock: Clock, node: int, after: bytes) -> nodes_pb2.TaskResult | None:
    answer: asyncio.Future[nodes_pb2.TaskResult | None] = asyncio.get_running_loop().create_future()

    def done(result: nodes_pb2.TaskResult | None) -> None:
        if not answer.done():
            answer.set_result(result)

    task = nodes_pb2.Task(verify=nodes_pb2.VerifyChunks(after=after, limit=limits.FSCK_VERIFY_CHUNKS))
    if not upkeep.board.submit(node, task, done, clock.monotonic()):
        return None
    return await answer
