"""Garbage goes after its grace time, and nothing that is wanted ever goes."""

from random import Random

import pytest

from cairnfs.base.checksums import chunk_id as name_of
from cairnfs.base.errors import CairnError
from cairnfs.coordinator.membership.operations import membership_operations
from cairnfs.coordinator.namespace.operation import Env
from cairnfs.coordinator.records import ChunkState
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.upkeep.simulation import LENGTH, Cluster

GRACE_S = 30.0


def test_garbage_goes_after_the_grace_time_from_nodes_and_table() -> None:
    cluster = Cluster(grace_s=GRACE_S)
    chunk = cluster.write("chunk", [1, 2])
    cluster.run(GRACE_S)
    cluster.unlink(chunk)
    cluster.run(GRACE_S - 2)
    assert cluster.holders(chunk) == {1, 2}
    cluster.run(10)
    assert cluster.holders(chunk) == set()
    assert cluster.record(chunk) is None
    assert cluster.upkeep.collector.in_flight == 0


def test_a_chunk_referenced_again_in_time_stays() -> None:
    cluster = Cluster(grace_s=GRACE_S)
    chunk = cluster.write("chunk", [1, 2])
    cluster.run(GRACE_S)
    cluster.unlink(chunk)
    cluster.run(GRACE_S / 2)
    cluster.commit(chunk, [])
    cluster.run(2 * GRACE_S)
    assert cluster.holders(chunk) == {1, 2}


def test_a_chunk_stored_again_is_kept_by_its_node_while_its_record_goes() -> None:
    cluster = Cluster(grace_s=GRACE_S)
    chunk = cluster.write("chunk", [1, 2])
    cluster.run(GRACE_S)
    cluster.unlink(chunk)
    cluster.run(GRACE_S - 1)
    cluster.nodes[1].store(chunk)  # a writer is about to commit it
    cluster.run(5)
    assert cluster.record(chunk) is None
    assert cluster.holders(chunk) == {1}
    cluster.commit(chunk, [1])
    cluster.run(GRACE_S)
    assert cluster.holders(chunk) >= {1}


def test_what_a_restart_interrupted_is_finished() -> None:
    cluster = Cluster(grace_s=GRACE_S)
    chunk = cluster.write("chunk", [1, 2])
    cluster.run(GRACE_S)
    cluster.unlink(chunk)
    while (record := cluster.record(chunk)) is not None and record.state == ChunkState.LIVE:
        cluster.clock.advance(1)
        for node in cluster.nodes.values():
            cluster.beat(node)
        cluster.step()
    cluster.start()
    cluster.step()
    assert cluster.upkeep.safe_mode.active
    assert cluster.record(chunk) is None  # a writer of the same content need not wait
    assert cluster.holders(chunk) == {1, 2}
    cluster.run(2 * GRACE_S)  # the copies left over are unknown chunks of a later report
    assert cluster.holders(chunk) == set()


@pytest.mark.announces_warnings("datanode changed state")
def test_a_dead_holder_does_not_keep_garbage_alive_and_cleans_up_when_it_returns() -> None:
    cluster = Cluster(grace_s=GRACE_S)
    chunk = cluster.write("chunk", [1, 2])
    cluster.nodes[2].up = False
    cluster.unlink(chunk)
    cluster.run(GRACE_S + 60)
    assert cluster.record(chunk) is None
    cluster.nodes[2].up = True
    cluster.run(3 * GRACE_S)
    assert cluster.holders(chunk) == set()


def test_a_node_known_for_less_than_the_grace_time_is_not_told_to_delete() -> None:
    cluster = Cluster(grace_s=GRACE_S)
    chunk = cluster.write("chunk", [1])
    cluster.unlink(chunk)
    cluster.clock.advance(GRACE_S - 1)
    cluster.nodes[1].restart()
    cluster.run(GRACE_S - 1)
    record = cluster.record(chunk)
    assert record is not None
    assert record.state == ChunkState.LIVE
    cluster.run(10)
    assert cluster.record(chunk) is None


class Writers:
    """Clients that plan, store and commit the same few contents over and over, with pauses in between."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.contents = [name_of(bytes([n])) for n in range(6)]
        self.pending: list[tuple[bytes, list[int], float]] = []
        self.references: dict[bytes, int] = dict.fromkeys(self.contents, 0)
        specs = membership_operations(cluster.manager, cluster.placer, cluster.upkeep)
        self.plan = next(spec.run for spec in specs if spec.name == "plan_write")

    def write(self) -> None:
        """Plan one content and store it where the plan says."""
        chunk = self.rng.choice(self.contents)
        request = pb.PlanWrite(chunks=[pb.ChunkSpec(chunk_id=chunk, length=LENGTH)])
        env = Env(pb.Caller(), self.cluster.clock.wall_ns())
        try:
            reply = self.cluster.store.engine.read(lambda txn: self.plan(txn, request, env))  # type: ignore[arg-type]
        except CairnError as error:
            if error.code == common_pb2.ERROR_CODE_UNAVAILABLE:
                return
            raise
        nodes = [] if reply.plans[0].stored else list(reply.plans[0].nodes)
        for number in nodes:
            self.cluster.nodes[number].store(chunk)
        self.pending.append((chunk, nodes, self.cluster.clock.monotonic()))

    def commit(self) -> None:
        """Commit one content that was stored less than the grace time ago."""
        if not self.pending:
            return
        chunk, nodes, stored_s = self.pending.pop(self.rng.randrange(len(self.pending)))
        if self.cluster.clock.monotonic() - stored_s >= GRACE_S:
            return
        try:
            self.cluster.commit(chunk, nodes)
        except CairnError as error:
            if error.code == common_pb2.ERROR_CODE_CHUNK_GONE:
                return
            raise
        self.references[chunk] += 1

    def unlink(self) -> None:
        """Drop a reference to one content."""
        chunk = self.rng.choice(self.contents)
        if self.references[chunk]:
            self.cluster.unlink(chunk)
            self.references[chunk] -= 1

    def check(self) -> None:
        """Every node in the record of a referenced chunk has it."""
        for chunk, references in self.references.items():
            record = self.cluster.record(chunk)
            if not references:
                continue
            assert record is not None
            assert record.references == references
            assert record.nodes
            assert all(chunk in self.cluster.nodes[number].chunks for number in record.nodes)


@pytest.mark.parametrize("seed", range(8))
def test_no_interleaving_of_writers_and_collection_loses_a_referenced_chunk(seed: int) -> None:
    rng = Random(seed)
    cluster = Cluster(nodes=4, grace_s=GRACE_S)
    writers = Writers(cluster, rng)
    collected = 0
    for _ in range(1_500):
        cluster.clock.advance(rng.choice((0.1, 0.5, 3.0)))
        for node in cluster.nodes.values():
            if rng.random() < 0.8:
                cluster.beat(node)
            if rng.random() < 0.5:
                cluster.work(node)
        action = rng.choice((writers.write, writers.commit, writers.unlink, writers.unlink, cluster.step))
        action()
        if rng.random() < 0.02:
            cluster.upkeep.scanner.request()
        if rng.random() < 0.003:
            cluster.nodes[rng.randrange(1, 5)].restart()
        collected += cluster.upkeep.collector.in_flight > 0
        writers.check()
    assert collected  # otherwise nothing was tried
