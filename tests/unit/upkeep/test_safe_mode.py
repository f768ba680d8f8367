"""After a start nothing is repaired or freed before enough nodes have reported."""

import pytest

from tests.unit.upkeep.simulation import Cluster, Datanode


def in_safe_mode(cluster: Cluster) -> bool:
    """Whether nothing may be repaired or freed now."""
    return cluster.upkeep.safe_mode.active


def test_a_cluster_without_nodes_is_not_in_safe_mode() -> None:
    assert not in_safe_mode(Cluster(nodes=0))


def test_safe_mode_lasts_until_all_known_nodes_reported() -> None:
    cluster = Cluster(nodes=3, grace_s=1)
    lonely = cluster.write("under-replicated", [1])
    garbage = cluster.write("garbage", [1])
    cluster.unlink(garbage)
    cluster.nodes[3].up = False
    cluster.start()
    assert in_safe_mode(cluster)
    cluster.run(20)
    assert in_safe_mode(cluster)
    assert cluster.holders(lonely) == {1}
    assert cluster.holders(garbage) == {1}
    cluster.nodes[3].up = True
    cluster.run(20)
    assert not in_safe_mode(cluster)
    assert len(cluster.holders(lonely)) == 2
    assert cluster.holders(garbage) == set()


@pytest.mark.announces_warnings("datanode changed state")
def test_nodes_that_stay_away_are_given_up_when_they_would_be_dead() -> None:
    cluster = Cluster(nodes=3)
    cluster.nodes[3].up = False
    cluster.start()
    cluster.run(cluster.settings.dead_s - 2)
    assert in_safe_mode(cluster)
    cluster.run(5)
    assert not in_safe_mode(cluster)


@pytest.mark.announces_warnings("datanode changed state")
def test_too_few_reports_keep_safe_mode_for_ever() -> None:
    cluster = Cluster(nodes=3)
    cluster.nodes[2].up = cluster.nodes[3].up = False
    cluster.start()
    cluster.run(cluster.settings.dead_s * 3)
    assert in_safe_mode(cluster)


def test_a_node_that_joins_later_is_not_waited_for() -> None:
    cluster = Cluster(nodes=1)
    cluster.start()
    newcomer = Datanode("newcomer")
    cluster.join(newcomer)
    newcomer.up = False
    cluster.run(5)
    assert not in_safe_mode(cluster)
