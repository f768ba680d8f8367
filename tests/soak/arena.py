"""The cluster that a soak torments: processes, a small disk, and one coordinator or several on PostgreSQL."""

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from cairnfs.base.limits import MIB
from cairnfs.local.processes import start
from tests.cluster.harness import PATIENCE_S, Cluster, Mount, Part
from tests.postgres import PostgresServer

REPLICAS = 2
DATANODES = 4
SMALL_DISK_BYTES = 256 * MIB
READ_CACHE_BYTES = 8 * MIB  # small, so that readers hear from the datanodes
ENGINES = ("sqlite", "postgres")


@dataclass(slots=True)
class Coordinator(Part):
    """A coordinator that may stand by, so that starting it does not wait until it serves."""

    ready: int = -1  # kept open, or it could not say that it leads

    def start(self) -> None:
        """Start it at its address."""
        self._drop()
        starting = start(self.command(), self.directory / f"{self.name}.pid", self.log)
        self.process, self.child, self.ready = starting.process, starting.child, starting.ready

    def _reap(self, number: int) -> None:
        super(Coordinator, self)._reap(number)
        self._drop()

    def _drop(self) -> None:
        if self.ready >= 0:
            os.close(self.ready)
        self.ready = -1

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself, as one does that was deposed."""
        return self.child is not None and self.child.poll() is not None


@dataclass(slots=True)
class Arena:
    """Everything that runs. The first datanode has the small disk."""

    directory: Path
    engine: str
    coordinators_count: int
    lease_s: float
    grace_s: float
    cluster: Cluster = field(init=False)
    coordinators: list[Coordinator] = field(default_factory=list[Coordinator])
    database: PostgresServer | None = None

    @property
    def small_disk(self) -> Path:
        """Where the small disk is mounted."""
        return self.directory / "cluster" / "datanode-1.data"

    def start(self) -> tuple[Mount, Mount]:
        """Start all; the two mounts: one to write, one to read."""
        self.cluster = Cluster(self.directory / "cluster", replicas=REPLICAS)
        self.cluster.directory.mkdir(parents=True)
        engine = "sqlite"
        if self.engine == "postgres":
            self.database = PostgresServer(fsync=True)
            engine = self.database.url()
        for number in range(self.coordinators_count):
            self._add_coordinator(number + 1, engine)
        addresses = ",".join(one.address for one in self.coordinators)
        self.cluster.coordinator = Part("coordinators", [], self.cluster.directory, addresses)
        self.small_disk.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", self.small_disk], check=True
        )
        self.cluster.add_datanode(reserve_bytes=str(8 * MIB))
        for _ in range(DATANODES - 1):
            self.cluster.add_datanode(scrub_bytes_per_s="64MiB")
        self.wait_until_healthy()
        mounts = [self.cluster.mount(f"read_cache_max_bytes={READ_CACHE_BYTES}") for _ in range(2)]
        return mounts[0], mounts[1]

    def _add_coordinator(self, number: int, engine: str) -> None:
        name = f"coordinator-{number}"
        directory = self.cluster.directory
        words = {
            "--replicas": str(REPLICAS),
            "--engine": engine,
            "--listen": (address := _free_address()),
            "--data": str(directory / f"{name}.data"),
            "--lease-s": str(self.lease_s),
            "--garbage-grace-s": str(self.grace_s),
            "--heartbeat-s": "0.5",
            "--suspect-s": "3",
            "--dead-s": "6",
        }
        flags = [word for flag in words.items() for word in flag]
        part = Coordinator(name, ["coordinator", *flags], directory, address)
        self.coordinators.append(part)
        part.start()

    @property
    def servers(self) -> list[Part]:
        """Every server."""
        return [*self.coordinators, *self.cluster.datanodes]

    @property
    def parts(self) -> list[Part]:
        """Every server and mount."""
        return [*self.servers, *self.cluster.mounts]

    def wait_until_healthy(self) -> None:
        """Every datanode is."""

        def healthy() -> bool:
            self.restart_ended()
            try:
                nodes = self.cluster.command("nodes")["nodes"]
            except (AssertionError, KeyError):
                return False  # no coordinator leads yet
            return [node["state"] for node in nodes] == ["healthy"] * DATANODES

        self.cluster.wait_for(healthy, f"{DATANODES} healthy datanodes", 2 * PATIENCE_S)

    def restart_ended(self) -> None:
        """As a service manager: start coordinators again that were deposed."""
        for one in self.coordinators:
            if one.ended:
                one.stop()
                one.start()

    def stored_bytes(self) -> int:
        """What the directories of all datanodes take on their disks."""
        return sum(map(_disk_bytes, self.data_directories()))

    def data_directories(self) -> list[Path]:
        """Of the datanodes, in their order."""
        return [self.cluster.directory / f"{node.name}.data" for node in self.cluster.datanodes]

    def shut_down(self) -> dict[str, float]:
        """Unmount and stop everything in order; how long each took, seconds. Fails when one was killed.

        A coordinator that stands by has nothing to end.
        """
        took_s = {}
        for part in [*self.cluster.mounts, *self.servers]:
            began_s = time.monotonic()
            child = part.child
            part.unmount() if isinstance(part, Mount) else part.stop()
            took_s[part.name] = time.monotonic() - began_s
            if child is not None:
                fine = (0, -signal.SIGTERM) if isinstance(part, Coordinator) else (0,)
                assert child.returncode in fine, f"{part.name}: status {child.returncode}"
        return took_s

    def stop(self) -> None:
        """Whatever state it is in: nothing runs or is mounted afterwards."""
        if hasattr(self, "cluster"):
            self.cluster.stop()
        for one in self.coordinators:
            one.kill()
        if os.path.ismount(self.small_disk):
            subprocess.run(["umount", "--lazy", self.small_disk], check=False)
        if self.database is not None:
            self.database.close()


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _disk_bytes(directory: Path) -> int:
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
