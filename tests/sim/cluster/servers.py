"""Simulated coordinators and datanodes: the real ones, on simulated machines.

`Coordinator` and `Datanode` are what `cairnfs` runs; `seams` gives them sockets, threads and clocks of ours.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.settings import CoordinatorSettings, DatanodeSettings
from cairnfs.coordinator.assembly import Coordinator
from cairnfs.datanode.node import Datanode
from cairnfs.datanode.store.interface import ChunkStore, SmallChunk
from cairnfs.engine.interface import EngineError, EngineLocked, EngineUnreachable
from cairnfs.http2.calls import Status
from cairnfs.rpc.v1 import common_pb2, nodes_pb2
from cairnfs.serving.server import Opener
from tests.sim.cluster.clockwork import Process, current_process
from tests.sim.cluster.disks import SimDisk
from tests.sim.cluster.engines import SharedEngine
from tests.sim.cluster.network import Endpoint

if TYPE_CHECKING:
    from tests.sim.cluster.machines import Machines

_NODES: Final = "/cairnfs.rpc.v1.Nodes/"
_STAND_BY_S: Final = 0.5
DUPLICATED_SHARE: Final = 0.05  # of calls that have one answer


class SimServer:
    """Does what `cairnfs.serving.server.Server` does, on the simulated network."""

    def __init__(self, methods: Mapping[str, Opener]) -> None:
        self._methods = methods
        self._process = current_process()

    def bind(self, _listen: str) -> str:
        """See Server."""
        return f"{self._process.name}:1"

    def bind_abstract(self, _name: str) -> None:
        """See Server."""

    async def start(self) -> None:
        """See Server."""
        machines_of(self._process).network.listen(self._process, self._methods)

    async def stop(self) -> None:
        """See Server."""
        machines_of(self._process).network.died(self._process.name)


class SimSideSocket:
    """Nobody is on the same host."""

    def __init__(self, *_: object) -> None:
        pass

    def start(self, _name: str) -> None:
        """See SideSocket."""

    async def close(self) -> None:
        """See SideSocket."""


class SimDiskWork:
    """Does what `cairnfs.datanode.disk.Disk` does, without threads."""

    def __init__(self, store: ChunkStore) -> None:
        self.store = store
        self._process = current_process()
        self._waiting: deque[tuple[SmallChunk, Callable[[Exception | None], None]]] = deque()
        self._storing = False

    async def run(self, work: Callable[..., Any], *arguments: object) -> Any:
        """See Disk."""
        return await self._process.work(lambda: work(*arguments))

    def store_small(self, chunk: SmallChunk, done: Callable[[Exception | None], None]) -> None:
        """See Disk."""
        self._waiting.append((chunk, done))
        if not self._storing:
            self._store_next()

    def _store_next(self) -> None:
        batch: list[tuple[SmallChunk, Callable[[Exception | None], None]]] = []
        size = 0
        while self._waiting and size < limits.STORE_BATCH_MAX_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1][0].data)
        self._storing = bool(batch)
        if batch:
            stored = self._process.work(lambda: self.store.store_batch([chunk for chunk, _ in batch]))
            stored.add_done_callback(lambda outcome: self._stored(batch, outcome))

    def _stored(
        self,
        batch: Sequence[tuple[SmallChunk, Callable[[Exception | None], None]]],
        outcome: "asyncio.Future[Any]",
    ) -> None:
        problem = outcome.exception()
        outcomes = [problem] * len(batch) if isinstance(problem, Exception) else outcome.result()
        self._store_next()
        for (_, done), one in zip(batch, outcomes, strict=True):
            done(one)

    def close(self) -> None:
        """See Disk."""


class _Exchange(Endpoint):
    """One call of a server process: what comes back, to be awaited."""

    def __init__(self, process: Process, host: str, path: str) -> None:
        self._process = process
        self._arrived: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._over = False
        self._error: str | None = None
        self.connection = machines_of(process).network.connect(process.name, host, path, self)

    def message(self, data: bytes) -> None:
        """See Endpoint."""
        self._process.loop.call_soon(self._take, data)

    def _take(self, data: bytes) -> None:
        self._arrived.append(data)
        self._changed.set()

    def over(self, status: Status, detail: str) -> None:
        """See Endpoint."""
        self._process.loop.call_soon(self._end, status, detail)

    def _end(self, status: Status, detail: str) -> None:
        self._over = True
        self._error = None if status is Status.OK else detail
        self._changed.set()

    # ------------------------------------------------------------------ as PeerCall

    async def write(self, message: bytes) -> None:
        """See PeerCall."""
        if self._over:
            raise self._failure()
        self.connection.send(message)

    def write_now(self, message: bytes) -> bool:
        """See PeerCall."""
        if not self._over:
            self.connection.send(message)
        return not self._over

    async def read(self) -> bytes | None:
        """See PeerCall."""
        while not self._arrived:
            if self._over:
                if self._error is None:
                    return None
                raise self._failure()
            self._changed.clear()
            await self._changed.wait()
        return self._arrived.popleft()

    def _failure(self) -> CairnError:
        return CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, self._error or "the peer ended the call")


class SimPeerConnection:
    """Does what `cairnfs.datanode.peer_connection.PeerConnection` does."""

    def __init__(self, target: str) -> None:
        self._host = target.partition(":")[0]
        self._calls: list[_Exchange] = []

    @classmethod
    @asynccontextmanager
    async def connect(cls, target: str) -> AsyncGenerator["SimPeerConnection"]:
        """See PeerConnection; that nobody is there is learned from the first call."""
        connection = cls(target)
        try:
            yield connection
        finally:
            for call in connection._calls:
                call.connection.close()

    def open(self, path: str) -> _Exchange:
        """See PeerConnection."""
        call = _Exchange(current_process(), self._host, path)
        self._calls.append(call)
        return call

    async def ask(self, path: str, request: bytes) -> bytes:
        """See PeerConnection."""
        call = self.open(path)
        await call.write(request)
        answer = await call.read()
        if answer is None:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "the peer gave no answer")
        return answer


def _call_failed(detail: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=detail
    )


class SimCoordinators:
    """Does what `cairnfs.datanode.coordinators.Coordinators` does; now and then a request arrives twice."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._current = 0
        self._process = current_process()

    @property
    def address(self) -> str:
        """See Coordinators."""
        return self._addresses[self._current]

    async def register(self, request: nodes_pb2.RegisterRequest) -> nodes_pb2.RegisterReply:
        """See Coordinators."""
        answer = await self._ask("Register", [request.SerializeToString()], limits.RPC_DEADLINE_S)
        return nodes_pb2.RegisterReply.FromString(answer)

    async def heartbeat(
        self, request: nodes_pb2.HeartbeatRequest, deadline_s: float
    ) -> nodes_pb2.HeartbeatReply:
        """See Coordinators."""
        answer = await self._ask("Heartbeat", [request.SerializeToString()], deadline_s)
        return nodes_pb2.HeartbeatReply.FromString(answer)

    async def report_chunks(self, pages: AsyncIterator[nodes_pb2.ChunkReport]) -> nodes_pb2.ChunkReportReply:
        """See Coordinators."""
        listed = [page.SerializeToString() async for page in pages]
        answer = await self._ask("ReportChunks", listed, None)
        return nodes_pb2.ChunkReportReply.FromString(answer)

    async def _ask(self, method: str, requests: Sequence[bytes], deadline_s: float | None) -> bytes:
        if self._process.rng.random() < DUPLICATED_SHARE:
            self._send(method, requests)
        call = self._send(method, requests)
        try:
            async with asyncio.timeout(deadline_s):
                answer = await call.read()
        except TimeoutError:
            raise _call_failed("no answer in time") from None
        except CairnError as error:
            raise _call_failed(error.detail) from None
        finally:
            call.connection.close()
        if answer is None:
            raise _call_failed("ended without an answer")
        return answer

    def _send(self, method: str, requests: Sequence[bytes]) -> _Exchange:
        call = _Exchange(self._process, self.address.partition(":")[0], _NODES + method)
        for request in requests:
            call.connection.send(request)
        call.connection.finish()
        return call

    async def use_next(self) -> bool:
        """See Coordinators."""
        self._current = (self._current + 1) % len(self._addresses)
        return self._current == 0

    async def close(self) -> None:
        """See Coordinators."""


def machines_of(process: Process) -> "Machines":
    """The cluster that a process belongs to."""
    machines: Machines = process.machines  # type: ignore[attr-defined]
    return machines


# ---------------------------------------------------------------------- processes


class CoordinatorProcess:
    """Stands by, leads, and ends; a service manager starts the next one."""

    def __init__(self, process: Process, engine: SharedEngine, settings: CoordinatorSettings) -> None:
        self.process = process
        self.engine = engine
        self.coordinator: Coordinator | None = None
        self.ended = False
        self._settings = settings

    def start(self) -> None:
        """Begin; `ended` tells when it is over by itself."""
        with self.process.entered():
            self.process.loop.create_task(self._run(), name=self.process.name)

    @property
    def serving(self) -> bool:
        """Whether it leads, as far as it knows, and answers."""
        alive = not (self.process.dead or self.ended or self.coordinator is None)
        return alive and self.process.clock.monotonic() < self.engine.leads_until_s

    async def _run(self) -> None:
        try:
            await self._lead()
            self.coordinator = Coordinator(self._settings, self.engine, self.process.clock)
            await self.coordinator.start()
            await self.coordinator.run()
        except EngineError:
            pass
        finally:
            if not self.process.dead:
                self.ended = True

    async def _lead(self) -> None:
        while True:
            try:
                self.engine.acquire_leadership(self.process.name, self._settings.lease_s)
            except (EngineLocked, EngineUnreachable):
                await asyncio.sleep(min(_STAND_BY_S, self._settings.lease_s / 10))
            else:
                return


class DatanodeProcess:
    """One datanode on its disk."""

    def __init__(self, process: Process, disk: SimDisk, settings: DatanodeSettings) -> None:
        self.process = process
        self.disk = disk
        self.node: Datanode | None = None
        self.ended = False
        self._settings = settings

    def start(self) -> None:
        """Begin; `ended` tells when it is over by itself."""
        self.process.machine = self.disk
        with self.process.entered():
            self.process.loop.create_task(self._run(), name=self.process.name)

    async def _run(self) -> None:
        try:
            self.node = Datanode(self._settings)
            self.node.membership.host_id = self.process.name
            await self.node.start()
            await self.node.run()
        except CairnError:
            pass  # its disk cannot be used at the moment
        finally:
            if not self.process.dead:
                self.ended = True

    def release(self) -> None:
        """Close what the process had open."""
        if self.node is not None:
            self.node._directories.close()


def datanode_settings(root: Path, coordinators: Sequence[str]) -> DatanodeSettings:
    """What a simulated datanode is told."""
    return DatanodeSettings(
        data=root, coordinators=",".join(coordinators), reserve_bytes=0, heartbeat_s=1.0, insecure=True
    )


def new_random(rng: Random) -> Callable[[], Random]:
    """For code that makes generators of its own."""
    return lambda: Random(rng.getrandbits(64))
