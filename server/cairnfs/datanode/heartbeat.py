"""Keeps the coordinator informed: registration, heartbeats, task results and chunk reports."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc.aio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.datanode.coordinators import Coordinators
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.disks.array import DiskArray
from cairnfs.datanode.disks.summary import disk_use
from cairnfs.datanode.membership import Membership
from cairnfs.datanode.peers import Peers
from cairnfs.datanode.scrubber import Scrubber
from cairnfs.datanode.tasks import TaskRunner
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where others reach this datanode."""

    address: str
    unix_socket: str
    rack: str


class Heartbeats:
    """The conversation with the coordinators."""

    def __init__(
        self,
        coordinators: Coordinators,
        membership: Membership,
        disk: Disk,
        disks: DiskArray,
        place: Place,
        interval_s: float,
    ) -> None:
        self.tasks: TaskRunner | None = None
        self.scrubber: Scrubber | None = None
        self.peers: Peers | None = None
        self._coordinators = coordinators
        self._membership = membership
        self._disk = disk
        self._disks = disks
        self._place = place
        self._interval_s = interval_s
        self._registered = False
        self._corrupt: dict[bytes, None] = {}
        self._news = asyncio.Event()
        self._report: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There is something to tell: do not wait for the next heartbeat."""
        self._news.set()

    def found_corrupt(self, chunk_id: bytes) -> None:
        """Tell the coordinator of a bad chunk with the next heartbeat, at once."""
        self._corrupt[chunk_id] = None
        self.wake()

    async def run(self) -> None:
        """Go on for ever. Raises CairnError WRONG_CLUSTER when the coordinator is of another cluster."""
        while True:
            try:
                if not self._registered:
                    await self._register()
                await self._heartbeat()
            except grpc.aio.AioRpcError as error:
                await self._turn_to_next(f"{error.code().name.lower()}: {error.details()}")
            except CairnError as error:
                if error.code == common_pb2.ERROR_CODE_WRONG_CLUSTER:
                    raise
                await self._turn_to_next(str(error))
            else:
                await self._pause(self._interval_s if self._registered else 0)

    async def _turn_to_next(self, detail: str) -> None:
        _log.info("no answer from the coordinator", coordinator=self._coordinators.address, detail=detail)
        if await self._coordinators.use_next():
            await asyncio.sleep(min(limits.COORDINATOR_RETRY_S, self._interval_s))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass
        self._news.clear()

    async def _register(self) -> None:
        mine = self._membership
        request = nodes_pb2.RegisterRequest(
            uuid=mine.uuid,
            cluster_id=mine.cluster_id,
            address=self._place.address,
            unix_socket=self._place.unix_socket,
            host_id=mine.host_id,
            rack=self._place.rack,
            disk=self._disk_use(),
            node=mine.node,
        )
        reply = await self._coordinators.register(request)
        if reply.error:
            raise CairnError(reply.error, reply.detail)
        mine.join(reply.cluster_id, reply.node)
        mine.replace(reply.cluster_map)
        self._set_interval(reply.heartbeat_ms)
        self._registered = True
        _log.info("registered", node=reply.node, coordinator=self._coordinators.address)
        self._start_report()

    def _disk_use(self) -> nodes_pb2.DiskUse:
        return disk_use(self._disk.store.usage())

    def _set_interval(self, milliseconds: int) -> None:
        if milliseconds:
            self._interval_s = milliseconds / 1000

    async def _heartbeat(self) -> None:
        results = list(self.tasks.results) if self.tasks else []
        corrupt = list(self._corrupt)[: limits.CORRUPT_REPORT_MAX]
        store = self._disk.store
        request = nodes_pb2.HeartbeatRequest(
            node=self._membership.node,
            uuid=self._membership.uuid,
            disk=self._disk_use(),
            seen_version=self._membership.version,
            results=results,
            corrupt=corrupt,
            cluster_id=self._membership.cluster_id,
            running_tasks=self.tasks.running if self.tasks else 0,
            store_seq=store.seq,
            boot=store.boot,
            disks=[report.info() for report in self._disks.disks()],
            scrub=self.scrubber.figures if self.scrubber else None,
            peers=[
                nodes_pb2.PeerSpeed(node=node, store_us=int(seconds * 1e6))
                for node, seconds in (self.peers.speeds() if self.peers else ())
            ],
            store_us=int(self._disks.store_s * 1e6),
        )
        reply = await self._coordinators.heartbeat(request, max(self._interval_s, limits.NODE_HEARTBEAT_S))
        if reply.error == common_pb2.ERROR_CODE_NODE_UNKNOWN:
            _log.info("unknown to the coordinator; registering again", detail=reply.detail)
            self._registered = False
            return
        if reply.error:
            raise CairnError(reply.error, reply.detail)
        self._told(results, corrupt)
        self._take(reply)

    def _told(self, results: list[nodes_pb2.TaskResult], corrupt: list[bytes]) -> None:
        if self.tasks:
            del self.tasks.results[: len(results)]
        for chunk_id in corrupt:
            del self._corrupt[chunk_id]
        if self._corrupt:
            self.wake()

    def _take(self, reply: nodes_pb2.HeartbeatReply) -> None:
        if reply.requires_full_resync:
            self._membership.replace(reply.cluster_map)
        else:
            self._membership.apply(reply.updates)
        self._set_interval(reply.next_heartbeat_ms)
        if self.tasks:
            self.tasks.start(reply.tasks)
        if reply.send_chunk_report:
            self._start_report()

    def _start_report(self) -> None:
        if self._report is None or self._report.done():
            self._report = asyncio.create_task(self._send_report(), name="chunk report")

    async def _send_report(self) -> None:
        try:
            reply = await self._coordinators.report_chunks(self._pages())
        except grpc.aio.AioRpcError as error:
            _log.info("chunk report failed", detail=error.details())
            return
        if reply.error:
            _log.info("chunk report refused", detail=reply.detail)

    async def _pages(self) -> AsyncIterator[nodes_pb2.ChunkReport]:
        after, end = b"", False
        while not end:
            limit = limits.REPORT_PAGE_CHUNKS
            entries = await self._disk.run(self._disk.store.list_chunks, after, limit)
            end = len(entries) < limit
            yield nodes_pb2.ChunkReport(
                node=self._membership.node,
                uuid=self._membership.uuid,
                chunks=[
                    nodes_pb2.ReportedChunk(
                        chunk_id=e.chunk_id, length=e.length, leaving=e.leaving, damaged=e.damaged
                    )
                    for e in entries
                ],
                end=end,
                after=after,
            )
            after = entries[-1].chunk_id if entries else after

    async def close(self) -> None:
        """Stop the report and close the connection."""
        if self._report is not None:
            self._report.cancel()
            await asyncio.gather(self._report, return_exceptions=True)
        await self._coordinators.close()
