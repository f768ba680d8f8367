"""What fsck finds, counts and describes."""

import asyncio

import pytest

from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.namespace.mends import Mend
from cairnfs.coordinator.upkeep.fsck import run_fsck
from cairnfs.rpc.v1 import metadata_pb2 as pb
from tests.unit.upkeep.simulation import Cluster


class _NoMender:
    """Nothing is repaired here."""

    async def mend(self, mend: Mend) -> bool:
        raise AssertionError(f"not asked to mend: {mend.finding}")

    def look_for_orphans(self) -> None:
        raise AssertionError("nothing was mended")


def check(cluster: Cluster, *, verify_data: bool = False) -> pb.FsckReport:
    """Run fsck while the datanodes go on beating and working."""

    async def beat_for_ever() -> None:
        while True:
            for node in cluster.nodes.values():
                if node.up:
                    cluster.beat(node)
                    cluster.work(node)
            cluster.clock.advance(0.5)
            await asyncio.sleep(0)

    request = pb.FsckRequest(verify_data=verify_data)

    async def main() -> pb.FsckReport:
        beating = asyncio.create_task(beat_for_ever())
        try:
            async for progress in run_fsck(
                cluster.store, cluster.upkeep, cluster.clock, request, _NoMender()
            ):
                last = progress
        finally:
            beating.cancel()
        return last.report

    return asyncio.run(main())


def replica_faults(report: pb.FsckReport) -> dict[str, int]:
    """The counts about replicas that are not zero."""
    names = ("missing", "under_replicated", "over_replicated", "corrupt")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def test_a_sound_cluster_has_no_replica_faults() -> None:
    cluster = Cluster()
    cluster.write("chunk", [1, 2])
    report = check(cluster, verify_data=True)
    assert replica_faults(report) == {}
    assert report.chunks == 1


def test_too_few_and_too_many_replicas_are_counted_and_described() -> None:
    cluster = Cluster()
    few = cluster.write("few", [1])
    many = cluster.write("many", [1, 2, 3])
    report = check(cluster)
    assert replica_faults(report) == {"under_replicated": 1, "over_replicated": 1}
    text = "\n".join(report.problems)
    assert f"under-replicated: chunk {few.hex()}: 1 of 2" in text
    assert f"over-replicated: chunk {many.hex()}: 3 of 2" in text


def test_no_more_replicas_are_wanted_than_there_are_nodes() -> None:
    cluster = Cluster(nodes=1)
    cluster.write("chunk", [1])
    assert replica_faults(check(cluster)) == {}


def test_a_file_gone_from_a_disk_is_found_by_the_fresh_report() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    cluster.run(5)
    cluster.nodes[1].chunks.clear()
    cluster.nodes[2].chunks.clear()
    report = check(cluster)
    assert replica_faults(report) == {"missing": 1}
    assert any(f"missing: chunk {chunk.hex()}" in problem for problem in report.problems)


def test_unreferenced_chunks_are_no_fault() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1])
    cluster.unlink(chunk)
    report = check(cluster)
    assert replica_faults(report) == {}
    assert report.unreferenced == 1


@pytest.mark.announces_warnings("replica is corrupt")
def test_verifying_finds_corrupt_replicas_on_every_node_and_has_them_repaired() -> None:
    cluster = Cluster(grace_s=5)
    chunks = [cluster.write(f"chunk {n}", [1, 2]) for n in range(100)]
    cluster.run(10)
    cluster.nodes[1].damaged.add(chunks[3])
    cluster.nodes[2].damaged.add(chunks[99])
    report = check(cluster, verify_data=True)
    assert replica_faults(report) == {"corrupt": 2}
    assert any(chunks[3].hex() in problem and "datanode 1" in problem for problem in report.problems)
    cluster.run(60)
    assert len(cluster.holders(chunks[3])) == len(cluster.holders(chunks[99])) == 2


def test_a_node_that_does_not_report_is_named() -> None:
    cluster = Cluster()
    cluster.nodes[3].up = False
    cluster.run(15)
    report = check(cluster)
    assert any("datanode 3 sent no chunk report" in problem for problem in report.problems)


def test_a_chunk_without_a_recorded_replica_is_missing() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1])
    cluster.change(lambda txn: chunk_table.remove_replica(txn, chunk, 1))
    report = check(cluster)
    assert replica_faults(report) == {"missing": 1}
