"""The machines of a simulated cluster: starts, pauses, kills and restarts what runs on them."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

from cairnfs.base.settings import CoordinatorSettings
from tests.sim.cluster.clockwork import Process, Timeline
from tests.sim.cluster.disks import SimDisk
from tests.sim.cluster.engines import Database, SharedEngine
from tests.sim.cluster.network import Network
from tests.sim.cluster.servers import CoordinatorProcess, DatanodeProcess, datanode_settings

LEASE_S: Final = 6.0
HEARTBEAT_S: Final = 1.0
SUSPECT_S: Final = 3.0
DEAD_S: Final = 8.0
GRACE_S: Final = 20.0
REPLICAS: Final = 2
_THREAD_S: Final = (0.0, 0.0005, 0.001, 0.003)
_SLOW_THREAD_S: Final = (0.1, 0.5, 1.5, 4.0)


class Machines:
    """Coordinators and datanodes, by name."""

    def __init__(self, timeline: Timeline, rng: Random, base: Path, errors: list[str]) -> None:
        self.timeline = timeline
        self.rng = rng
        self.errors = errors
        self.network = Network(timeline, rng)
        self.database = Database()
        self.coordinators: dict[str, CoordinatorProcess] = {}
        self.datanodes: dict[str, DatanodeProcess] = {}
        self.disks: dict[str, SimDisk] = {}
        self.slow: set[str] = set()  # machines whose disks are slow
        self.skews: dict[str, float] = {}  # rates of clocks
        self._base = base
        self._buried: list[Process] = []
        self._released: list[DatanodeProcess] = []
        self.settings = CoordinatorSettings(
            listen="127.0.0.1:1",
            replicas=REPLICAS,
            lease_s=LEASE_S,
            heartbeat_s=HEARTBEAT_S,
            suspect_s=SUSPECT_S,
            dead_s=DEAD_S,
            garbage_grace_s=GRACE_S,
        )

    @property
    def addresses(self) -> Sequence[str]:
        """Where coordinators are looked for."""
        return [f"{name}:1" for name in self.coordinators]

    def build(self, coordinators: int, datanodes: int) -> None:
        """Make and start everything."""
        for number in range(1, coordinators + 1):
            self.coordinators[f"coord-{number}"] = None  # type: ignore[assignment]
        for name in self.coordinators:
            self.start_coordinator(name)
        for number in range(1, datanodes + 1):
            self.start_datanode(f"node-{number}")

    def _process(self, name: str) -> Process:
        made = Process(name, self.timeline, self.rng, self.errors)
        made.machines = self  # type: ignore[attr-defined]
        made.clock.rate = self.skews.get(name, 1.0)
        made.clock.offset_s = self.rng.uniform(100, 10_000)
        made.delay_s = lambda: self.rng.choice(_SLOW_THREAD_S if name in self.slow else _THREAD_S)
        self._buried.append(made)
        return made

    # ------------------------------------------------------------------ coordinators

    def start_coordinator(self, name: str) -> None:
        """A new process, which stands by first."""
        process = self._process(name)
        engine = SharedEngine(self.database, process, self.network)
        made = self.coordinators[name] = CoordinatorProcess(process, engine, self.settings)
        made.start()

    def kill_coordinator(self, name: str) -> None:
        """SIGKILL."""
        self.coordinators[name].process.kill()
        self.network.died(name)

    # ------------------------------------------------------------------ datanodes

    def start_datanode(self, name: str, *, power_cut: bool = False) -> None:
        """A new process on the disk as it was left."""
        process = self._process(name)
        disk = self.disks.get(name)
        disk = disk.next_life(power_cut=power_cut) if disk else SimDisk(self._base / name, self.rng)
        disk.on_killed = lambda: self.kill_datanode(name)
        self.disks[name] = disk
        made = DatanodeProcess(process, disk, datanode_settings(disk.root, self.addresses))
        self.datanodes[name] = made
        made.start()

    def kill_datanode(self, name: str) -> None:
        """SIGKILL, or the first half of a power cut."""
        found = self.datanodes[name]
        if not found.process.dead:
            found.process.kill()
            found.disk.stop()
            self.network.died(name)
            self._released.append(found)

    def disks_good(self, name: str) -> bool:
        """Whether a datanode uses its disk without reservations."""
        node = self.datanodes[name].node
        return node is None or all(member.health.writable for member in node.store._members)

    def processes(self) -> list[Process]:
        """What runs now."""
        coordinators = [one.process for one in self.coordinators.values()]
        return coordinators + [one.process for one in self.datanodes.values()]

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """Let go of everything."""
        for node in self.datanodes.values():
            self._released.append(node)
        for process in self._buried:
            process.bury()
        for node in self._released:
            node.disk.stop()
            node.release()
