"""A mount is killed in the middle of its work: what it had saved is whole, and the others go on."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.cluster.harness import PATIENCE_S, Cluster
from tests.cluster.shared import assert_sound, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

LEASE_S = 3.0
FILES = 1_000
SAVED = 20


def make_archive(directory: Path) -> Path:
    path, content = directory / "archive.tar", directory / "content"
    with tarfile.open(path, "w") as archive:
        for number in range(FILES):
            content.write_bytes(b"%05d" % number * 4000)
            archive.add(content, f"d{number % 20}/file{number}")
    return path


def test_a_mount_killed_while_it_unpacks_leaves_a_consistent_tree(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start(datanodes=3, lease_s=str(LEASE_S), garbage_grace_s="5")
    one, two = cluster.mount(), cluster.mount()
    for number in range(SAVED):
        with (one.path / f"saved{number}").open("wb") as file:
            file.write(b"%d" % number * 50_000)
            file.flush()
            os.fsync(file.fileno())
    target = one.path / "unpacked"
    target.mkdir()
    with subprocess.Popen(
        ["tar", "-xf", make_archive(tmp_path), "-C", target], stderr=subprocess.DEVNULL
    ) as unpacking:
        eventually(lambda: len(list((two.path / "unpacked").glob("*/*"))) > FILES // 10, "some files")
        one.signal(signal.SIGKILL)
        killed = time.monotonic()
        (two.path / "unpacked" / "d0" / "another").write_bytes(b"at once")
        assert time.monotonic() - killed < PATIENCE_S
        unpacking.wait(60)
    one.discard()

    for number in range(SAVED):
        assert (two.path / f"saved{number}").read_bytes() == b"%d" % number * 50_000
    names = list((two.path / "unpacked").glob("*/file*"))
    assert len(names) > FILES // 10
    for path in names:
        whole = b"%05d" % int(path.name.removeprefix("file")) * 4000
        assert whole.startswith(path.read_bytes()), path
    assert_sound(cluster)
    subprocess.run(["rm", "-rf", two.path / "unpacked"], check=True)
    assert not (two.path / "unpacked").exists()
    assert_sound(cluster)
