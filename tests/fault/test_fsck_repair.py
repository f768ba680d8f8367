"""Damaged metadata of a real cluster are repaired while it is mounted, and the mount sees the result."""

import errno
import os
from pathlib import Path

import pytest

from cairnfs.coordinator import keys
from cairnfs.coordinator.records import Dentry
from cairnfs.engine.interface import Operation, Transaction
from cairnfs.engine.open import open_engine
from tests.cluster.harness import Cluster
from tests.cluster.shared import assert_sound

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]


def damage(directory: Path) -> None:
    """Take the name of an inode away, and make another that leads nowhere."""

    def body(txn: Transaction) -> None:
        txn.delete(keys.dentry(1, b"lost"))
        txn.put(keys.dentry(1, b"nowhere"), Dentry(999_999, 8).encode())

    engine = open_engine("sqlite", directory)
    engine.commit([Operation(body)])
    engine.close()


def test_repair_of_a_mounted_file_system(cluster: Cluster) -> None:
    cluster.start(datanodes=2, lease_s="10")
    mount = cluster.mount()
    (mount.path / "lost").write_bytes(b"content")
    (mount.path / "kept").write_bytes(b"kept")
    descriptor = os.open(mount.path / "lost", os.O_RDONLY)
    os.fsync(descriptor)
    ino = os.fstat(descriptor).st_ino
    os.close(descriptor)
    mount.unmount()
    cluster.coordinator.stop()
    damage(cluster.directory / "coordinator.data")
    cluster.coordinator.start()

    again = cluster.mount()
    assert os.listdir(again.path) == ["kept"]
    dry = cluster.command("fsck")
    assert (dry["clean"], dry["dangling"], dry["orphaned"], dry["mended"]) == (False, 1, 1, 0)
    report = cluster.command("fsck", "--repair")
    assert report["clean"], report
    assert report["mended"] == 2, report
    assert sorted(os.listdir(again.path)) == ["kept", "lost+found"]
    assert (again.path / "lost+found" / f"#{ino}").read_bytes() == b"content"
    with pytest.raises(OSError, match="nowhere") as caught:
        os.stat(again.path / "nowhere")
    assert caught.value.errno == errno.ENOENT
    assert_sound(cluster)
