"""The node manager: identities, states and their timings, and who is told."""

import pytest

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.membership.node import StoreHistory
from cairnfs.engine.interface import Operation
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2, nodes_pb2
from tests.unit.membership.nodes import GIB, Members, disk_use

dead = pytest.mark.announces_warnings("datanode changed state")


@dead
def test_the_life_of_a_node() -> None:
    members = Members()
    members.register(1)
    assert members.state(1) == "joining"
    members.beat(1)
    assert members.state(1) == "healthy"
    members.pass_time(limits.NODE_SUSPECT_S - 0.1)
    assert members.state(1) == "healthy"
    members.pass_time(0.1)
    assert members.state(1) == "suspect"
    members.pass_time(limits.NODE_DEAD_S - limits.NODE_SUSPECT_S)
    assert members.state(1) == "dead"
    members.beat(1)
    assert members.state(1) == "healthy"
    names = [common_pb2.NodeState.Name(update.info.state) for update in members.told]
    assert [name.removeprefix("NODE_STATE_").lower() for name in names] == [
        "joining",
        "healthy",
        "suspect",
        "dead",
        "healthy",
    ]


@dead
def test_draining_survives_silence() -> None:
    members = Members()
    members.join(1)
    members.manager.set_draining(1, True)
    assert members.state(1) == "draining"
    assert members.manager.is_alive(1)
    assert not members.manager.keeps_replicas(1)
    assert members.manager.usable() == []
    members.pass_time(limits.NODE_DEAD_S)
    assert members.state(1) == "dead"
    members.beat(1)
    assert members.state(1) == "draining"
    members.manager.set_draining(1, False)
    assert members.state(1) == "healthy"


def test_heartbeats_tell_what_was_missed_and_resync_when_too_much() -> None:
    members = Members()
    members.join(1)
    version = members.manager.version
    assert list(members.beat(1, seen_version=version).updates) == []
    members.join(2)
    reply = members.beat(1, seen_version=version)
    assert [update.info.node for update in reply.updates] == [2, 2]
    assert not reply.requires_full_resync
    for _ in range(limits.MEMBERSHIP_RING):
        members.register(2)
    reply = members.beat(1, seen_version=version)
    assert reply.requires_full_resync
    assert {info.node for info in reply.cluster_map.nodes} == {1, 2}
    assert reply.cluster_map.version == members.manager.version


def test_who_is_unknown_must_register() -> None:
    members = Members()
    members.join(1)
    for number, uuid in ((2, "uuid-2"), (1, "another")):
        with pytest.raises(CairnError) as refused:
            members.manager.heartbeat(nodes_pb2.HeartbeatRequest(node=number, uuid=uuid), members.now)
        assert refused.value.code == common_pb2.ERROR_CODE_NODE_UNKNOWN


def test_another_clusters_node_is_refused_in_clear_words() -> None:
    members = Members()
    members.join(1)
    with pytest.raises(CairnError) as refused:
        members.beat(1, cluster_id="elsewhere")
    assert refused.value.code == common_pb2.ERROR_CODE_WRONG_CLUSTER
    assert "elsewhere" in refused.value.detail
    assert "cluster" in refused.value.detail


def test_a_uuid_keeps_its_number_for_life_and_numbers_are_never_given_twice() -> None:
    engine = MemoryEngine()

    def commit(operation: Operation) -> common_pb2.NodeInfo:
        (outcome,) = engine.commit([operation])
        assert outcome.error is None
        value: common_pb2.NodeInfo = outcome.value
        return value

    def register(uuid: str, address: str = "a:1") -> int:
        request = nodes_pb2.RegisterRequest(uuid=uuid, address=address, rack="r")
        return commit(nodes_table.registration(request)).node

    assert [register("a"), register("b"), register("a", "moved:2")] == [1, 2, 1]
    commit(nodes_table.removal(2))
    assert register("c") == 3
    commit(nodes_table.draining(1, True))
    nodes = engine.read(lambda txn: list(nodes_table.scan_nodes(txn)))
    assert [(node.node, node.uuid, node.address) for node in nodes] == [(1, "a", "moved:2"), (3, "c", "a:1")]
    manager = NodeManager(Members().settings, "cluster")
    manager.restore(nodes, 0.0)
    first = manager.get(1)
    assert first is not None
    assert first.draining
    assert first.state == common_pb2.NODE_STATE_SUSPECT
    (outcome,) = engine.commit([nodes_table.draining(9, True)])
    assert isinstance(outcome.error, CairnError)


def test_restored_nodes_are_suspect_until_heard() -> None:
    members = Members()
    members.manager.restore([common_pb2.NodeInfo(node=7, uuid="uuid-7", address="a:1")], members.now)
    assert members.state(7) == "suspect"
    assert members.manager.is_alive(7)
    members.beat(7)
    assert members.state(7) == "healthy"


def test_read_only_is_told_and_bars_new_chunks() -> None:
    members = Members()
    members.join(1)
    before = members.manager.version
    members.beat(1, disk=disk_use(read_only=True))
    assert members.manager.version == before + 1
    assert members.told[-1].info.read_only
    assert members.manager.usable() == []
    members.beat(1, disk=disk_use(read_only=True))
    assert members.manager.version == before + 1


def test_space_is_what_users_can_store() -> None:
    members = Members(replicas=2)
    assert members.manager.space() == (0, 0)
    assert members.manager.low_space()
    for number, free_gib in ((1, 10), (2, 4), (3, 2)):
        members.join(number, free_bytes=free_gib * GIB)
    total, free = members.manager.space()
    assert total == 30 * GIB
    assert free == 6 * GIB  # the first node's other 4 GiB have no partner
    assert not members.manager.low_space()
    members.manager.debit(2, 4 * GIB)
    assert members.manager.space()[1] == 2 * GIB
    members.beat(2, disk=disk_use(4 * GIB))
    assert members.manager.space()[1] == 6 * GIB


def test_nodes_on_one_file_system_share_its_free_space() -> None:
    members = Members(replicas=2)
    for number in (1, 2, 3):
        members.join(number)
        disk = disk_use(12 * GIB)
        disk.filesystem, disk.used_bytes = "host/1", 2 * GIB
        members.beat(number, disk=disk)
    assert members.manager.space() == (9 * GIB, 6 * GIB)  # 12 free and 6 used, in two copies
    limited = disk_use(GIB)
    limited.filesystem = "host/1"
    members.beat(3, disk=limited)
    assert members.manager.space()[1] == (4 + 4 + 1) * GIB // 2


def test_a_removed_node_is_told_of_and_forgotten() -> None:
    members = Members()
    members.join(1)
    members.manager.remove(1)
    members.manager.remove(1)
    assert members.told[-1].removed
    assert members.manager.get(1) is None
    assert list(members.manager.cluster_map().nodes) == []


def test_an_ended_subscription_hears_nothing() -> None:
    members = Members()
    heard: list[common_pb2.NodeUpdate] = []
    end = members.manager.subscribe(heard.append)
    members.register(1)
    end()
    members.register(2)
    assert [update.info.node for update in heard] == [1]


def test_last_seen_is_wall_time() -> None:
    members = Members()
    members.join(1)
    (info,) = members.manager.cluster_map().nodes
    assert info.last_seen_ms == 1_000_000 + 100_000


def test_the_store_counter_a_grace_time_ago() -> None:
    history = StoreHistory(span_s=60.0)
    for second in range(200):
        history.note("boot", second, float(second))
        known = history.as_of(float(second))
        assert known is None if second < 60 else known is not None and second - 62 <= known <= second - 60
    assert len(history._marks) < 70
    history.note("another boot", 5, 200.0)
    assert history.as_of(259.9) is None
    assert history.as_of(260.0) == 5
