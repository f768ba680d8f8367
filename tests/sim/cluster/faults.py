"""What goes wrong in a simulated cluster, one kind after another, as the seed wants it.

docs/internals/simulation.md states the fault model.
"""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

import trio

from cairnfs.coordinator import chunk_table
from tests.sim.cluster.engines import DATABASE

if TYPE_CHECKING:
    from tests.sim.cluster.world import World

SHORT_S: Final = (0.05, 0.5, 2.0, 4.0)
LONG_S: Final = (0.5, 3.0, 7.0, 14.0)  # also longer than a lease
_KILL_AFTER_CALLS: Final = 12


class Faults:
    """Lets faults happen in a world until it is told to stop."""

    def __init__(self, world: "World", rng: Random, kinds: int | tuple[str, ...]) -> None:
        """`kinds`: these, or so many that the seed chooses: few at a time find more than all at once."""
        self._world = world
        self._rng = rng
        self._all: dict[str, Callable[[], None]] = {
            "cut": self._cut,
            "isolate": self._isolate,
            "break": self._break,
            "slow network": self._slow_network,
            "kill coordinator": self._kill_coordinator,
            "pause coordinator": self._pause_coordinator,
            "kill datanode": self._kill_datanode,
            "kill datanode in a call": self._kill_in_a_call,
            "power cut of a datanode": self._power_cut,
            "power cut of everything": self._power_cut_all,
            "pause datanode": self._pause_datanode,
            "slow disk": self._slow_disk,
            "full disk": self._full_disk,
            "sick disk": self._sick_disk,
            "flip": self._flip,
            "crash client": self._crash_client,
            "sleeping client": self._sleep_client,
        }
        self.kinds = kinds if isinstance(kinds, tuple) else tuple(rng.sample(sorted(self._all), kinds))
        self.rotting = f"node-{rng.randint(1, len(world.machines.datanodes))}"  # bits flip on this one only

    async def run(self, seconds: float) -> None:
        """Let something happen now and then."""
        end_s = trio.current_time() + seconds
        while trio.current_time() < end_s:
            await trio.sleep(self._rng.choice((0.05, 0.3, 1.0, 2.5)))
            kind = self._rng.choice(self.kinds)
            self._world.note(f"fault: {kind}")
            self._all[kind]()

    def _later(self, delay_s: float, event: Callable[[], object]) -> None:
        """Something that belongs to the faults; after the healing it does nothing."""
        world = self._world
        world.timeline.after(delay_s, lambda: None if world.healed else event())

    # ------------------------------------------------------------------ network

    def _hosts(self) -> list[str]:
        machines = self._world.machines
        clients = [client.name for client in self._world.clients]
        return [DATABASE, *machines.coordinators, *machines.datanodes, *clients]

    def _cut(self) -> None:
        one, other = self._rng.sample(self._hosts(), 2)
        seconds = self._rng.choice(LONG_S)
        self._world.machines.network.cut(one, other, seconds)
        if self._rng.random() < 0.7:
            self._world.machines.network.cut(other, one, seconds)

    def _isolate(self) -> None:
        host, seconds = self._rng.choice(self._hosts()), self._rng.choice(LONG_S)
        for other in self._hosts():
            if other != host:
                self._world.machines.network.cut(host, other, seconds)
                self._world.machines.network.cut(other, host, seconds)

    def _break(self) -> None:
        host = self._rng.choice(self._hosts())
        self._world.machines.network.break_connections(host, self._rng.choice((0.3, 1.0)))

    def _slow_network(self) -> None:
        host, network = self._rng.choice(self._hosts()), self._world.machines.network
        network.slow(host, slow=True)
        self._later(self._rng.choice(LONG_S), lambda: network.slow(host, slow=False))

    # ------------------------------------------------------------------ coordinators

    def _coordinator(self) -> str:
        coordinators = self._world.machines.coordinators
        leaders = [name for name, one in coordinators.items() if one.serving]
        if leaders and self._rng.random() < 0.8:
            return self._rng.choice(leaders)
        return self._rng.choice(sorted(coordinators))

    def _kill_coordinator(self) -> None:
        self._world.machines.kill_coordinator(self._coordinator())  # the world starts another one

    def _pause_coordinator(self) -> None:
        name = self._coordinator()
        self._world.machines.coordinators[name].process.pause(self._rng.choice(LONG_S))

    # ------------------------------------------------------------------ datanodes

    def _datanode(self) -> str:
        return self._rng.choice(sorted(self._world.machines.datanodes))

    def _kill_datanode(self) -> None:
        self._world.machines.kill_datanode(self._datanode())

    def _kill_in_a_call(self) -> None:
        self._world.machines.disks[self._datanode()].kill_after = self._rng.randrange(_KILL_AFTER_CALLS)

    def _power_cut(self) -> None:
        name = self._datanode()
        self._world.machines.kill_datanode(name)
        self._world.unpowered.add(name)

    def _power_cut_all(self) -> None:
        machines = self._world.machines
        for name in machines.datanodes:
            machines.kill_datanode(name)
            self._world.unpowered.add(name)
        for name in machines.coordinators:
            machines.kill_coordinator(name)
        if self._rng.random() < 0.5:
            for client in self._world.clients:
                self._world.crash(client)

    def _pause_datanode(self) -> None:
        self._world.machines.datanodes[self._datanode()].process.pause(self._rng.choice(LONG_S))

    def _slow_disk(self) -> None:
        name, slow = self._datanode(), self._world.machines.slow
        slow.add(name)
        self._later(self._rng.choice(LONG_S), lambda: slow.discard(name))

    def _full_disk(self) -> None:
        name, disks = self._datanode(), self._world.machines.disks
        disks[name].full = True

        def emptied() -> None:
            disks[name].full = False

        self._later(self._rng.choice(LONG_S), emptied)

    def _sick_disk(self) -> None:
        name, disks = self._datanode(), self._world.machines.disks
        disks[name].sick_share = self._rng.choice((0.05, 0.3, 1.0))

        def well() -> None:
            disks[name].sick_share = 0.0

        self._later(self._rng.choice(SHORT_S), well)

    def _flip(self) -> None:
        """Damage a chunk that is whole on another disk, too: what exists once only cannot be kept."""
        machines = self._world.machines
        name = self.rotting
        found = machines.datanodes[name]
        if found.node is None or found.process.dead or not found.node.membership.node:
            return
        records = machines.database.engine.read(lambda txn: list(chunk_table.scan_chunks(txn, b"", 10_000)))
        whole = {other: machines.disks[other].durable_chunks() for other in machines.disks if other != name}
        numbers = {
            one.node.membership.node: other
            for other, one in machines.datanodes.items()
            if one.node is not None and one.node.membership.node
        }
        mine = found.node.membership.node
        damageable = [
            chunk_id
            for chunk_id, record in records
            if mine in record.nodes
            and any(chunk_id in whole.get(numbers.get(node, ""), ()) for node in record.nodes)
        ]
        if damageable:
            machines.disks[name].flip(self._rng.choice(damageable), self._rng)

    # ------------------------------------------------------------------ clients

    def _crash_client(self) -> None:
        self._world.crash(self._rng.choice(self._world.clients))

    def _sleep_client(self) -> None:
        """The machine sleeps: nothing passes, and afterwards its clock has gone on."""
        client, seconds = self._rng.choice(self._world.clients), self._rng.choice(LONG_S)
        mount = client.mount
        if mount is not None and not mount.crashed:
            for other in self._hosts():
                if other != client.name:
                    self._world.machines.network.cut(client.name, other, 0.1)
                    self._world.machines.network.cut(other, client.name, 0.1)
            mount.clock.offset_s += seconds
