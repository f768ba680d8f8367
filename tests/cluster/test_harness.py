"""The harness itself: parts die, pause and come back, and two mounts see one file system."""

import pytest

from tests.cluster.harness import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]


def test_a_cluster_survives_the_crash_of_a_datanode_and_of_the_coordinator(cluster: Cluster) -> None:
    cluster.start(datanodes=3)
    one, two = cluster.mount(), cluster.mount()
    content = bytes(range(256)) * 4096
    (one.path / "file").write_bytes(content)
    assert (two.path / "file").read_bytes() == content

    cluster.datanodes[0].kill()
    cluster.coordinator.kill()
    cluster.coordinator.start()
    (two.path / "other").write_bytes(content)
    assert (one.path / "other").read_bytes() == content

    cluster.datanodes[0].start()
    cluster.wait_until_replicated()
    one.unmount()
    assert (two.path / "file").read_bytes() == content
    two.unmount()
    cluster.assert_clean()
