"""What the cluster does by itself: repair, draining, rebalancing, racks; slow, lying and broken nodes."""

from typing import Any

import pytest

from cairnfs.base import limits
from cairnfs.coordinator.upkeep.figures import upkeep_status
from cairnfs.rpc.v1 import nodes_pb2
from tests.unit.upkeep.simulation import LENGTH, Cluster, Datanode

pytestmark = pytest.mark.announces_warnings(
    "datanode changed state", "replica is corrupt", "replica is missing", "disk of a datanode",
    "datanode is not trusted",
)  # fmt: skip


def status(cluster: Cluster) -> nodes_pb2.UpkeepStatusReply:
    now = cluster.clock.monotonic()
    return cluster.store.read(lambda txn: upkeep_status(cluster.upkeep, txn, now))


def fill(cluster: Cluster, chunks: int, nodes: list[int]) -> list[bytes]:
    return [cluster.write(f"chunk {index}", nodes) for index in range(chunks)]


def copied_bytes(cluster: Cluster) -> int:
    return sum(node.copied_bytes for node in cluster.nodes.values())


def is_even(cluster: Cluster, chunks: list[bytes], replicas: int = 2) -> bool:
    return all(len(cluster.holders(chunk)) == replicas for chunk in chunks)


# ---------------------------------------------------------------------- bandwidth


def test_repair_keeps_to_its_bandwidth_in_total() -> None:
    cluster = Cluster(nodes=4, repair_bytes_per_s=2 * LENGTH, repair_node_bytes_per_s=0)
    fill(cluster, 100, [1, 2])
    cluster.nodes[2].up = False
    cluster.run(limits.NODE_DEAD_S + 2)
    before, started_s = copied_bytes(cluster), cluster.clock.monotonic()
    cluster.run(20)
    spent_s = cluster.clock.monotonic() - started_s
    moved = copied_bytes(cluster) - before
    assert 0.7 * 2 * LENGTH * spent_s <= moved <= 2 * LENGTH * (spent_s + 1) + LENGTH
    assert status(cluster).repair.limit_bytes_per_s == 2 * LENGTH
    cluster.run(60)
    assert status(cluster).repair.queue == []


def test_repair_keeps_to_its_bandwidth_at_each_node() -> None:
    cluster = Cluster(nodes=4, repair_node_bytes_per_s=LENGTH)
    fill(cluster, 60, [1, 2])
    cluster.nodes[2].up = False
    cluster.run(limits.NODE_DEAD_S)
    started_s = cluster.clock.monotonic() - 2
    before = copied_bytes(cluster)
    cluster.run(20)
    spent_s = cluster.clock.monotonic() - started_s
    assert copied_bytes(cluster) - before <= LENGTH * (spent_s + 2), "node 1 is the only source"
    cluster.run(60)
    assert status(cluster).repair.queue == []


def test_the_queue_shows_the_most_urgent_first() -> None:
    cluster = Cluster(nodes=4, replicas=3, repair_bytes_per_s=1)
    fill(cluster, 5, [1, 2, 3])
    cluster.write("lonely", [1])
    cluster.nodes[3].up = False
    cluster.run(limits.NODE_DEAD_S + 3)
    queue = [(entry.readable, entry.chunks) for entry in status(cluster).repair.queue]
    assert [readable for readable, _ in queue] in ([1, 2], [2])
    assert sum(chunks for _, chunks in queue) >= 4


# ---------------------------------------------------------------------- absence


def test_a_node_that_returns_costs_no_copies_of_what_it_still_has() -> None:
    cluster = Cluster(nodes=3, replicas=2, repair_bytes_per_s=1)
    chunks = fill(cluster, 50, [1, 2])
    away = cluster.nodes[2]
    away.up = False
    cluster.run(limits.NODE_DEAD_S + 3)
    assert status(cluster).repair.queue
    begun = cluster.nodes[3].copied_bytes
    assert begun <= 2 * LENGTH
    away.up = True
    away.restart()
    cluster.join(away)
    cluster.run(30)
    assert status(cluster).repair.queue == []
    assert copied_bytes(cluster) <= 2 * LENGTH
    cluster.run(200)
    assert is_even(cluster, chunks), "and what was copied meanwhile is one too many"


# ---------------------------------------------------------------------- draining


def test_draining_shows_progress_and_comes_to_an_end() -> None:
    cluster = Cluster(nodes=4, repair_bytes_per_s=4 * LENGTH, repair_node_bytes_per_s=0)
    chunks = fill(cluster, 80, [1, 2])
    cluster.manager.set_draining(1, True)
    assert not status(cluster).drains[0].counted
    cluster.run(6)
    (drain,) = status(cluster).drains
    assert drain.counted
    assert (drain.node, drain.chunks, drain.bytes) == (1, 80, 80 * LENGTH)
    assert 0 < drain.chunks_left < 80
    assert drain.bytes_left == drain.chunks_left * LENGTH
    assert drain.bytes_per_s > 0
    cluster.run(60)
    (drain,) = status(cluster).drains
    assert (drain.chunks, drain.chunks_left) == (80, 0)
    assert all(len(cluster.holders(chunk) - {1}) == 2 for chunk in chunks)
    cluster.manager.set_draining(1, False)
    cluster.run(15)
    assert list(status(cluster).drains) == []


# ---------------------------------------------------------------------- rebalancing


def grown(**settings: Any) -> tuple[Cluster, list[bytes]]:
    """Two nodes two fifths full, and two empty ones that just joined."""
    cluster = Cluster(nodes=0, grace_s=5.0, **settings)
    for number in range(4):
        cluster.join(Datanode(f"node-{number}", capacity_bytes=100 * LENGTH))
    return cluster, fill(cluster, 40, [1, 2])


def held(cluster: Cluster) -> list[int]:
    return [len(node.chunks) for node in cluster.nodes.values()]


def test_new_nodes_get_their_share_and_then_it_is_quiet() -> None:
    cluster, chunks = grown(rebalance_bytes_per_s=0)
    fewest = len(chunks)

    def look() -> None:
        nonlocal fewest
        fewest = min(fewest, *(len(cluster.holders(chunk)) for chunk in chunks))

    for _ in range(120):
        cluster.run(1)
        look()
    assert fewest == 2, "never below the wanted count"
    assert sum(held(cluster)) == 80
    assert max(held(cluster)) - min(held(cluster)) <= 5
    moved = status(cluster).rebalance.moved_chunks
    assert 35 <= moved <= 45
    cluster.run(300)
    assert status(cluster).rebalance.moved_chunks == moved
    assert status(cluster).rebalance.spread_percent <= 5
    assert is_even(cluster, chunks)


def test_rebalancing_keeps_to_its_bandwidth() -> None:
    cluster, _ = grown(rebalance_bytes_per_s=LENGTH // 2)
    cluster.run(60)
    assert 20 <= copied_bytes(cluster) // LENGTH <= 32


def test_rebalancing_can_be_switched_off_and_leaves_small_differences_alone() -> None:
    cluster, _ = grown(rebalance=False)
    cluster.run(120)
    assert held(cluster) == [40, 40, 0, 0]
    small, _ = grown(rebalance_percent=50)
    small.run(120)
    assert held(small) == [40, 40, 0, 0]


def test_repair_goes_before_rebalancing() -> None:
    cluster, chunks = grown(repair_bytes_per_s=LENGTH)
    cluster.write("lonely", [1])
    extra = [cluster.write(f"extra {index}", [1]) for index in range(30)]
    cluster.upkeep.scanner.request()
    cluster.run(10)
    assert status(cluster).rebalance.moved_chunks == 0
    cluster.run(200)
    assert is_even(cluster, chunks + extra)
    assert status(cluster).rebalance.moved_chunks > 0


def test_rebalancing_keeps_racks_apart() -> None:
    cluster = Cluster(nodes=0, grace_s=5.0, rebalance_bytes_per_s=0)
    for number, rack in enumerate(("x", "y", "x")):
        cluster.join(Datanode(f"node-{number}", rack=rack, capacity_bytes=100 * LENGTH))
    chunks = fill(cluster, 40, [1, 2])
    cluster.run(150)
    assert held(cluster)[1] == 40, "nothing but node 2 is in the other rack"
    assert abs(held(cluster)[0] - held(cluster)[2]) <= 5
    assert all(2 in cluster.holders(chunk) for chunk in chunks)


# ---------------------------------------------------------------------- racks


def test_repair_replaces_a_replica_in_the_rack_that_lost_it() -> None:
    cluster = Cluster(nodes=4, racks=("x", "x", "y", "y"))
    chunks = fill(cluster, 20, [1, 3])
    cluster.nodes[3].up = False
    cluster.run(limits.NODE_DEAD_S + 20)
    assert all(cluster.holders(chunk) == {1, 4} for chunk in chunks)


def test_replicas_that_share_a_rack_are_moved_apart_when_there_is_another() -> None:
    cluster = Cluster(nodes=2, racks=("x", "x"), grace_s=5.0)
    chunks = fill(cluster, 20, [1, 2])
    cluster.run(60)
    assert copied_bytes(cluster) == 0
    cluster.join(Datanode("far", rack="y"))
    cluster.upkeep.scanner.request()
    cluster.run(60)
    assert all(3 in cluster.holders(chunk) and len(cluster.holders(chunk)) == 2 for chunk in chunks)
    assert copied_bytes(cluster) == 20 * LENGTH
    cluster.run(60)
    assert copied_bytes(cluster) == 20 * LENGTH


# ---------------------------------------------------------------------- slow nodes


def test_a_slow_node_is_avoided_until_it_is_quick_again() -> None:
    cluster = Cluster(nodes=4)
    for node in cluster.nodes.values():
        node.store_us = 5_000
    cluster.nodes[2].store_us = 400_000
    cluster.run(30)
    slow = cluster.manager.get(2)
    assert slow is not None
    assert slow.slow
    assert "400 ms" in slow.trouble
    placed = [cluster.placer.place(LENGTH, 2) for _ in range(50)]
    assert all(2 not in nodes for nodes in placed)
    needed = [cluster.placer.place(LENGTH, 4) for _ in range(10)]
    assert all(2 in nodes and nodes[0] != 2 for nodes in needed), "at most a replica, never the primary"
    cluster.nodes[2].store_us = 6_000
    cluster.run(30)
    assert [node.trouble for node in cluster.manager if node.slow or node.trouble] == []


def test_one_slow_moment_and_a_slow_cluster_make_no_node_slow() -> None:
    cluster = Cluster(nodes=4)
    for node in cluster.nodes.values():
        node.store_us = 400_000
    cluster.run(30)
    assert not any(node.slow for node in cluster.manager)
    for node in cluster.nodes.values():
        node.store_us = 5_000
    cluster.nodes[2].store_us = 400_000
    cluster.run(6)
    cluster.nodes[2].store_us = 5_000
    cluster.run(30)
    assert not any(node.slow for node in cluster.manager)


def test_peers_tell_of_a_node_that_calls_itself_quick() -> None:
    cluster = Cluster(nodes=4)
    for node in cluster.nodes.values():
        node.store_us = 5_000
        node.peers_us = {number: 900_000 if number == 3 else 6_000 for number in (1, 2, 3, 4)}
    cluster.run(30)
    assert [node.number for node in cluster.manager if node.slow] == [3]


# ---------------------------------------------------------------------- lying nodes


def test_a_node_that_loses_what_it_acknowledged_is_not_trusted_and_emptied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "NODE_FAULTS_MAX", 10)
    cluster = Cluster(nodes=4)
    chunks = fill(cluster, 60, [1, 2])
    liar = cluster.nodes[1]
    for chunk in chunks[:15]:
        if chunks.index(chunk) % 2:
            liar.damaged.add(chunk)
        else:
            del liar.chunks[chunk]
        cluster.upkeep.replica_reported(chunk, 1)
    cluster.run(120)
    node = cluster.manager.get(1)
    assert node is not None
    assert node.failing
    assert "lost or damaged" in node.trouble
    assert all(len(cluster.holders(chunk) - {1}) == 2 for chunk in chunks)
    assert all(1 not in cluster.placer.place(LENGTH, 2) for _ in range(30))
    cluster.start()  # it is remembered
    assert [node.number for node in cluster.manager if node.failing] == [1]


def test_a_few_faults_or_the_same_everywhere_are_no_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODE_FAULTS_MAX", 10)
    cluster = Cluster(nodes=3)
    everywhere = fill(cluster, 30, [1, 2, 3])
    for index, chunk in enumerate(everywhere):
        number = 1 + index % 3
        cluster.nodes[number].damaged.add(chunk)
        cluster.upkeep.replica_reported(chunk, number)
    cluster.run(60)
    assert not any(node.failing for node in cluster.manager)
    assert sum(node.faults for node in status(cluster).nodes) == 30


def test_no_node_is_distrusted_when_too_few_would_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODE_FAULTS_MAX", 10)
    cluster = Cluster(nodes=2)
    for chunk in fill(cluster, 30, [1, 2]):
        cluster.nodes[1].damaged.add(chunk)
        cluster.upkeep.replica_reported(chunk, 1)
    cluster.run(60)
    assert not any(node.failing for node in cluster.manager)


# ---------------------------------------------------------------------- disks


def disk(state: "nodes_pb2.DiskState.ValueType") -> list[nodes_pb2.DiskInfo]:
    return [nodes_pb2.DiskInfo(uuid="d", path="/srv/d", state=state, detail="as told by the test")]


def test_chunks_of_a_failed_disk_are_repaired_long_before_a_node_would_be_dead() -> None:
    cluster = Cluster(nodes=3)
    chunks = fill(cluster, 20, [1, 2])
    cluster.nodes[1].disks = disk(nodes_pb2.DISK_STATE_GOOD)
    cluster.run(5)
    for chunk in chunks[:10]:
        del cluster.nodes[1].chunks[chunk]
    cluster.nodes[1].disks = disk(nodes_pb2.DISK_STATE_FAILED)
    cluster.run(10)
    assert is_even(cluster, chunks)
    assert all(len(record.nodes) == 2 for chunk in chunks if (record := cluster.record(chunk)))
    assert [info.detail for node in status(cluster).nodes for info in node.disks] == ["as told by the test"]


def test_chunks_leave_a_disk_that_can_only_be_read() -> None:
    cluster = Cluster(nodes=3)
    chunks = fill(cluster, 20, [1, 2])
    sole = cluster.write("sole", [1])
    node = cluster.nodes[1]
    node.leaving = {*chunks[:10], sole}
    node.disks = disk(nodes_pb2.DISK_STATE_READ_ONLY)
    cluster.run(200)
    for chunk in (*chunks, sole):
        record = cluster.record(chunk)
        assert record is not None
        assert len(record.nodes) == 2
        assert set(record.nodes) <= cluster.holders(chunk)
        assert 1 not in record.nodes or chunk not in node.leaving


def test_the_only_replica_leaves_a_disk_that_can_only_be_read() -> None:
    cluster = Cluster(nodes=3, replicas=1)
    chunks = fill(cluster, 20, [1])
    node = cluster.nodes[1]
    node.leaving = set(chunks)
    node.disks = disk(nodes_pb2.DISK_STATE_READ_ONLY)
    cluster.run(200)
    assert all(len(cluster.holders(chunk) - {1}) == 1 for chunk in chunks)
    assert all(1 not in record.nodes for chunk in chunks if (record := cluster.record(chunk)))
