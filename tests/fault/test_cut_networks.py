"""Any two parts of a cluster cannot reach each other, for less and for more than the lease time.

One cluster whose parts are on hosts of their own, in network namespaces: packets between two of them vanish.
"""

import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cairnfs.base.limits import FUSE_DEADLINE_S
from tests.cluster.harness import Cluster, Mount
from tests.cluster.networks import Network, NetworkRefused
from tests.cluster.shared import eventually
from tests.soak.writers import Writer, all_writers

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces"),
]

LEASE_S = 2.0
SHORT_S = LEASE_S / 4
LONG_S = LEASE_S * 1.5
PAUSE_S = 0.3  # between steps of a writer
CUTS = {
    "client-datanode": ("mount-1", "datanode-1"),
    "datanode-datanode": ("datanode-1", "datanode-2"),
    "coordinator-datanode": ("coordinator", "datanode-1"),
    "client-coordinator": ("mount-1", "coordinator"),
}


class Ground:
    """The network, the cluster on it, and two mounts: one that works and one that looks."""

    def __init__(self, directory: Path) -> None:
        datanodes = [f"datanode-{number}" for number in (1, 2, 3)]
        self.network = Network(["coordinator", *datanodes, "mount-1", "mount-2"])
        self.cluster = Cluster(directory / "cluster", network=self.network)

    def start(self) -> None:
        self.cluster.start(datanodes=3, lease_s=str(LEASE_S), garbage_grace_s="60")
        self.one, self.two = self.cluster.mount(), self.cluster.mount()

    def close(self) -> None:
        self.network.mend()
        self.cluster.stop()
        self.network.close()


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    try:
        ground = Ground(tmp_path_factory.mktemp("cut"))
    except NetworkRefused as error:
        pytest.skip(f"the kernel makes no networks: {error}")
    try:
        ground.start()
        yield ground
        ground.cluster.wait_until_replicated()
        ground.cluster.assert_clean()
        for mount in (ground.one, ground.two):
            mount.unmount()
    finally:
        ground.close()


def has_done(writer: Writer, count: int) -> bool:
    return writer.acknowledged >= count


def go_on(writers: list[Writer]) -> None:
    """Wait until each has finished something that it began after now."""
    wanted = {writer: writer.acknowledged + 2 for writer in writers}
    for writer, count in wanted.items():
        eventually(partial(has_done, writer, count), writer.name, FUSE_DEADLINE_S)


@pytest.mark.parametrize("between", CUTS)
def test_work_goes_on_after_a_cut(ground: Ground, between: str) -> None:
    root = ground.one.path / between
    root.mkdir()
    writers = all_writers(root, 1)
    for writer in writers:
        writer.pause_s = PAUSE_S
        writer.start()
    go_on(writers)
    for seconds in (SHORT_S, LONG_S):
        ground.network.cut(*CUTS[between])
        time.sleep(seconds)
        ground.network.mend()
        go_on(writers)
    for writer in writers:
        writer.stop()
    for writer in writers:
        assert writer.slowest_s < FUSE_DEADLINE_S, writer.name
        for mount in (ground.one, ground.two):
            writer.check(mount.path / between / writer.name)


class Reading(threading.Thread):
    """Reads a file through a mount that is cut off."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.found: bytes | OSError | None = None
        self._path = path
        self.start()

    def run(self) -> None:
        try:
            self.found = self._path.read_bytes()
        except OSError as error:
            self.found = error

    def result(self) -> bytes | OSError | None:
        self.join(FUSE_DEADLINE_S)
        assert not self.is_alive(), "a read hangs"
        return self.found


def written(mount: Mount, name: str, content: bytes) -> None:
    """Write a file durably."""
    with (mount.path / name).open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def test_a_client_that_was_cut_off_shows_nothing_old_and_tells_what_it_lost(ground: Ground) -> None:
    one, two = ground.one, ground.two
    written(one, "shown", b"old")
    assert (one.path / "shown").read_bytes() == b"old"
    held = (one.path / "held").open("wb", buffering=0)
    os.fsync(held.fileno())
    held.write(b"unsent")
    ground.network.cut("mount-1", "coordinator")
    written(two, "shown", b"new")  # waits until the other one has lost its lease
    reading = Reading(one.path / "shown")
    ground.network.mend()
    found = reading.result()
    assert isinstance(found, OSError) or found == b"new"
    told = False
    try:
        os.fsync(held.fileno())
    except OSError:
        told = True
    try:
        held.close()
    except OSError:
        told = True
    assert told or (two.path / "held").read_bytes() == b"unsent"
    written(one, "held", b"works again")
    assert (two.path / "held").read_bytes() == b"works again"
    assert (one.path / "shown").read_bytes() == b"new"
