"""The coordinator crashes under a copy and comes back: nobody mounts again, nothing is lost."""

import fcntl
import os
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.shared import assert_sound
from tests.fault.test_datanode_loss import Copy, digest, make_source

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

COPY_MIB = 48
CRASHES = 3


def test_crashes_of_the_coordinator_are_only_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(datanodes=3, lease_s="10")
    one, two = cluster.mount(), cluster.mount()
    source = make_source(tmp_path, COPY_MIB)
    locked, elsewhere = os.open(one.path / "locked", os.O_RDWR | os.O_CREAT), None
    nameless = os.open(one.path / "nameless", os.O_RDWR | os.O_CREAT)
    try:
        elsewhere = os.open(two.path / "locked", os.O_RDWR)
        fcntl.flock(locked, fcntl.LOCK_EX)
        fcntl.lockf(locked, fcntl.LOCK_EX, 10)
        os.write(nameless, b"still here")
        os.fsync(nameless)
        (two.path / "nameless").unlink()
        for crash in range(CRASHES):
            durable = one.path / f"durable-{crash}"
            with durable.open("wb") as file:
                file.write(b"%d" % crash * 100_000)
                file.flush()
                os.fsync(file.fileno())
            copy = Copy(source, one.path / f"copy-{crash}")
            copy.wait_for_mib(COPY_MIB // 4)
            cluster.coordinator.kill()
            cluster.coordinator.start()
            copy.finish()
            assert digest(two.path / copy.target.name) == digest(source)
            assert (two.path / durable.name).read_bytes() == b"%d" % crash * 100_000
            with pytest.raises(BlockingIOError):
                fcntl.flock(elsewhere, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with pytest.raises(BlockingIOError):
                fcntl.lockf(elsewhere, fcntl.LOCK_EX | fcntl.LOCK_NB, 10)
            assert os.pread(nameless, 100, 0) == b"still here"
            assert os.fstat(nameless).st_nlink == 0
        fcntl.flock(locked, fcntl.LOCK_UN)
        fcntl.flock(elsewhere, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        for descriptor in (locked, elsewhere, nameless):
            if descriptor is not None:
                os.close(descriptor)
    assert_sound(cluster)
