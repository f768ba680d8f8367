"""The Nodes service: what it refuses, and that complete reports alone take effect."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from cairnfs.base.checksums import chunk_id as name_of
from cairnfs.coordinator.membership.service import NodesService
from cairnfs.rpc.v1 import common_pb2, nodes_pb2
from tests.unit.membership.nodes import disk_use
from tests.unit.upkeep.simulation import Cluster, DirectStore

LONG = "x" * 256


class Service:
    """The service over a simulated cluster, called without gRPC."""

    def __init__(self, store: Any = None) -> None:
        self.cluster = Cluster(nodes=2)
        self.nodes = NodesService(
            store or self.cluster.store, self.cluster.manager, self.cluster.upkeep, self.cluster.clock, 5.0
        )

    async def register(self, **fields: Any) -> nodes_pb2.RegisterReply:
        """Register a node called "new" unless told otherwise."""
        known: dict[str, Any] = {"uuid": "new", "address": "new:1", "disk": disk_use()} | fields
        return await self.nodes.Register(nodes_pb2.RegisterRequest(**known), None)

    async def report(
        self, *parts: nodes_pb2.ChunkReport, before_last: Callable[[], Awaitable[None]] | None = None
    ) -> nodes_pb2.ChunkReportReply:
        """Send a report in parts."""

        async def stream() -> AsyncIterator[nodes_pb2.ChunkReport]:
            for index, part in enumerate(parts):
                if before_last is not None and index == len(parts) - 1:
                    await before_last()
                yield part

        return await self.nodes.ReportChunks(stream(), None)

    def part(self, number: int, *texts: str, end: bool = False) -> nodes_pb2.ChunkReport:
        """A part of the report of one of the cluster's nodes."""
        ids = sorted(name_of(text.encode()) for text in texts)
        return nodes_pb2.ChunkReport(
            node=number,
            uuid=self.cluster.nodes[number].uuid,
            chunks=[nodes_pb2.ReportedChunk(chunk_id=one, length=1_000) for one in ids],
            end=end,
        )


def test_registration_answers_with_number_cluster_and_map() -> None:
    service = Service()
    reply = asyncio.run(service.register())
    assert reply.error == common_pb2.ERROR_CODE_OK
    assert (reply.node, reply.cluster_id, reply.heartbeat_ms) == (3, "cluster", 5_000)
    assert {info.node for info in reply.cluster_map.nodes} == {1, 2, 3}
    again = asyncio.run(service.register(address="moved:2", node=reply.node, cluster_id="cluster"))
    assert again.node == reply.node


@pytest.mark.parametrize("fields", [{"uuid": ""}, {"address": ""}, {"rack": LONG}, {"uuid": LONG}])
def test_bad_registrations_are_refused(fields: dict[str, str]) -> None:
    reply = asyncio.run(Service().register(**fields))
    assert reply.error == common_pb2.ERROR_CODE_INVALID
    assert reply.node == 0


@pytest.mark.announces_warnings("datanode of another cluster refused")
def test_another_clusters_node_is_refused() -> None:
    reply = asyncio.run(Service().register(cluster_id="elsewhere"))
    assert reply.error == common_pb2.ERROR_CODE_WRONG_CLUSTER
    assert "elsewhere" in reply.detail


@pytest.mark.announces_warnings("metadata engine failed")
def test_a_failed_engine_is_unavailable() -> None:
    service = Service()
    service.cluster.store.engine.close()
    assert asyncio.run(service.register()).error == common_pb2.ERROR_CODE_UNAVAILABLE


def test_heartbeats_are_checked() -> None:
    service = Service()

    async def beat(**fields: Any) -> nodes_pb2.HeartbeatReply:
        return await service.nodes.Heartbeat(nodes_pb2.HeartbeatRequest(**fields), None)

    stranger = asyncio.run(beat(node=9, uuid="stranger"))
    assert stranger.error == common_pb2.ERROR_CODE_NODE_UNKNOWN
    flood = asyncio.run(beat(node=1, uuid="node-0", corrupt=[b"x"] * 1_025))
    assert flood.error == common_pb2.ERROR_CODE_TOO_BIG
    good = asyncio.run(beat(node=1, uuid="node-0", disk=disk_use()))
    assert good.error == common_pb2.ERROR_CODE_OK
    assert good.next_heartbeat_ms == 5_000


def test_a_report_in_parts_is_reconciled() -> None:
    service = Service()
    service.cluster.write("chunk", [1])
    names = ("chunk", "other", "third")
    first, last = service.part(2, names[0]), service.part(2, end=True)
    reply = asyncio.run(service.report(first, last))
    assert reply.error == common_pb2.ERROR_CODE_OK
    service.cluster.step()
    record = service.cluster.record(name_of(b"chunk"))
    assert record is not None
    assert record.nodes == (1, 2)


def test_a_report_that_breaks_off_changes_nothing() -> None:
    service = Service()
    chunk = service.cluster.write("chunk", [1, 2])
    for _ in range(2):
        reply = asyncio.run(service.report(service.part(2)))
        assert reply.error == common_pb2.ERROR_CODE_INVALID
    service.cluster.step()
    record = service.cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1, 2)


def test_reports_of_strangers_and_of_two_nodes_are_refused() -> None:
    service = Service()
    stranger = nodes_pb2.ChunkReport(node=1, uuid="stranger", end=True)
    assert asyncio.run(service.report(stranger)).error == common_pb2.ERROR_CODE_NODE_UNKNOWN
    mixed = (service.part(1), service.part(2, end=True))
    assert asyncio.run(service.report(*mixed)).error == common_pb2.ERROR_CODE_INVALID


def test_one_report_of_a_node_at_a_time() -> None:
    service = Service()
    codes: list[int] = []

    async def another() -> None:
        codes.append((await service.report(service.part(1, end=True))).error)
        codes.append((await service.report(service.part(2, end=True))).error)

    reply = asyncio.run(service.report(service.part(1), service.part(1, end=True), before_last=another))
    assert codes == [common_pb2.ERROR_CODE_OVERLOADED, common_pb2.ERROR_CODE_OK]
    assert reply.error == common_pb2.ERROR_CODE_OK


@pytest.mark.announces_warnings("metadata engine failed")
def test_a_report_whose_reconciling_failed_is_asked_for_again() -> None:
    service = Service()
    cluster = service.cluster
    cluster.run(1)
    assert not cluster.beat(cluster.nodes[1]).send_chunk_report
    failing = DirectStore(cluster.store.engine)
    broken = NodesService(failing, cluster.manager, cluster.upkeep, cluster.clock)
    engine, failing.engine = failing.engine, type(cluster.store.engine)()
    failing.engine.close()

    async def send() -> nodes_pb2.ChunkReportReply:
        async def stream() -> AsyncIterator[nodes_pb2.ChunkReport]:
            yield service.part(1, end=True)

        return await broken.ReportChunks(stream(), None)

    assert asyncio.run(send()).error == common_pb2.ERROR_CODE_UNAVAILABLE
    assert engine is cluster.store.engine
    assert cluster.beat(cluster.nodes[1]).send_chunk_report
