"""Two coordinators over PostgreSQL: killed, paused, and their database killed, under a mount that stays."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import FAST, PATIENCE_S, Cluster
from tests.cluster.shared import assert_sound, eventually
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.cluster, pytest.mark.fuse]

LEASE_S = "5"  # a mount that is not heard for so long on a busy machine loses what it had not saved


def write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def stand_by(data: Path, engine: str, listen: str) -> "subprocess.Popen[bytes]":
    """Start a coordinator that waits until it may lead; returns when it waits."""
    words = ["--data", str(data), "--engine", engine, "--listen", listen, "--lease-s", LEASE_S]
    flags = [word for flag in FAST.items() for word in flag]
    log = data.with_suffix(".log")
    with log.open("wb") as output:
        command = [sys.executable, "-m", "cairnfs.cli", "coordinator", *words, *flags]
        child = subprocess.Popen(command, stdout=output, stderr=output)
    eventually(lambda: b"standing_by" in log.read_bytes(), "the second coordinator to stand by")
    return child


def test_a_mount_outlives_its_coordinators_one_by_one_and_their_database(cluster: Cluster) -> None:
    server, second = PostgresServer(fsync=True), None
    try:
        engine, address = server.url(), free_address()
        cluster.start(datanodes=0, engine=engine, lease_s=LEASE_S)
        first = cluster.coordinator.address
        cluster.coordinator.address = f"{first},{address}"
        for _ in range(2):
            cluster.add_datanode()
        mount = cluster.mount()
        second = stand_by(cluster.directory / "second", engine, address)

        write_durably(mount.path / "first", b"before")
        held = (mount.path / "first").open("r+b")
        cluster.coordinator.kill()
        write_durably(mount.path / "after-a-kill", b"of the leader")
        held.write(b"behind")
        held.flush()
        os.fsync(held.fileno())
        held.close()

        server.kill()
        server.start()
        write_durably(mount.path / "after-a-power-cut", b"of the database")

        second.send_signal(signal.SIGSTOP)  # and does not know that time passes
        cluster.coordinator.start()
        cluster.coordinator.address = f"{first},{address}"
        write_durably(mount.path / "after-a-pause", b"of the next leader")
        second.send_signal(signal.SIGCONT)
        assert second.wait(PATIENCE_S) == 1  # it sees that it was deposed, and ends

        mount.unmount()
        mount = cluster.mount()
        assert sorted(os.listdir(mount.path)) == sorted(
            ["after-a-kill", "after-a-pause", "after-a-power-cut", "first"]
        )
        assert (mount.path / "first").read_bytes() == b"behind"
        assert (mount.path / "after-a-pause").read_bytes() == b"of the next leader"
        cluster.coordinator.address = first
        assert_sound(cluster)
    finally:
        if second is not None and second.poll() is None:
            second.kill()
            second.wait()
        cluster.stop()
        server.close()
