"""Every process of a cluster is killed at once while programs write: the cluster comes back by itself.

ROUNDS (environment) says how often; the suite does one. `ROUNDS=50 pytest tests/fault/test_power_cut.py`.
"""

import os
import random
import signal
import time

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.shared import assert_sound
from tests.soak.writers import all_writers

pytestmark = [pytest.mark.cluster, pytest.mark.fuse, pytest.mark.timeout(3_600)]

ROUNDS = int(os.environ.get("ROUNDS", "1"))


def test_everything_is_killed_at_once(cluster: Cluster) -> None:
    rng = random.Random(os.environ.get("SEED", "1"))
    cluster.start(datanodes=3, lease_s="2", garbage_grace_s="5")
    for number in range(ROUNDS):
        mount = cluster.mount()
        root = mount.path / f"round{number}"
        root.mkdir()
        writers = all_writers(root, number)
        for writer in writers:
            writer.start()
        time.sleep(rng.uniform(0.5, 3.0))
        servers = [cluster.coordinator, *cluster.datanodes]
        for part in rng.sample([mount, *servers], 5):
            part.signal(signal.SIGKILL)
        mount.discard()
        for writer in writers:
            writer.stop()
        for server in servers:
            server.kill()
            server.start()
        again = cluster.mount()
        for writer in writers:
            writer.check(again.path / root.name / writer.name)
        print(f"round {number}: {[(writer.name, writer.acknowledged) for writer in writers]}")
        again.unmount()
    assert_sound(cluster)
