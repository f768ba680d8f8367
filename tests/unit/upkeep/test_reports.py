"""Chunk reports: both directions, confirmation, and that an incomplete one changes nothing."""

import pytest

from cairnfs.base.checksums import chunk_id as name_of
from cairnfs.base.errors import CairnError
from cairnfs.base.limits import TASK_DEADLINE_S
from cairnfs.coordinator.upkeep.doubts import id_before
from cairnfs.coordinator.upkeep.reports import ChunkListing
from cairnfs.rpc.v1 import common_pb2, nodes_pb2
from tests.unit.upkeep.simulation import LENGTH, Cluster, list_chunks


def part(*ids: bytes, end: bool = False) -> nodes_pb2.ChunkReport:
    """One message of a report."""
    return nodes_pb2.ChunkReport(
        chunks=[nodes_pb2.ReportedChunk(chunk_id=one, length=LENGTH) for one in ids], end=end
    )


def test_a_listing_keeps_ids_and_lengths_in_order() -> None:
    ids = sorted(name_of(bytes([n])) for n in range(5))
    listing = ChunkListing()
    listing.add(part(*ids[:2]))
    listing.add(part(*ids[2:], end=True))
    assert listing.complete
    assert [listing.id_at(n) for n in range(len(listing))] == ids
    assert listing.length_at(4) == LENGTH


@pytest.mark.parametrize(
    "parts",
    [
        [part(b"short")],
        [part(b"b" * 32, b"a" * 32)],
        [part(b"a" * 32), part(b"a" * 32)],
        [part(b"a" * 32, end=True), part(b"b" * 32)],
    ],
)
def test_a_malformed_listing_is_refused(parts: list[nodes_pb2.ChunkReport]) -> None:
    listing = ChunkListing()
    for message in parts[:-1]:
        listing.add(message)
    with pytest.raises(CairnError) as refused:
        listing.add(parts[-1])
    assert refused.value.code == common_pb2.ERROR_CODE_INVALID


def test_an_incomplete_report_changes_nothing() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    empty = ChunkListing()
    with pytest.raises(ValueError, match="incomplete"):
        cluster.report(cluster.nodes[1], empty)
    with pytest.raises(ValueError, match="incomplete"):
        cluster.report(cluster.nodes[1], list_chunks(cluster.nodes[1], complete=False))
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1, 2)


def test_a_replica_is_dropped_by_the_second_report_without_it() -> None:
    cluster = Cluster()
    chunk = cluster.write("chunk", [1, 2])
    del cluster.nodes[1].chunks[chunk]
    cluster.report(cluster.nodes[1])
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1, 2)
    assert cluster.beat(cluster.nodes[1]).send_chunk_report
    cluster.report(cluster.nodes[1])
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert 1 not in record.nodes
    cluster.run(10)
    assert len(cluster.holders(chunk)) == 2


def test_a_chunk_stored_while_the_listing_was_made_is_not_dropped() -> None:
    cluster = Cluster()
    listing = list_chunks(cluster.nodes[1])
    chunk = cluster.write("chunk", [1, 2])
    cluster.report(cluster.nodes[1], listing)
    cluster.report(cluster.nodes[1])
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1, 2)


def test_a_wanted_replica_is_added_and_an_unwanted_one_deleted() -> None:
    cluster = Cluster(grace_s=10)
    wanted = cluster.write("wanted", [1])
    surplus = cluster.write("surplus", [1, 2])
    cluster.nodes[3].store(wanted)
    cluster.nodes[3].store(surplus)
    stray = name_of(b"never committed")
    cluster.nodes[3].store(stray)
    cluster.run(1)
    cluster.report(cluster.nodes[3])
    cluster.step()
    record = cluster.record(wanted)
    assert record is not None
    assert record.nodes == (1, 3)
    assert stray in cluster.nodes[3].chunks  # it may be on its way into a commit
    cluster.run(30)
    assert set(cluster.nodes[3].chunks) == {wanted}


def test_a_deletion_whose_order_was_lost_is_ordered_again() -> None:
    """It may still be carried out, so the copy is no replica; but nobody else deletes it."""
    cluster = Cluster(grace_s=10)
    node, stray = cluster.nodes[1], name_of(b"never committed")
    node.store(stray)
    node.loses_tasks = True
    cluster.run(40)
    cluster.report(node)
    cluster.run(TASK_DEADLINE_S / 2)
    assert cluster.upkeep.deleter.may_vanish(node.number, stray)
    node.loses_tasks = False
    cluster.run(2 * TASK_DEADLINE_S)
    assert stray not in node.chunks
    assert not cluster.upkeep.deleter.may_vanish(node.number, stray)


def test_a_bad_copy_is_not_taken_for_a_replica() -> None:
    cluster = Cluster(grace_s=1_000)
    chunk = cluster.write("chunk", [1])
    cluster.nodes[3].store(chunk)
    cluster.upkeep.doubts._bad.add((3, chunk))
    cluster.report(cluster.nodes[3])
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert record.nodes == (1,)


@pytest.mark.announces_warnings("replica is corrupt")
def test_the_next_coordinator_learns_of_bad_copies_that_the_one_before_was_told_of() -> None:
    cluster = Cluster(grace_s=10)
    recorded, dropped = cluster.write("recorded", [1, 2]), cluster.write("dropped", [1])
    node = cluster.nodes[2]
    node.store(dropped)
    node.damaged = node.known_bad = {recorded, dropped}
    cluster.start()
    cluster.run(3)
    for chunk in (recorded, dropped):
        record = cluster.record(chunk)
        assert record is not None
        assert 2 not in record.nodes
    cluster.run(60)
    assert not node.damaged
    for chunk in (recorded, dropped):
        record = cluster.record(chunk)
        assert record is not None
        assert set(record.nodes) == cluster.holders(chunk)
        assert len(record.nodes) == 2


@pytest.mark.announces_warnings("replica is corrupt", "no good replica is left", "datanode changed state")
def test_a_bad_copy_goes_when_the_node_with_the_good_one_is_back() -> None:
    cluster = Cluster(nodes=2, grace_s=10)
    chunk = cluster.write("chunk", [1, 2])
    good, bad = cluster.nodes[1], cluster.nodes[2]
    good.up = False
    cluster.run(60)
    bad.damaged = bad.known_bad = {chunk}
    cluster.report(bad)
    cluster.step()
    record = cluster.record(chunk)
    assert record is not None
    assert 2 in record.nodes
    good.up = True
    cluster.run(5)
    cluster.report(bad)
    cluster.run(60)
    record = cluster.record(chunk)
    assert record is not None
    assert not bad.damaged
    assert len(set(record.nodes) & cluster.holders(chunk)) == 2


def test_reports_longer_than_one_step_are_reconciled_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cairnfs.base.limits.SCAN_STEP_CHUNKS", 3)
    cluster = Cluster(grace_s=5)
    kept = [cluster.write(f"kept {n}", [1, 2]) for n in range(20)]
    strays = [name_of(f"stray {n}".encode()) for n in range(20)]
    for stray in strays:
        cluster.nodes[1].store(stray)
    cluster.run(20)
    assert set(cluster.nodes[1].chunks) == set(kept)


def test_the_id_before() -> None:
    assert id_before(b"\1" + bytes(31)) == b"\0" + b"\xff" * 31
    assert id_before(bytes(32)) == b""
