"""Simulated mounts: the real session, chunk client and file system core, below a simulated kernel."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import trio

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id, crc32c
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.client.chunks import ChunkClient
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.client.side_socket import SideConnection
from cairnfs.client.transport import RetrievedFrame
from cairnfs.client.waiting import Bell
from cairnfs.http2.calls import Status
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, metadata_pb2 as pb
from cairnfs.vfs.state import MountPolicy
from tests.doubles.answering import AnsweringVFS
from tests.doubles.sim_kernel import SimKernel
from tests.sim.cluster.clockwork import SimClock
from tests.sim.cluster.network import Endpoint, Network

if TYPE_CHECKING:
    from tests.sim.cluster.machines import Machines

Out = TypeVar("Out")
In = TypeVar("In")

_SESSION: Final = "/cairnfs.rpc.v1.Metadata/Session"
_STORE: Final = "/cairnfs.rpc.v1.Chunks/StoreChunk"
_RETRIEVE: Final = "/cairnfs.rpc.v1.Chunks/RetrieveChunk"


class SimStream(Endpoint, Generic[Out, In]):
    """Does what `cairnfs.client.streams.Stream` does, on the simulated network."""

    def __init__(
        self,
        network: Network,
        hosts: tuple[str, str],
        path: str,
        encode: Callable[[Out], bytes],
        decode: Callable[[bytes], In],
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._arrived: list[In] = []
        self._bell = Bell()
        self._error: CairnError | None = None
        self._connection = network.connect(*hosts, path, self)

    def send(self, item: Out) -> None:
        """See Stream."""
        if self._error is None:
            self._connection.send(self._encode(item))

    async def receive(self) -> list[In]:
        """See Stream."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            await self._bell.wait()
        batch, self._arrived = self._arrived, []
        return batch

    def finish(self) -> None:
        """See Stream."""
        if self._error is None:
            self._connection.finish()

    def close(self) -> None:
        """See Stream."""
        self._connection.close()
        self._end("closed")

    def message(self, data: bytes) -> None:
        """See Endpoint."""
        if self._error is None:
            self._arrived.append(self._decode(data))
            self._bell.ring()

    def over(self, status: Status, detail: str) -> None:
        """See Endpoint."""
        self._end(detail or status.name)

    def _end(self, detail: str) -> None:
        self._error = self._error or CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, detail)
        self._bell.ring()


def _encode_frame(frame: ChunkFrame) -> bytes:
    frame.crc32c = crc32c(frame.data)
    return encode_chunk_data(frame)


def _decode_frame(message: bytes) -> RetrievedFrame:
    frame = decode_chunk_data(message)
    return RetrievedFrame(
        transfer=frame.transfer,
        offset=frame.offset,
        data=frame.data,
        is_final=frame.is_final,
        intact=crc32c(frame.data) == frame.crc32c,
        error=frame.error,
        detail=frame.detail,
    )


class SimTransport:
    """Dials coordinators and datanodes from one host."""

    def __init__(self, network: Network, host: str) -> None:
        self._network = network
        self._host = host

    def connect(self, address: str) -> SimStream[pb.ClientMessage, pb.ServerMessage]:
        """See MetadataTransport."""
        return SimStream(
            self._network,
            (self._host, address.partition(":")[0]),
            _SESSION,
            pb.ClientMessage.SerializeToString,
            pb.ServerMessage.FromString,
        )

    def open_store(self, node: common_pb2.NodeInfo) -> SimStream[ChunkFrame, chunks_pb2.ChunkDataAck]:
        """See ChunkTransport."""
        hosts = (self._host, node.address.partition(":")[0])
        return SimStream(self._network, hosts, _STORE, _encode_frame, chunks_pb2.ChunkDataAck.FromString)

    def open_retrieve(
        self, node: common_pb2.NodeInfo
    ) -> SimStream[chunks_pb2.RetrieveChunkRequest, RetrievedFrame]:
        """See ChunkTransport."""
        hosts = (self._host, node.address.partition(":")[0])
        encode = chunks_pb2.RetrieveChunkRequest.SerializeToString
        return SimStream(self._network, hosts, _RETRIEVE, encode, _decode_frame)


async def _hash_here(data: bytes) -> bytes:
    await trio.lowlevel.checkpoint()
    return chunk_id(data)


async def _no_side_socket(_unix_socket: str, /) -> SideConnection:
    raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "not on this host")


async def _in_line(work: Callable[[], Any]) -> Any:
    await trio.lowlevel.checkpoint()
    return work()


class SimMount:
    """One mount of a client host, from mount to unmount or crash."""

    def __init__(self, machines: "Machines", host: str, rate: float) -> None:
        self.host = host
        self.kernel = SimKernel()
        self.clock = SimClock(rate, machines.rng.uniform(0, 1_000))
        transport = SimTransport(machines.network, host)
        self.session = Session(transport, machines.addresses, Identity(host), clock=self.clock.monotonic)
        self._transport = transport
        self._machines = machines
        self._scope = trio.CancelScope()
        self.calls: list[trio.CancelScope] = []  # of programs, under way
        self._ended = trio.Event()
        self.crashed = False

    @property
    def contact_s(self) -> float:
        """When it last heard of its coordinator, on the timeline."""
        return self.clock.true_s(self.session._core.contact_s)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be mounted until `unmount` or `crash`; started after the first welcome."""
        try:
            with self._scope:
                async with (
                    ChunkClient.open(
                        self.session,
                        self._transport,
                        self.host,
                        hasher=_hash_here,
                        dialer=_no_side_socket,
                        in_thread=_in_line,
                    ) as chunks,
                    trio.open_nursery() as nursery,
                ):
                    fs = AnsweringVFS(
                        self.session, chunks, self.kernel, nursery, MountPolicy(), clock=self.clock
                    )
                    fs.answer_while(lambda: self.clock.monotonic() < self.session.trusted_until_s, [])
                    self.kernel.fs = fs
                    await nursery.start(self.session.run, fs.events)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._ended.set()

    async def unmount(self) -> None:
        """Save everything and say goodbye."""
        with trio.CancelScope(deadline=trio.current_time() + limits.FUSE_FLUSH_DEADLINE_S):
            await self.kernel.fs.close(limits.FUSE_FLUSH_DEADLINE_S)
            await self.session.close()
        self._scope.cancel()
        await self._ended.wait()

    def crash(self) -> None:
        """The process, or its machine, is gone."""
        self.crashed = self.kernel.crashed = True
        self._machines.network.died(self.host)
        for scope in [*self.calls, self._scope]:
            scope.cancel()
