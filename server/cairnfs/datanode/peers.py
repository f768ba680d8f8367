"""Replication streams to other datanodes: one for each peer, opened when needed and again after a failure."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol, TypeVar, cast

from google.protobuf.message import DecodeError, Message

from cairnfs.base import limits
from cairnfs.base.clock import Clock
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.bulk.codec import ChunkFrame, encode_chunk_data
from cairnfs.datanode import replication
from cairnfs.datanode.membership import Membership
from cairnfs.datanode.peer_connection import UNIX, PeerCall, PeerConnection
from cairnfs.datanode.shared_memory import SharedMemory
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)

CHUNKS: Final = "/cairnfs.rpc.v1.Chunks/"


class ReplicaListener(Protocol):
    """Told what a replica answers; on the event loop, never from within a call to `Peers`."""

    def replica_answered(self, node: int, ack: chunks_pb2.ChunkDataAck) -> None:
        """An acknowledgement of this transfer."""
        ...

    def replica_failed(self, node: int, detail: str) -> None:
        """The replica is out of this transfer."""
        ...


def target_of(info: common_pb2.NodeInfo, own_host_id: str) -> str:
    """Where a node is reached: its Unix socket from the same host, otherwise TCP."""
    if info.unix_socket and info.host_id == own_host_id:
        return UNIX + info.unix_socket
    return info.address


M = TypeVar("M", bound=Message)


def _parsed(kind: type[M], message: bytes) -> M:
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise CairnError(
            common_pb2.ERROR_CODE_INVALID, f"the peer sent a malformed message: {error}"
        ) from None


class PeerLink:
    """The stream to one peer, and the transfers on it."""

    def __init__(self, membership: Membership, info: common_pb2.NodeInfo, clock: Clock) -> None:
        self.info = info
        self._membership = membership
        self._clock = clock
        self._sender = replication.ReplicationSender()
        self._outgoing: deque[ChunkFrame] = deque()  # what the peer does not take at once
        self._call: PeerCall | None = None
        self._wake = asyncio.Event()
        self._wanted = asyncio.Event()
        self._reset = asyncio.Event()
        self._down_until_s = 0.0
        self._shared: SharedMemory | None = None
        self._task = asyncio.create_task(self._run(), name=f"peer {info.node}")

    @property
    def store_s(self) -> float:
        """Median time that the peer took for a small chunk, seconds; 0: not known."""
        return self._sender.store_s(self._clock.monotonic())

    def begin(self, listener: ReplicaListener, header: chunks_pb2.ChunkHeader) -> None:
        """Open a transfer; it fails at once within PEER_RETRY_S after the stream failed."""
        now = self._clock.monotonic()
        if now < self._down_until_s:
            self._fail_soon(listener, "failed a moment ago")
            return
        self._sender.begin(listener, header, now)
        self._wanted.set()

    def push(self, listener: ReplicaListener, frame: ChunkFrame) -> None:
        """Send the next frame of a transfer; ignored when it is over."""
        self._perform(self._sender.push(listener, frame, self._clock.monotonic()), soon=True)

    def cancel(self, listener: ReplicaListener) -> None:
        """End a transfer; the listener hears no more of it."""
        self._perform(self._sender.cancel(listener), soon=True)

    async def close(self) -> None:
        """Close the stream; the listeners of open transfers are told."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._perform(self._sender.on_broken("the stream was closed"))

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                detail = await self._session()
            except CairnError as error:
                detail = str(error)
            _log.info("replication stream ended", peer=self.info.node, detail=detail)
            self._down_until_s = self._clock.monotonic() + limits.PEER_RETRY_S
            self._perform(self._sender.on_broken(detail))

    async def _session(self) -> str:
        """Open and serve the stream; returns (or raises) why it ended."""
        self._outgoing.clear()
        self._reset.clear()
        target = target_of(self.info, self._membership.host_id)
        async with PeerConnection.connect(target) as connection:
            reply = await self._open(connection)
            call = self._call = connection.open(CHUNKS + "ChunkDataStream")
            now = self._clock.monotonic()
            self._perform(self._sender.on_open(reply.replication_session, reply.ready_for_next, now))
            parts = (self._write(call), self._read(call), self._watch())
            tasks = [asyncio.create_task(part) for part in parts]
            try:
                self._shared = await SharedMemory.open(self.info, self._membership.host_id)
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                return done.pop().result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                self._call = None
                if self._shared is not None:
                    self._shared.close()
                    self._shared = None

    async def _open(self, connection: PeerConnection) -> chunks_pb2.ReplicateChunkReply:
        request = chunks_pb2.ReplicateChunkRequest(
            source_node=self._membership.node,
            cluster_id=self._membership.cluster_id,
            window_bytes=limits.REPLICATION_WINDOW_BYTES,
        )
        try:
            async with asyncio.timeout(limits.REPLICA_PROGRESS_S):
                answer = await connection.ask(CHUNKS + "ReplicateChunk", request.SerializeToString())
        except TimeoutError:
            raise CairnError(common_pb2.ERROR_CODE_TIMED_OUT, "no answer in time") from None
        reply = _parsed(chunks_pb2.ReplicateChunkReply, answer)
        if not reply.accepted:
            raise CairnError(reply.error, reply.detail)
        return reply

    async def _write(self, call: PeerCall) -> str:
        while True:
            while self._outgoing:
                await call.write(encode_chunk_data(self._outgoing[0]))
                self._outgoing.popleft()  # only now: what comes meanwhile goes behind it
            self._wake.clear()
            await self._wake.wait()

    async def _read(self, call: PeerCall) -> str:
        while (message := await call.read()) is not None:
            ack = _parsed(chunks_pb2.ChunkDataAck, message)
            if self._shared is not None:
                self._shared.buffer.acknowledged(ack)
            self._perform(self._sender.on_ack(ack, self._clock.monotonic()))
        return "the peer ended the stream"

    async def _watch(self) -> str:
        while not self._reset.is_set():
            await asyncio.sleep(limits.REPLICA_PROGRESS_S / 10)
            self._perform(self._sender.on_tick(self._clock.monotonic()))
        return "no progress"

    def _perform(self, effects: Iterable[replication.Effect], *, soon: bool = False) -> None:
        for effect in effects:
            match effect:
                case replication.Send(frame):
                    self._send(frame if self._shared is None else self._shared.buffer.place(frame))
                case replication.Answered(key, ack):
                    cast(ReplicaListener, key).replica_answered(self.info.node, ack)
                case replication.Failed(key, detail) if soon:
                    self._fail_soon(cast(ReplicaListener, key), detail)
                case replication.Failed(key, detail):
                    cast(ReplicaListener, key).replica_failed(self.info.node, detail)
                case replication.Reset(detail):
                    _log.warning("replica dropped", peer=self.info.node, detail=detail)
                    self._down_until_s = self._clock.monotonic() + limits.PEER_RETRY_S
                    self._reset.set()

    def _send(self, frame: ChunkFrame) -> None:
        """At once when the peer takes it: then no task has to be woken for it."""
        if self._outgoing or self._call is None or not self._call.write_now(encode_chunk_data(frame)):
            self._outgoing.append(frame)
            self._wake.set()

    def _fail_soon(self, listener: ReplicaListener, detail: str) -> None:
        asyncio.get_running_loop().call_soon(listener.replica_failed, self.info.node, detail)


class Peers:
    """The links to all peers, by node number."""

    def __init__(self, membership: Membership, clock: Clock) -> None:
        self._membership = membership
        self._clock = clock
        self._links: dict[int, PeerLink] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def begin(self, node: int, listener: ReplicaListener, header: chunks_pb2.ChunkHeader) -> None:
        """Open a transfer to a node; a node that nobody knows fails it."""
        link = self._link(node)
        if link is None:
            loop = asyncio.get_running_loop()
            loop.call_soon(listener.replica_failed, node, "is not in the cluster map")
        else:
            link.begin(listener, header)

    def push(self, node: int, listener: ReplicaListener, frame: ChunkFrame) -> None:
        """Send the next frame of a transfer; ignored when it is over."""
        if (link := self._links.get(node)) is not None:
            link.push(listener, frame)

    def cancel(self, node: int, listener: ReplicaListener) -> None:
        """End a transfer."""
        if (link := self._links.get(node)) is not None:
            link.cancel(listener)

    def speeds(self) -> list[tuple[int, float]]:
        """How many seconds each node lately took to store a small chunk, by its number."""
        return [(node, seconds) for node, link in self._links.items() if (seconds := link.store_s)]

    def _link(self, node: int) -> PeerLink | None:
        info = self._membership.peer(node)
        link = self._links.get(node)
        if link is not None and (info is None or not _same_place(link.info, info)):
            del self._links[node]
            task = asyncio.create_task(link.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            link = None
        if link is None and info is not None:
            link = self._links[node] = PeerLink(self._membership, info, self._clock)
        return link

    async def close(self) -> None:
        """Close all streams."""
        links = list(self._links.values())
        self._links.clear()
        await asyncio.gather(*(link.close() for link in links), *self._closing)


def _same_place(one: common_pb2.NodeInfo, other: common_pb2.NodeInfo) -> bool:
    return (one.uuid, one.address, one.unix_socket, one.host_id) == (
        other.uuid,
        other.address,
        other.unix_socket,
        other.host_id,
    )
