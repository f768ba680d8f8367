"""Damaged chunks, foreign data directories and damaged configurations, met by real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cairnfs.base.limits import MIB
from cairnfs.client import admin
from tests.cluster.harness import PATIENCE_S, Cluster, Part
from tests.cluster.shared import assert_sound, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

CAIRNFS = (sys.executable, "-m", "cairnfs.cli")
SMALL_FILES = 50


def data_of(part: Part) -> Path:
    return part.directory / f"{part.name}.data"


def flip(path: Path, offset: int) -> None:
    """Turn one bit over in place."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def damage(part: Part, contents: list[bytes]) -> int:
    """Flip a bit in every large chunk and in every of these contents in a pack; returns how many."""
    flipped = 0
    for path in (data_of(part) / "chunks").glob("*/*"):
        flip(path, 12_345)
        flipped += 1
    for path in (data_of(part) / "packs").glob("*"):
        stored = path.read_bytes()
        for content in contents:
            at = stored.find(content)
            if at >= 0:
                flip(path, at + len(content) // 2)
                flipped += 1
    return flipped


def test_damaged_chunks_are_read_around_reported_and_repaired(cluster: Cluster) -> None:
    cluster.start(datanodes=3, lease_s="10", garbage_grace_s="1")
    one = cluster.mount()
    large = os.urandom(24 * MIB)
    small = [os.urandom(3000) for _ in range(SMALL_FILES)]
    for path, content in [("large", large), *((f"small{n}", data) for n, data in enumerate(small))]:
        with (one.path / path).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    damaged = damage(cluster.datanodes[0], small)
    assert damaged > 2

    fresh = cluster.mount()  # has nothing in memory yet
    assert (fresh.path / "large").read_bytes() == large
    for number, content in enumerate(small):
        assert (fresh.path / f"small{number}").read_bytes() == content

    def repaired() -> bool:
        report = admin.fsck(cluster.coordinator.address, verify_data=True)
        assert report.missing == 0, list(report.problems)
        return report.corrupt == report.under_replicated == 0

    eventually(repaired, "the repair of damaged chunks")
    assert "corrupt" in cluster.coordinator.log.read_text() + cluster.datanodes[0].log.read_text()
    assert_sound(cluster)
    cluster.datanodes[1].kill()  # so that what was repaired is what is read
    another = cluster.mount()
    assert (another.path / "large").read_bytes() == large
    for number, content in enumerate(small):
        assert (another.path / f"small{number}").read_bytes() == content
    cluster.datanodes[1].start()
    assert_sound(cluster)

    for entry in another.path.iterdir():
        entry.unlink()

    def is_empty() -> bool:
        nodes = admin.list_nodes(cluster.coordinator.address).nodes
        return all(node.chunks == 0 for node in nodes)  # packs are compacted later

    eventually(is_empty, "all chunks to be deleted")
    assert not [path for part in cluster.datanodes for path in (data_of(part) / "chunks").glob("*/*")]
    assert_sound(cluster)


def refused(*words: str | Path) -> str:
    """Run a server that must not start; returns the last line it wrote."""
    done = subprocess.run(
        [*CAIRNFS, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode not in (0, -9), done
    return done.stderr.splitlines()[-1]


def test_a_data_directory_of_another_cluster_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(datanodes=1, lease_s="10")
    stranger = cluster.datanodes[0]
    other = Cluster(tmp_path / "other")
    try:
        other.start(datanodes=0)
        stranger.stop()
        said = refused(
            "datanode", "--coordinators", other.coordinator.address, "--listen", "127.0.0.1:0",
            "--data", data_of(stranger),
        )  # fmt: skip
        assert "cluster" in said
        assert other.command("nodes").get("nodes", []) == []
    finally:
        other.stop()
    stranger.start()  # at home it is welcome as before
    eventually(lambda: cluster.command("nodes")["nodes"][0]["state"] == "healthy", "its return")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[coordinator\n", "line 1"),
        ("[coordinator]\nreplicsa = 2\n", "replicsa"),
        ("[coordinator]\nreplicas = 'two'\n", "replicas"),
        ("[coordinator]\nreplicas = 0\n", "replicas"),
        ("[coordinat]\nreplicas = 2\n", "coordinat"),
    ],
)
def test_a_damaged_configuration_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "cairnfs.toml"
    config.write_text(text)
    line = refused("coordinator", "--config", config, "--data", tmp_path / "data")
    assert said in line
    assert not (tmp_path / "data").exists()


def test_a_damaged_identity_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "identity.json").write_text("{")
    assert "identity.json" in refused("datanode", "--data", data, "--listen", "127.0.0.1:0")
    assert (data / "identity.json").read_text() == "{"


def test_a_damaged_metadata_store_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster")
    try:
        cluster.start(datanodes=0)
        cluster.coordinator.stop()
        data = data_of(cluster.coordinator)
        (store,) = [path for path in data.iterdir() if path.read_bytes()[:6] == b"SQLite"]
        damaged = b"not a database" * 1000
        store.write_bytes(damaged)
        refused("coordinator", "--data", data, "--listen", "127.0.0.1:0")
        assert store.read_bytes() == damaged
    finally:
        cluster.stop()
