"""A whole CairnFS in one trio loop: real cores of client and coordinator, no network, disk or thread.

`Rig` holds the coordinator (conductor, namespace, memory engine) and a store of chunks. `SimKernel` is a
mount as a process meets it: a file system core with the caches that the Linux kernel keeps above it.
"""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from cairnfs.base.checksums import block_checksums, chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.client.interface import Lender
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.coordinator.conductor import Conductor
from cairnfs.coordinator.conductor.context import Commit, Config, Effects
from cairnfs.coordinator.namespace.check import Checker
from cairnfs.coordinator.namespace.ids import IdAllocator
from cairnfs.coordinator.namespace.mkfs import format_file_system
from cairnfs.coordinator.namespace.registry import OPERATIONS
from cairnfs.engine.interface import Operation
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb
from cairnfs.vfs.state import MountPolicy
from tests.doubles.answering import AnsweringVFS
from tests.doubles.sim_kernel import ROOT, SimFile, SimKernel
from tests.unit.client.memory import MemoryStream

__all__ = ["ROOT", "Link", "MemoryChunks", "Rig", "SimFile", "SimKernel", "TrioClock"]

Stream = MemoryStream[pb.ClientMessage, pb.ServerMessage]
Delay = Callable[[], float]  # seconds that the next message takes


class TrioClock:
    """The coordinator's and clients' clock: trio's, which tests may drive."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(trio.current_time() * 1e9)


@dataclass
class MemoryPlace:
    """Where a chunk is, for `MemoryAnswers`: its descriptor is a number of `MemoryChunks.files`."""

    descriptor: int
    length: int
    checksums: Sequence[int]
    position: int = 0
    _loan: int = 0

    @property
    def file(self) -> "MemoryPlace":
        return self

    def lend(self, lender: Lender) -> int:
        self._loan = self._loan or lender.lend(self.descriptor)
        return self._loan


@dataclass
class MemoryChunks:
    """Chunk I/O without datanodes; if `local`, the places of chunks are known once they were retrieved."""

    chunks: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    failure: CairnError | None = None
    stored: int = 0
    delay: Delay | None = None
    local: bool = False
    files: list[bytes] = field(default_factory=list[bytes])
    places: dict[bytes, MemoryPlace] = field(default_factory=dict[bytes, MemoryPlace])

    async def _pass(self) -> None:
        await trio.sleep(self.delay() if self.delay else 0)

    async def store(self, chunks: Sequence[bytes]) -> list[pb.StoredChunk]:
        await self._pass()
        if self.failure is not None:
            raise self.failure
        made = []
        for chunk in chunks:
            name = chunk_id(chunk)
            self.chunks[name] = chunk
            self.stored += 1
            made.append(pb.StoredChunk(chunk_id=name, length=len(chunk), nodes=[1, 2]))
        return made

    async def retrieve(
        self, chunk_id: bytes, chunk_length: int, nodes: Sequence[int], offset: int, length: int
    ) -> bytes:
        await self._pass()
        chunk = self.chunks[chunk_id]
        assert len(chunk) == chunk_length
        assert nodes
        self._find_place(chunk_id)
        return chunk[offset : offset + length]

    def _find_place(self, chunk_id: bytes) -> None:
        chunk = self.chunks.get(chunk_id)
        if self.local and chunk is not None and chunk_id not in self.places:
            self.places[chunk_id] = MemoryPlace(len(self.files), len(chunk), block_checksums(chunk))
            self.files.append(chunk)

    def place(self, chunk_id: bytes) -> MemoryPlace | None:
        return self.places.get(chunk_id)

    async def find_places(self, chunks: Sequence[tuple[bytes, Sequence[int]]]) -> None:
        await self._pass()
        for name, _ in chunks:
            self._find_place(name)


class Link:
    """One mount's way to the coordinator (MetadataTransport), which tests may cut and slow down."""

    def __init__(self, rig: "Rig", nursery: trio.Nursery, delay: Delay | None) -> None:
        self.reachable = True
        self._rig = rig
        self._nursery = nursery
        self._delay = delay
        self._streams: list[int] = []

    def connect(self, _address: str) -> Stream:
        """A stream to the coordinator."""
        number = self._rig.new_stream_number()
        if self._delay is None:
            stream = Stream(lambda _, message: self._send(number, message), reachable=self.reachable)
            self._rig.streams[number] = (stream, stream.deliver)
        else:
            out, deliver = self._slow_way(number)
            stream = Stream(lambda _, message: out(message), reachable=self.reachable)
            self._rig.streams[number] = (stream, deliver)
        self._streams.append(number)
        return stream

    def _send(self, number: int, message: pb.ClientMessage) -> None:
        if self.reachable:
            self._rig.receive(number, message)

    def _slow_way(
        self, number: int
    ) -> tuple[Callable[[pb.ClientMessage], None], Callable[[pb.ServerMessage], None]]:
        """Both directions of a stream whose messages take a while each, in order."""
        to_server, from_client = trio.open_memory_channel[pb.ClientMessage](100_000)
        to_client, from_server = trio.open_memory_channel[pb.ServerMessage](100_000)
        delay = self._delay
        assert delay is not None

        async def carry_out() -> None:
            async for message in from_client:
                await trio.sleep(delay())
                self._send(number, message)

        async def carry_in() -> None:
            async for message in from_server:
                await trio.sleep(delay())
                if self.reachable and number in self._rig.streams:
                    self._rig.streams[number][0].deliver(message)

        self._nursery.start_soon(carry_out)
        self._nursery.start_soon(carry_in)
        return to_server.send_nowait, to_client.send_nowait

    def cut(self) -> None:
        """Break every stream of this mount, with all that is on its way; it may connect again."""
        for number in self._streams:
            self._rig.cut_stream(number)
        self._streams.clear()

    async def partition(self, seconds: float) -> None:
        """Let nothing pass for a while, without anybody being told; then break what is left."""
        self.reachable = False
        await trio.sleep(seconds)
        self.reachable = True
        self.cut()


class Rig:
    """The coordinator and what its clients share."""

    def __init__(self, nursery: trio.Nursery, delay: Delay | None = None) -> None:
        """`delay`: how long messages and chunks take; without it they arrive at once."""
        self.engine = MemoryEngine()
        self.clock = TrioClock()
        self.chunks = MemoryChunks(delay=delay, local=True)
        self.streams: dict[int, tuple[Stream, Callable[[pb.ServerMessage], None]]] = {}
        self._delay = delay
        self._nursery = nursery
        self._made = 0
        self._greeted: set[int] = set()
        self.messages_left = math.inf  # from clients; one more is a bug: somebody asks again and again
        [made] = self.engine.commit([Operation(lambda txn: format_file_system(txn, "cluster", 1))])
        assert made.error is None
        self._commits: list[Commit] = []
        self._committing = trio.Event()
        self.conductor = self._start(1)
        nursery.start_soon(self._commit)
        nursery.start_soon(self._tick)

    def _start(self, incarnation: int) -> Conductor:
        numbers = IdAllocator()
        conductor = Conductor(
            Config("cluster", incarnation),
            self.clock,
            OPERATIONS,
            self.engine.read,
            numbers,
            lambda: common.ClusterMap(version=1),
            self.engine.snapshot,
        )
        self.conductor = conductor
        self._apply(conductor.start())
        return conductor

    # ------------------------------------------------------------------ messages

    def new_stream_number(self) -> int:
        """A number for a connection that was never used."""
        self._made += 1
        return self._made

    def receive(self, number: int, message: pb.ClientMessage) -> None:
        """A client's message arrives."""
        if number not in self.streams:
            return  # cut, or from before a restart
        self.messages_left -= 1
        if self.messages_left < 0:
            raise RuntimeError(f"too many messages; this one: {message}")
        if number not in self._greeted:
            self._greeted.add(number)
            self._apply(self.conductor.connect(number, message.hello))
        else:
            self._apply(self.conductor.message(number, message))

    def _apply(self, effects: Effects) -> None:
        for number, events in effects.sends.items():
            if number in self.streams:
                self.streams[number][1](pb.ServerMessage(events=events))
        for number in effects.closes:
            if number in self.streams:
                self.streams.pop(number)[0].break_off("closed by the coordinator")
        self._commits += effects.commits
        if effects.commits:
            self._committing.set()

    async def _commit(self) -> None:
        """One commit after another, each with all that has arrived, reported in their order."""
        while True:
            await self._committing.wait()
            await trio.lowlevel.checkpoint()
            conductor, commits = self.conductor, self._commits
            self._commits, self._committing = [], trio.Event()
            outcomes = self.engine.commit([commit.operation for commit in commits])
            tokens = [commit.token for commit in commits]
            await trio.sleep(self._delay() if self._delay else 0)
            if conductor is self.conductor:
                self._apply(conductor.committed(zip(tokens, outcomes, strict=True)))

    async def _tick(self) -> None:
        while True:
            await trio.sleep(0.25)
            self._apply(self.conductor.tick())

    def set_policy(self, request: pb.SetPolicyRequest, answered: Callable[[pb.SetPolicyReply], None]) -> None:
        """As an operator does; `answered` gets the reply."""
        self._apply(self.conductor.set_policy(request, answered))

    def change_trash(
        self, request: pb.ChangeTrashRequest, answered: Callable[[pb.ChangeTrashReply], None]
    ) -> None:
        """As a user of the command does; `answered` gets the reply."""
        self._apply(self.conductor.change_trash(request, answered))

    # ------------------------------------------------------------------ trouble

    def cut_stream(self, number: int) -> None:
        """Break one connection."""
        found = self.streams.pop(number, None)
        if found is not None:
            found[0].break_off("cut by the test")
            self._apply(self.conductor.disconnect(number))

    def cut(self) -> None:
        """Break every stream; clients reconnect."""
        for number in list(self.streams):
            self.cut_stream(number)

    def restart(self) -> None:
        """A new coordinator process over the same engine: leases, opens and locks are forgotten."""
        for stream, _ in self.streams.values():
            stream.break_off("the coordinator died")
        self.streams.clear()
        self._commits.clear()  # it died before these
        self.conductor.trees.close()
        self._start(self.conductor.context.config.incarnation + 1)

    # ------------------------------------------------------------------ mounts

    @asynccontextmanager
    async def mount(self, policy: MountPolicy | None = None) -> AsyncIterator[SimKernel]:
        """A client with a simulated kernel on top."""
        async with trio.open_nursery() as nursery:
            link = Link(self, nursery, self._delay)
            session = Session(link, ["memory"], Identity("host"), clock=trio.current_time)
            kernel = SimKernel()
            kernel.connection = link
            fs = AnsweringVFS(
                session, self.chunks, kernel, nursery, policy or MountPolicy(), clock=self.clock
            )
            fs.answer_while(lambda: trio.current_time() < session.trusted_until_s, self.chunks.files)
            kernel.fs = fs
            await nursery.start(session.run, kernel.fs.events)
            try:
                yield kernel
            finally:
                if not kernel.crashed:
                    with trio.CancelScope(shield=True):
                        await kernel.fs.close(10)
                        await session.close()
                nursery.cancel_scope.cancel()

    def faults(self) -> list[str]:
        """What the checker finds wrong with the metadata."""
        checker = Checker(2, lambda _node: True)
        while not self.engine.read(lambda txn: checker.step(txn, 1000)):
            pass
        return list(checker.report.problems)
