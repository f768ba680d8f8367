"""The Nodes service: what datanodes call, checked, bounded, and handed to the cores."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.membership.administration import Administration
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.upkeep.figures import upkeep_status
from cairnfs.coordinator.upkeep.reports import ChunkListing
from cairnfs.coordinator.upkeep.store import Store
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import EngineError
from cairnfs.rpc.v1 import common_pb2, nodes_pb2, nodes_pb2_grpc

log = get_logger(__name__)

REPORTS_AT_ONCE: Final = 2
_STEP_PAUSE_S: Final = 0.002


@dataclass(slots=True)
class _Sender:
    """Whose report a stream carries; 0 until the first part was accepted."""

    number: int = 0


class NodesService(nodes_pb2_grpc.NodesServicer):
    """Errors travel inside the replies; a failed engine shows as UNAVAILABLE, which nodes retry."""

    def __init__(
        self,
        store: Store,
        manager: NodeManager,
        upkeep: Upkeep,
        clock: Clock,
        heartbeat_s: float = limits.NODE_HEARTBEAT_S,
    ) -> None:
        self._store = store
        self._manager = manager
        self._upkeep = upkeep
        self._clock = clock
        self._heartbeat_ms = int(heartbeat_s * 1000)
        self._administration = Administration(store, manager, upkeep.faults.forgive)
        self._report_slots = asyncio.Semaphore(REPORTS_AT_ONCE)
        self._reporting: set[int] = set()

    async def Register(self, request: nodes_pb2.RegisterRequest, context: Any) -> nodes_pb2.RegisterReply:
        """Give a node its number, or its old one back."""
        try:
            _check_registration(request)
            self._manager.check_cluster(request.cluster_id)
            record = await self._store.commit(nodes_table.registration(request))
        except (CairnError, EngineError) as error:
            code, detail = _refusal("registration", error)
            return nodes_pb2.RegisterReply(error=code, detail=detail)
        now = self._clock.monotonic()
        node = self._manager.registered(record, request.disk, now)
        self._upkeep.restarted(node.number, now)
        return nodes_pb2.RegisterReply(
            node=node.number,
            cluster_id=self._manager.cluster_id,
            cluster_map=self._manager.cluster_map(),
            heartbeat_ms=self._heartbeat_ms,
        )

    async def Heartbeat(self, request: nodes_pb2.HeartbeatRequest, context: Any) -> nodes_pb2.HeartbeatReply:
        """Note a sign of life, take results, hand out news and work."""
        now = self._clock.monotonic()
        try:
            _check_heartbeat(request)
            reply = self._manager.heartbeat(request, now)
        except CairnError as error:
            code, detail = _refusal("heartbeat", error)
            return nodes_pb2.HeartbeatReply(error=code, detail=detail, next_heartbeat_ms=self._heartbeat_ms)
        self._upkeep.heartbeat(request, reply, now)
        return reply

    async def ChangeNode(
        self, request: nodes_pb2.ChangeNodeRequest, context: Any
    ) -> nodes_pb2.ChangeNodeReply:
        """Drain, use again, or remove a node."""
        try:
            return await self._administration.change(request)
        except (CairnError, EngineError) as error:
            code, detail = _refusal("change of a datanode", error)
            return nodes_pb2.ChangeNodeReply(error=code, detail=detail)

    async def UpkeepStatus(
        self, request: nodes_pb2.UpkeepStatusRequest, context: Any
    ) -> nodes_pb2.UpkeepStatusReply:
        """How repair, draining and rebalancing get on, and how the disks are."""
        now = self._clock.monotonic()
        return self._store.read(lambda txn: upkeep_status(self._upkeep, txn, now))

    async def ReportChunks(
        self, request_iterator: AsyncIterator[nodes_pb2.ChunkReport], context: Any
    ) -> nodes_pb2.ChunkReportReply:
        """Collect a report; when it is complete, reconcile it before answering."""
        sender = _Sender()
        try:
            listing = await self._collect(request_iterator, sender)
            async with self._report_slots:
                await self._reconcile(sender.number, listing)
        except (CairnError, EngineError) as error:
            code, detail = _refusal("chunk report", error)
            return nodes_pb2.ChunkReportReply(error=code, detail=detail)
        finally:
            self._reporting.discard(sender.number)
        return nodes_pb2.ChunkReportReply()

    async def _collect(self, parts: AsyncIterator[nodes_pb2.ChunkReport], sender: _Sender) -> ChunkListing:
        listing = ChunkListing()
        async for part in parts:
            number = self._manager.identified(part.node, part.uuid).number
            if sender.number == 0:
                self._admit(number)
                sender.number = number
            elif number != sender.number:
                raise CairnError(common_pb2.ERROR_CODE_INVALID, "one report of two datanodes")
            listing.add(part)
            if listing.complete:
                return listing
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "the report ended before its end; it changes nothing")

    def _admit(self, number: int) -> None:
        """One report of a node at a time, so that a second one was listed after the first was judged."""
        if number in self._reporting:
            raise CairnError(common_pb2.ERROR_CODE_OVERLOADED, "an earlier report is still under way")
        self._reporting.add(number)

    async def _reconcile(self, node: int, listing: ChunkListing) -> None:
        reconciliation = self._upkeep.begin_report(node, listing)

        finished = False
        try:
            more = True
            while more:
                more = self._store.read(reconciliation.step)
                await asyncio.sleep(_STEP_PAUSE_S)  # clients go first
            self._upkeep.end_report(node, reconciliation, self._clock.monotonic())
            finished = True
        finally:
            if not finished:
                self._upkeep.abort_report(node)


def _check_registration(request: nodes_pb2.RegisterRequest) -> None:
    texts = (request.uuid, request.address, request.unix_socket, request.host_id, request.rack)
    if not request.uuid or not request.address:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, "a datanode needs an identity and an address")
    if any(len(text.encode()) > limits.NODE_TEXT_MAX_BYTES for text in texts):
        raise CairnError(
            common_pb2.ERROR_CODE_INVALID, f"a text of more than {limits.NODE_TEXT_MAX_BYTES} bytes"
        )


def _check_heartbeat(request: nodes_pb2.HeartbeatRequest) -> None:
    if (
        max(len(request.results), len(request.corrupt), len(request.peers), len(request.disks))
        > limits.RESULTS_PER_HEARTBEAT_MAX
    ):
        detail = f"more than {limits.RESULTS_PER_HEARTBEAT_MAX} of something in one heartbeat"
        raise CairnError(common_pb2.ERROR_CODE_TOO_BIG, detail)


def _refusal(what: str, error: CairnError | EngineError) -> tuple["common_pb2.ErrorCode.ValueType", str]:
    if isinstance(error, EngineError):
        log.warning("metadata engine failed", what=what, error=str(error))
        return common_pb2.ERROR_CODE_UNAVAILABLE, "the metadata engine failed"
    if error.code == common_pb2.ERROR_CODE_WRONG_CLUSTER:
        log.warning("datanode of another cluster refused", what=what, detail=error.detail)
    else:
        log.info("request refused", what=what, detail=str(error))
    return error.code, error.detail
