"""A cluster without I/O: datanodes as dictionaries, membership and upkeep, one manual clock."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from cairnfs.base.checksums import chunk_id as name_of
from cairnfs.base.clock import ManualClock
from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator import chunk_table
from cairnfs.coordinator.membership import nodes_table
from cairnfs.coordinator.membership.manager import NodeManager
from cairnfs.coordinator.placement.placer import Placer
from cairnfs.coordinator.placement.registry import load_selector
from cairnfs.coordinator.records import ChunkRecord
from cairnfs.coordinator.upkeep.reports import ChunkListing
from cairnfs.coordinator.upkeep.runner import UpkeepRunner
from cairnfs.coordinator.upkeep.upkeep import Upkeep
from cairnfs.engine.interface import Operation, ReadTransaction, Transaction
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2, nodes_pb2

T = TypeVar("T")
LENGTH = 1_000


class DirectStore:
    """A metadata store that commits at once."""

    def __init__(self, engine: MemoryEngine) -> None:
        self.engine = engine

    def read(self, body: Callable[[ReadTransaction], T]) -> T:
        """Run `body` on a snapshot."""
        return self.engine.read(body)

    def commit_now(self, operation: Operation) -> Any:
        """Run one operation; its value or its exception."""
        (outcome,) = self.engine.commit([operation])
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    async def commit(self, operation: Operation) -> Any:
        """Run one operation; its value or its exception."""
        return self.commit_now(operation)


@dataclass(slots=True)
class Datanode:
    """What a datanode would do, on a dictionary: chunk id -> counter when it was last stored."""

    uuid: str
    rack: str = ""
    number: int = 0
    boot: str = "first"
    up: bool = True
    seq: int = 0
    chunks: dict[bytes, int] = field(default_factory=dict[bytes, int])
    damaged: set[bytes] = field(default_factory=set[bytes])
    known_bad: set[bytes] = field(default_factory=set[bytes])  # of these, and not forgotten by a restart
    capacity_bytes: int = 10_000_000
    disks: list[nodes_pb2.DiskInfo] = field(default_factory=list[nodes_pb2.DiskInfo])
    leaving: set[bytes] = field(default_factory=set[bytes])  # on a disk that can only be read
    store_us: int = 0
    peers_us: dict[int, int] = field(default_factory=dict[int, int])
    copied_bytes: int = 0  # taken in by copies
    results: list[nodes_pb2.TaskResult] = field(default_factory=list[nodes_pb2.TaskResult])
    tasks: list[nodes_pb2.Task] = field(default_factory=list[nodes_pb2.Task])
    report_asked: bool = False
    loses_tasks: bool = False  # replies to its heartbeats do not arrive whole

    def store(self, chunk: bytes) -> None:
        """Store a chunk, or note that it was asked for again."""
        self.seq += 1
        self.chunks[chunk] = self.seq
        self.leaving.discard(chunk)

    def restart(self) -> None:
        """Come back as a new process with the same data."""
        self.boot += "'"
        self.seq = 0
        self.chunks = dict.fromkeys(self.chunks, 0)
        self.known_bad.clear()
        self.tasks.clear()
        self.results.clear()

    def delete(self, order: nodes_pb2.DeleteChunks) -> list[bytes]:
        """Delete what was not stored since; returns what was kept."""
        if order.boot != self.boot:
            return list(order.chunk_ids)
        kept = [one for one in order.chunk_ids if self.chunks.get(one, 0) > order.as_of_seq]
        for one in set(order.chunk_ids) - set(kept):
            self.chunks.pop(one, None)
            self.damaged.discard(one)
            self.known_bad.discard(one)
        return kept

    def verify(self, order: nodes_pb2.VerifyChunks) -> nodes_pb2.TaskResult:
        """Check the next chunks behind a given one."""
        listed = sorted(one for one in self.chunks if one > order.after)
        checked = listed[: order.limit]
        self.known_bad.update(one for one in checked if one in self.damaged)
        return nodes_pb2.TaskResult(
            corrupt=[one for one in checked if one in self.damaged],
            last=checked[-1] if checked else b"",
            end=len(checked) == len(listed),
        )


class Cluster:
    """Coordinator and datanodes; nothing happens but by these methods."""

    def __init__(
        self,
        nodes: int = 3,
        replicas: int = 2,
        *,
        racks: Sequence[str] = (),
        grace_s: float = 60.0,
        **settings: Any,
    ) -> None:
        self.clock = ManualClock()
        self.store = DirectStore(MemoryEngine())
        self.settings = CoordinatorSettings(replicas=replicas, garbage_grace_s=grace_s, **settings)
        self.nodes: dict[int, Datanode] = {}
        self.start()
        for index in range(nodes):
            self.join(Datanode(f"node-{index}", rack=racks[index] if racks else ""))

    # ------------------------------------------------------------------ coordinator

    def start(self) -> None:
        """(Re)start the coordinator on what the engine has."""
        now = self.clock.monotonic()
        self.manager = NodeManager(self.settings, "cluster", first_version=int(now * 1000))
        self.manager.restore(self.store.read(lambda txn: list(nodes_table.scan_nodes(txn))), now)
        self.placer = Placer(self.manager, load_selector(self.settings.selector), Random(7))
        self.upkeep = Upkeep(self.settings, self.manager, self.placer, now)
        self.runner = UpkeepRunner(self.store, self.upkeep, self.clock)

    def step(self) -> None:
        """One step of the runner; with a store that never waits the coroutine never suspends."""
        coroutine = self.runner.step()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise AssertionError("the step waited for something")

    def change(self, body: Callable[[Transaction], T]) -> T:
        """Commit one operation."""
        result: T = self.store.commit_now(Operation(body))
        return result

    def record(self, chunk: bytes) -> ChunkRecord | None:
        """The record of a chunk now."""
        return self.store.read(lambda txn: chunk_table.get_chunk(txn, chunk))

    # ------------------------------------------------------------------ datanodes

    def join(self, node: Datanode) -> Datanode:
        """Register a datanode, and let it beat once."""
        request = nodes_pb2.RegisterRequest(
            uuid=node.uuid,
            address=f"{node.uuid}:1",
            host_id=node.uuid,
            rack=node.rack,
            disk=disk_use(0, node.capacity_bytes),
            node=node.number,
        )
        record = self.store.commit_now(nodes_table.registration(request))
        node.number = self.manager.registered(record, request.disk, self.clock.monotonic()).number
        self.upkeep.restarted(node.number, self.clock.monotonic())
        self.nodes[node.number] = node
        self.beat(node)
        return node

    def beat(self, node: Datanode) -> nodes_pb2.HeartbeatReply:
        """One heartbeat: results go, tasks come."""
        now = self.clock.monotonic()
        request = nodes_pb2.HeartbeatRequest(
            node=node.number,
            uuid=node.uuid,
            disk=disk_use(len(node.chunks), node.capacity_bytes),
            disks=node.disks,
            store_us=node.store_us,
            peers=[nodes_pb2.PeerSpeed(node=n, store_us=us) for n, us in node.peers_us.items()],
            seen_version=self.manager.version,
            results=node.results,
            store_seq=node.seq,
            boot=node.boot,
        )
        node.results = []
        reply = self.manager.heartbeat(request, now)
        self.upkeep.heartbeat(request, reply, now)
        node.tasks.extend(reply.tasks)
        node.report_asked |= reply.send_chunk_report
        return reply

    def work(self, node: Datanode) -> None:
        """Let a datanode do all it was asked for."""
        tasks, node.tasks = node.tasks, []
        for task in () if node.loses_tasks else tasks:
            result = self._carry_out(node, task)
            result.id = task.id
            node.results.append(result)
        if node.report_asked:
            node.report_asked = False
            self.report(node)

    def _carry_out(self, node: Datanode, task: nodes_pb2.Task) -> nodes_pb2.TaskResult:
        if task.HasField("delete"):
            return nodes_pb2.TaskResult(kept=node.delete(task.delete))
        if task.HasField("verify"):
            return node.verify(task.verify)
        copy = task.copy
        if copy.chunk_id not in node.chunks or copy.chunk_id in node.damaged:
            return nodes_pb2.TaskResult(error=common_pb2.ERROR_CODE_CORRUPT)
        reached = [number for number in copy.targets if self.nodes[number].up]
        for number in reached:
            self.nodes[number].store(copy.chunk_id)
            self.nodes[number].copied_bytes += LENGTH
        return nodes_pb2.TaskResult(nodes=reached)

    def report(self, node: Datanode, listing: ChunkListing | None = None) -> None:
        """Send and reconcile one chunk report."""
        full = list_chunks(node) if listing is None else listing
        reconciliation = self.upkeep.begin_report(node.number, full)
        now = self.clock.monotonic()
        while self.store.read(reconciliation.step):
            pass
        self.upkeep.end_report(node.number, reconciliation, now)

    def run(self, seconds: float, step_s: float = 1.0) -> None:
        """Let everything happen for a while: beats, work, and steps of upkeep."""
        end_s = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end_s:
            self.clock.advance(step_s)
            for node in self.nodes.values():
                if node.up:
                    self.beat(node)
                    self.work(node)
            self.step()

    # ------------------------------------------------------------------ data

    def write(self, text: str, nodes: Sequence[int], references: int = 1) -> bytes:
        """Store a chunk on `nodes` and commit slices that refer to it."""
        chunk = name_of(text.encode())
        for number in nodes:
            self.nodes[number].store(chunk)
        self.commit(chunk, nodes, references)
        return chunk

    def commit(self, chunk: bytes, nodes: Sequence[int], references: int = 1) -> None:
        """Commit references to a stored chunk."""
        self.change(lambda txn: chunk_table.add_references(txn, chunk, LENGTH, nodes, references))

    def unlink(self, chunk: bytes) -> None:
        """Drop one reference."""
        self.change(lambda txn: chunk_table.drop_reference(txn, chunk, self.clock.wall_ns()))

    def holders(self, chunk: bytes) -> set[int]:
        """Which datanodes have a good copy on their disk."""
        return {
            node.number
            for node in self.nodes.values()
            if node.up and chunk in node.chunks and chunk not in node.damaged
        }


def disk_use(chunks: int = 0, capacity_bytes: int = 10_000_000) -> nodes_pb2.DiskUse:
    """Disk figures of a datanode with this many chunks."""
    used = chunks * LENGTH
    return nodes_pb2.DiskUse(
        capacity_bytes=capacity_bytes,
        used_bytes=used,
        available_bytes=max(0, capacity_bytes - used),
        chunks=chunks,
    )


def list_chunks(node: Datanode, *, complete: bool = True) -> ChunkListing:
    """A report of all that a datanode has."""
    listing = ChunkListing()
    listing.add(
        nodes_pb2.ChunkReport(
            node=node.number,
            uuid=node.uuid,
            chunks=[
                nodes_pb2.ReportedChunk(
                    chunk_id=one, length=LENGTH, leaving=one in node.leaving, damaged=one in node.known_bad
                )
                for one in sorted(node.chunks)
            ],
            end=complete,
        )
    )
    return listing
