"""One simulated run from one seed: a cluster, its clients, what goes wrong, the healing, the judgement."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final
from zlib import crc32

import trio
import trio.testing

from cairnfs.base.errors import CairnError
from cairnfs.rpc.v1 import common_pb2 as common
from tests.sim.cluster import audit
from tests.sim.cluster.clients import SimMount
from tests.sim.cluster.clockwork import Timeline
from tests.sim.cluster.faults import Faults
from tests.sim.cluster.history import ABSENT, History
from tests.sim.cluster.machines import Machines
from tests.sim.cluster.programs import NAMES, REMOVED, SIZES, WORK, Client
from tests.sim.cluster.seams import simulated

FIRST: Final = b"the first version"
THREADS: Final = 2  # of programs at each client
_LOOK_S: Final = 0.25  # between looks at leases and leaders
_START_S: Final = 60.0
_RESTART_S: Final = (0.1, 1.0, 4.0, 12.0)
_HEAL_S: Final = 240.0
_SKEWS: Final = (0.985, 0.999, 1.0, 1.001, 1.015)  # rates of clocks; LEADERSHIP_PERCENT allows for 5 %


@dataclass(frozen=True)
class Plan:
    """What the seed decided beforehand."""

    seed: int
    coordinators: int
    datanodes: int
    clients: int
    kinds: int | tuple[str, ...]
    seconds: float
    skewed: bool
    leaks: bool  # wait long enough to see that nothing is left over


@dataclass
class Result:
    """What became of a run."""

    seed: int
    problem: str = ""
    trace: int = 0
    events: list[str] = field(default_factory=list[str])
    messages: int = 0
    done: int = 0
    failed: int = 0
    virtual_s: float = 0.0


def draw(seed: int, profile: str = "all") -> Plan:
    """The plan of a seed."""
    rng = Random(f"{profile} {seed}")
    plan = Plan(
        seed,
        coordinators=rng.choice((1, 1, 2, 3)),
        datanodes=3,
        clients=2,
        kinds=rng.choice((0, 1, 2, 3, 5)),
        seconds=rng.choice((4.0, 8.0, 15.0)),
        skewed=rng.random() < 0.3,
        leaks=seed % 16 == 0,
    )
    return PROFILES[profile](plan)


PROFILES: Final[dict[str, Callable[[Plan], Plan]]] = {"all": lambda plan: plan}


class World:
    """One run."""

    def __init__(self, plan: Plan, machines: Machines, rng: Random, result: Result) -> None:
        self.plan = plan
        self.machines = machines
        self.timeline = machines.timeline
        self.history = History()
        self.healed = False
        self.unpowered: set[str] = set()  # datanodes whose disks lost power
        self.result = result
        self._rng = rng
        self._contacts: dict[SimMount, tuple[str, float]] = {}
        self.clients = [
            Client(f"client-{number + 1}", rng, self.history, self.note) for number in range(plan.clients)
        ]
        self._nursery: trio.Nursery

    def note(self, what: str) -> None:
        """Add to the story of this run."""
        self.result.events.append(f"{trio.current_time():9.3f} {what}")

    # ------------------------------------------------------------------ the run

    async def run(self, nursery: trio.Nursery) -> None:
        """All of it. Raises AssertionError for what must not be."""
        self._nursery = nursery
        machines = self.machines
        if self.plan.skewed:
            for host in [f"coord-{n + 1}" for n in range(self.plan.coordinators)]:
                machines.skews[host] = self._rng.choice(_SKEWS)
        machines.build(self.plan.coordinators, self.plan.datanodes)
        await self._until(self._all_healthy, _START_S, "the cluster did not come up")
        for client in self.clients:
            await self._mount(client)
        await self._prepare()
        faults = Faults(self, self._rng, self.plan.kinds)
        self.note(f"kinds: {faults.kinds}")
        nursery.start_soon(self._watch)
        nursery.start_soon(self._restart_what_died)
        async with trio.open_nursery() as work:
            for client in self.clients:
                for _ in range(THREADS):
                    work.start_soon(self._thread, client, trio.current_time() + self.plan.seconds)
            if faults.kinds:
                await faults.run(self.plan.seconds)
            else:
                await trio.sleep(self.plan.seconds)
            self._heal()
        await self._until(self._all_healthy, _HEAL_S, "the cluster did not heal")
        await self._judge()

    async def _until(
        self, condition: Callable[[], bool], patience_s: float, complaint: str | Callable[[], str]
    ) -> None:
        with trio.move_on_after(patience_s):
            while not condition():  # noqa: ASYNC110 - what it asks tells nobody of its changes
                await trio.sleep(0.5)
            return
        raise AssertionError(complaint if isinstance(complaint, str) else complaint())

    def _all_healthy(self) -> bool:
        leaders = [one for one in self.machines.coordinators.values() if one.serving]
        if not leaders or leaders[0].coordinator is None:
            return False
        healthy = [node for node in leaders[0].coordinator.manager if node.state == common.NODE_STATE_HEALTHY]
        return len(healthy) == self.plan.datanodes and not any(node.read_only for node in healthy)

    async def _mount(self, client: Client) -> None:
        rate = self._rng.choice(_SKEWS) if self.plan.skewed else 1.0
        mount = SimMount(self.machines, client.name, rate)
        await self._nursery.start(mount.run)
        client.mount = mount
        self.note(f"{client.name} mounted")

    async def _prepare(self) -> None:
        mount = self.clients[0].mount
        assert mount is not None
        await mount.kernel.mkdir(f"/{WORK}")
        for name, size in SIZES.items():
            await mount.kernel.write(f"/{WORK}/{name}", 0, bytes(size))
        for name in NAMES:
            await mount.kernel.write(f"/{WORK}/{name}", 0, FIRST)
            self.history.write((f"{WORK}/{name}", -1), FIRST, -2.0).ended_s = -1.0
        await mount.kernel.fs.flusher.flush_all()
        self.history.write((f"{WORK}/{REMOVED}", -1), ABSENT, -2.0).ended_s = -1.0

    async def _thread(self, client: Client, end_s: float) -> None:
        while trio.current_time() < end_s:
            await trio.sleep(self._rng.choice((0.01, 0.1, 0.4, 1.0)))
            await client.step()

    # ------------------------------------------------------------------ faults

    def crash(self, client: Client) -> None:
        """A mount is gone; another one follows later."""
        mount = client.mount
        if mount is None or mount.crashed:
            return
        self.note(f"{client.name} crashed")
        mount.crash()
        client.unsaved.lost(trio.current_time())
        client.mount = None
        self._nursery.start_soon(self._mount_again, client)

    async def _mount_again(self, client: Client) -> None:
        await trio.sleep(self._rng.choice(_RESTART_S[:3]))
        await self._mount(client)

    async def _restart_what_died(self) -> None:
        machines = self.machines
        while True:
            pause_s = self._rng.choice(_RESTART_S)
            while pause_s > 0 and not self.healed:
                await trio.sleep(min(pause_s, 0.5))
                pause_s -= 0.5
            await trio.sleep(0.1)
            for name, coordinator in list(machines.coordinators.items()):
                if coordinator.process.dead or coordinator.ended:
                    if not coordinator.process.dead:
                        machines.kill_coordinator(name)
                    machines.start_coordinator(name)
                    self.note(f"{name} started")
            for name, datanode in list(machines.datanodes.items()):
                if datanode.process.dead or datanode.ended:
                    machines.kill_datanode(name)
                    machines.start_datanode(name, power_cut=name in self.unpowered)
                    self.unpowered.discard(name)
                    self.note(f"{name} started")

    def _heal(self) -> None:
        self.note("healed")
        self.healed = True
        machines = self.machines
        machines.network.heal()
        machines.slow.clear()
        for disk in machines.disks.values():
            disk.full, disk.sick_share, disk.kill_after = False, 0.0, -1
        for process in machines.processes():
            process.resume()
        for name in machines.datanodes:
            if not machines.disks_good(name):  # given up until their datanode starts again
                machines.kill_datanode(name)

    # ------------------------------------------------------------------ what must hold at any time

    async def _watch(self) -> None:
        while True:
            await trio.sleep(_LOOK_S)
            self._look_at_sessions()
            audit.check_leaders(self.machines)
            audit.check_leases(
                self.machines, [client.mount for client in self.clients if client.mount is not None]
            )

    def _look_at_sessions(self) -> None:
        for client in self.clients:
            mount = client.mount
            if mount is None or mount.crashed:
                continue
            session_id, contact_s = mount.session.session_id, mount.contact_s
            before = self._contacts.get(mount)
            if before is not None and before[0] and session_id != before[0]:
                self.note(f"{client.name} lost its session")
                client.unsaved.lost(before[1] - _LOOK_S)
            if before is not None and before[0] == session_id:
                contact_s = max(contact_s, before[1])  # it is forgotten when the session ends
            self._contacts[mount] = (session_id, contact_s)

    # ------------------------------------------------------------------ the end

    async def _judge(self) -> None:
        self.note("judging")
        for client in self.clients:
            await self._until(lambda c=client: c.mount is not None, _HEAL_S, f"{client.name} cannot mount")  # type: ignore[misc]
            mount = client.mount
            assert mount is not None
            await self._until(lambda m=mount: m.session.trusted, _HEAL_S, f"{client.name} has no session")  # type: ignore[misc]
        self._look_at_sessions()
        for client in self.clients:
            assert client.mount is not None
            try:
                await client.mount.unmount()
            except CairnError as error:
                raise AssertionError(f"{client.name} could not be unmounted: {error}") from None
        reader = Client("reader", self._rng, self.history, self.note)
        await self._mount(reader)
        assert reader.mount is not None
        with trio.move_on_after(_HEAL_S) as scope:
            await self._read_all(reader, reader.mount)
        assert not scope.cancelled_caught, "reading everything takes for ever"
        self.history.check()
        await reader.mount.unmount()
        await self._until(
            lambda: not audit.missing(self.machines),
            _HEAL_S,
            lambda: f"replicas stay missing: {audit.missing(self.machines)}",
        )
        faults = audit.metadata_faults(self.machines)
        assert not faults, f"fsck: {faults}"
        if self.plan.leaks:
            self._have_reported()
            await self._until(
                lambda: not audit.leaks(self.machines),
                2 * _HEAL_S,
                lambda: f"leaked: {audit.leaks(self.machines)}",
            )

    def _have_reported(self) -> None:
        """As fsck does; datanodes report of their own accord only a few times a day."""
        for leader in self.machines.coordinators.values():
            if leader.serving and leader.coordinator is not None:
                for node in leader.coordinator.manager:
                    leader.coordinator.upkeep.request_report(node.number)

    async def _read_all(self, reader: Client, mount: SimMount) -> None:
        try:
            for name, size in SIZES.items():
                for page in range(-(-size // 4096)):
                    await reader.look_at(mount, name, page)
            for name in (*NAMES, REMOVED):
                await reader.look_up(mount, name)
            for client in self.clients:
                await reader.audit_ledger(mount, client)
        except CairnError as error:
            raise AssertionError(f"lost: cannot be read after everything was healed: {error}") from None


def run_seed(seed: int, profile: str = "all", plan: Plan | None = None) -> Result:
    """Run one seed; the same seed makes the same run."""
    plan = plan or draw(seed, profile)
    rng = Random(f"run {seed}")
    result = Result(seed)
    errors: list[str] = []
    _make_trio_deterministic(seed)

    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="sim-", dir=_MEMORY if _MEMORY.is_dir() else None) as base:
            async with trio.open_nursery() as nursery:
                timeline = Timeline()
                nursery.start_soon(timeline.run)
                machines = Machines(timeline, rng, Path(base), errors)
                world = World(plan, machines, rng, result)
                try:
                    await world.run(nursery)
                    assert not errors, errors[0]
                finally:
                    result.virtual_s = trio.current_time()
                    result.messages = machines.network.messages
                    result.trace = crc32("\n".join(result.events).encode(), machines.network.trace)
                    result.done = sum(client.done for client in world.clients)
                    result.failed = sum(client.failed for client in world.clients)
                    machines.close()
                nursery.cancel_scope.cancel()

    try:
        with simulated(rng, errors):
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except BaseException as error:  # noqa: BLE001 - whatever ends a run is what it found
        result.problem = _reason(error)
    return result


_MEMORY: Final = Path("/dev/shm")  # what a simulated disk keeps needs no real one


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        others = [one for one in error.exceptions if not isinstance(one, trio.Cancelled)]
        error = (others or list(error.exceptions))[0]
    if isinstance(error, KeyboardInterrupt):
        raise error
    return (
        str(error) if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__}: {error}"
    )


def _make_trio_deterministic(seed: int) -> None:
    """As hypothesis does it: the order of ready tasks comes from the seed."""
    from trio._core import _run

    _run._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]
    _run._r.seed(seed)
