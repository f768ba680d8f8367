"""Replica counts are restored, trimmed and kept, step by step and in whole clusters."""

import pytest

from cairnfs.base import limits
from tests.unit.upkeep.simulation import Cluster

dead = pytest.mark.announces_warnings("datanode changed state")


@dead
def test_a_dead_nodes_replicas_are_restored() -> None:
    cluster = Cluster(nodes=4)
    chunks = [cluster.write(f"chunk {n}", [1, 2]) for n in range(50)]
    cluster.nodes[1].up = False
    cluster.run(cluster.settings.dead_s + 30)
    assert all(len(cluster.holders(chunk)) == 2 for chunk in chunks)
    for chunk in chunks:
        record = cluster.record(chunk)
        assert record is not None
        assert cluster.holders(chunk) <= set(record.nodes)


@dead
def test_a_returning_node_brings_its_replicas_back_and_the_surplus_goes() -> None:
    cluster = Cluster(nodes=4, grace_s=20)
    chunks = [cluster.write(f"chunk {n}", [1, 2]) for n in range(10)]
    cluster.nodes[1].up = False
    cluster.run(cluster.settings.dead_s + 30)
    cluster.nodes[1].up = True
    cluster.run(60)
    cluster.upkeep.scanner.request()
    cluster.run(60)
    for chunk in chunks:
        record = cluster.record(chunk)
        assert record is not None
        assert len(record.nodes) == 2
        assert cluster.holders(chunk) == set(record.nodes)


@dead
def test_fewest_replicas_first() -> None:
    cluster = Cluster(nodes=4, replicas=3)
    safer = [cluster.write(f"two left {n}", [1, 2, 3]) for n in range(200)]
    urgent = cluster.write("one left", [1, 4])
    for number in (1,):
        cluster.nodes[number].up = False
    while cluster.manager.is_alive(1):
        cluster.clock.advance(5)
        for node in cluster.nodes.values():
            if node.up:
                cluster.beat(node)
        cluster.upkeep.tick(cluster.clock.monotonic())
    cluster.step()
    started = set(cluster.upkeep.repairer._running)
    assert urgent in started
    assert len(started) < len(safer)


def test_copies_per_node_are_bounded() -> None:
    cluster = Cluster(nodes=3)
    for n in range(100):
        cluster.write(f"chunk {n}", [1])
    cluster.upkeep.scanner.request()
    cluster.step()
    cluster.step()
    assert cluster.upkeep.repairer.running <= limits.COPIES_PER_NODE_MAX
    cluster.run(80)
    assert cluster.upkeep.repairer.waiting == cluster.upkeep.repairer.running == 0
    assert all(len(cluster.holders(chunk)) == 2 for chunk in cluster.nodes[1].chunks)


def test_draining_moves_everything_elsewhere() -> None:
    cluster = Cluster(nodes=3)
    chunks = [cluster.write(f"chunk {n}", [1, 2]) for n in range(20)]
    cluster.manager.set_draining(1, True)
    cluster.run(40)
    for chunk in chunks:
        assert {2, 3} <= cluster.holders(chunk)


def test_racks_are_kept_apart_by_repair() -> None:
    cluster = Cluster(nodes=4, racks=("a", "a", "b", "b"))
    chunk = cluster.write("chunk", [1])
    cluster.upkeep.scanner.request()
    cluster.run(10)
    (other,) = cluster.holders(chunk) - {1}
    assert other in (3, 4)


@pytest.mark.announces_warnings("replica is corrupt")
def test_a_corrupt_replica_that_a_client_met_is_verified_dropped_and_replaced() -> None:
    cluster = Cluster(nodes=3, grace_s=5)
    chunk = cluster.write("chunk", [1, 2])
    cluster.nodes[1].damaged.add(chunk)
    cluster.run(10)
    cluster.upkeep.replica_reported(chunk, 1)
    cluster.run(40)
    record = cluster.record(chunk)
    assert record is not None
    assert len(cluster.holders(chunk)) == 2
    assert cluster.holders(chunk) == set(record.nodes)


def test_a_good_replica_survives_a_clients_accusation() -> None:
    cluster = Cluster(nodes=3)
    chunk = cluster.write("chunk", [1, 2])
    cluster.upkeep.replica_reported(chunk, 1)
    cluster.run(10)
    record = cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1, 2)


@pytest.mark.announces_warnings("replica is corrupt", "no good replica is left")
def test_the_last_replica_is_never_dropped() -> None:
    cluster = Cluster(nodes=1)
    chunk = cluster.write("chunk", [1])
    cluster.upkeep.doubts.found_bad(chunk, 1)
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1,)


def test_heartbeats_are_short_while_there_is_work() -> None:
    cluster = Cluster(nodes=2)
    cluster.write("chunk", [1])
    cluster.upkeep.scanner.request()
    cluster.step()
    cluster.step()
    assert cluster.beat(cluster.nodes[1]).next_heartbeat_ms == int(limits.BUSY_HEARTBEAT_S * 1000)
    assert cluster.beat(cluster.nodes[2]).next_heartbeat_ms == int(limits.NODE_HEARTBEAT_S * 1000)


def test_a_chunk_that_lost_a_replica_on_its_way_is_found_by_the_next_walk() -> None:
    cluster = Cluster(nodes=2)
    cluster.run(5)
    chunk = cluster.write("chunk", [1])
    cluster.run(limits.SCAN_PAUSE_MIN_S + 5)
    assert cluster.holders(chunk) == {1, 2}
    assert cluster.upkeep.scanner.tally.chunks == 1
