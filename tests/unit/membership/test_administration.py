"""Draining and removing datanodes without losing a replica."""

import asyncio

import pytest

from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.membership.service import NodesService
from cairnfs.rpc.v1 import common_pb2, nodes_pb2
from tests.unit.upkeep.simulation import Cluster

DRAIN = nodes_pb2.NODE_CHANGE_DRAIN
UNDRAIN = nodes_pb2.NODE_CHANGE_UNDRAIN
REMOVE = nodes_pb2.NODE_CHANGE_REMOVE


def change(cluster: Cluster, node: int, what: "nodes_pb2.NodeChange.ValueType") -> nodes_pb2.ChangeNodeReply:
    """Ask the service for a change."""

    async def ask() -> nodes_pb2.ChangeNodeReply:
        service = NodesService(cluster.store, cluster.manager, cluster.upkeep, cluster.clock)
        return await service.ChangeNode(nodes_pb2.ChangeNodeRequest(node=node, change=what), None)

    return asyncio.run(ask())


def test_a_drained_node_can_be_removed_when_all_is_copied() -> None:
    cluster = Cluster(nodes=3)
    chunks = [cluster.write(f"chunk {n}", [1, 2]) for n in range(10)]
    assert change(cluster, 1, REMOVE).error == common_pb2.ERROR_CODE_INVALID
    assert change(cluster, 1, DRAIN).error == common_pb2.ERROR_CODE_OK
    early = change(cluster, 1, REMOVE)
    assert (early.error, early.depending_chunks) == (common_pb2.ERROR_CODE_BUSY, 10)
    cluster.run(20)
    assert change(cluster, 1, REMOVE).error == common_pb2.ERROR_CODE_OK
    del cluster.nodes[1]
    cluster.run(20)
    for chunk in chunks:
        record = cluster.record(chunk)
        assert record is not None
        assert record.nodes == (2, 3)
    assert [node.node for node in cluster.store.read(lambda txn: list(nodes_table.scan_nodes(txn)))] == [2, 3]


def test_draining_outlives_the_coordinator_and_can_be_taken_back() -> None:
    cluster = Cluster(nodes=2)
    change(cluster, 1, DRAIN)
    cluster.start()
    cluster.run(5)
    assert [node.number for node in cluster.manager.usable()] == [2]
    change(cluster, 1, UNDRAIN)
    assert [node.number for node in cluster.manager.usable()] == [1, 2]


@pytest.mark.announces_warnings("datanode changed state")
def test_a_dead_node_is_removed_only_when_its_chunks_are_repaired() -> None:
    cluster = Cluster(nodes=3)
    cluster.write("chunk", [1, 2])
    cluster.nodes[1].up = False
    cluster.run(cluster.settings.dead_s + 1)
    assert change(cluster, 1, REMOVE).error == common_pb2.ERROR_CODE_BUSY
    cluster.run(20)
    assert change(cluster, 1, REMOVE).error == common_pb2.ERROR_CODE_OK


def test_senseless_changes_are_refused() -> None:
    cluster = Cluster(nodes=1)
    assert change(cluster, 9, DRAIN).error == common_pb2.ERROR_CODE_NODE_UNKNOWN
    assert change(cluster, 1, nodes_pb2.NODE_CHANGE_UNSPECIFIED).error == common_pb2.ERROR_CODE_INVALID
