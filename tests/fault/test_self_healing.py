"""A cluster mends itself: a thousand flipped bits, a lost disk, a drained node; met by real processes."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from cairnfs.base.limits import MIB
from tests.cluster.harness import PATIENCE_S, Cluster, Part
from tests.cluster.shared import assert_sound, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

FLIPS = 1_000
SMALL_FILES = 300
LARGE_BYTES = 24 * MIB


def data_of(part: Part) -> Path:
    return part.directory / f"{part.name}.data"


def flip_bits(root: Path, rng: Random) -> None:
    """Flip FLIPS bits, half of them anywhere in chunk files, half of them anywhere in packs."""
    for kind in ("chunks/*/*", "packs/*"):
        paths = list(root.glob(kind))
        for path in rng.choices(paths, [path.stat().st_size for path in paths], k=FLIPS // 2):
            with path.open("r+b") as file:
                offset = rng.randrange(path.stat().st_size)
                file.seek(offset)
                (byte,) = file.read(1)
                file.seek(offset)
                file.write(bytes([byte ^ 1 << rng.randrange(8)]))


def fill(directory: Path) -> dict[str, bytes]:
    contents = {f"small{number}": os.urandom(3_000) for number in range(SMALL_FILES)}
    contents["large"] = os.urandom(LARGE_BYTES)
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    os.sync()
    return contents


def assert_contents(directory: Path, contents: dict[str, bytes]) -> None:
    assert [name for name, content in contents.items() if (directory / name).read_bytes() != content] == []


def cairnfs(cluster: Cluster, *words: str) -> str:
    command = [sys.executable, "-m", "cairnfs.cli", *words, "--coordinators", cluster.coordinator.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S * 2, check=True)
    return done.stdout


def held(cluster: Cluster) -> list[int]:
    """How many chunks each datanode has told of, in the order of their numbers."""
    return [int(node.get("chunks", 0)) for node in cluster.command("nodes")["nodes"]]


def test_flipped_bits_a_lost_disk_and_a_drained_node_cost_nothing(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(datanodes=0, lease_s="10", garbage_grace_s="1")
    second = tmp_path / "second-disk"
    for disks in ("", str(second), ""):
        cluster.add_datanode(disks=disks, reserve_bytes="0", scrub_bytes_per_s="1GiB")
    cluster.wait_for(lambda: cairnfs(cluster, "nodes").count("healthy") == 3, "datanodes")
    contents = fill(cluster.mount().path)
    eventually(lambda: sum(held(cluster)) >= 2 * SMALL_FILES, "two copies of every file")

    # Started again after the damage, so that the scrubber begins at once.
    damaged, chunks_damaged = cluster.datanodes[0], held(cluster)[0]
    damaged.kill()
    flip_bits(data_of(damaged), Random(1_000))
    damaged.start()
    assert_contents(cluster.mount().path, contents)
    assert_sound(cluster)
    assert_contents(cluster.mount().path, contents)
    assert cluster.command("repair", "status")["repair"]["copied_chunks"] > chunks_damaged // 2

    # One disk of two is not there: the node goes on, and says why.
    loser = cluster.datanodes[1]
    loser.kill()
    second.rename(tmp_path / "unplugged")
    loser.start()
    eventually(lambda: "is it mounted" in cairnfs(cluster, "nodes", "list"), "the report of a lost disk")
    assert_sound(cluster)
    assert_contents(cluster.mount().path, contents)
    cairnfs(cluster, "nodes", "trust", "1")

    said = cairnfs(cluster, "nodes", "drain", "3", "--wait")
    assert "nothing depends on it" in said
    cluster.datanodes[2].kill()
    cairnfs(cluster, "nodes", "remove", "3")
    assert [node["node"] for node in cluster.command("nodes")["nodes"]] == [1, 2]
    assert_contents(cluster.mount().path, contents)
    assert_sound(cluster)
