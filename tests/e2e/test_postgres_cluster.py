"""A cluster whose metadata is in PostgreSQL: mounted, its coordinator and its database killed, replaced."""

import os
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.shared import assert_sound
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def test_a_mount_outlives_crashes_of_the_coordinator_and_of_its_database(cluster: Cluster) -> None:
    server = PostgresServer(fsync=True)
    try:
        cluster.start(datanodes=2, engine=server.url())
        mount = cluster.mount()
        for name in ("first", "second"):
            (mount.path / name).mkdir()
            write_durably(mount.path / name / "file", name.encode() * 10_000)
        cluster.coordinator.kill()
        cluster.coordinator.start()
        (mount.path / "first" / "file").rename(mount.path / "second" / "moved")
        write_durably(mount.path / "second" / "later", b"after the coordinator")
        server.kill()
        server.start()
        write_durably(mount.path / "first" / "last", b"after the database")
        mount.unmount()
        mount = cluster.mount()
        assert sorted(os.listdir(mount.path / "second")) == ["file", "later", "moved"]
        assert (mount.path / "second" / "moved").read_bytes() == b"first" * 10_000
        assert (mount.path / "first" / "last").read_bytes() == b"after the database"
        assert_sound(cluster)
        cluster.stop()
    finally:
        server.close()
