"""Storing through memory shared with a datanode of this host, over doubles and a clock that jumps."""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.bulk.shared import SharedBuffers
from cairnfs.client.chunks import ChunkClient
from cairnfs.rpc.v1 import chunks_pb2, common_pb2
from tests.unit.client.memory_datanodes import (
    FakeDatanode,
    MemoryChunkTransport,
    PlanningSession,
    StoreStream,
)

HERE = "here"


@dataclass
class SharingNode(FakeDatanode):
    """A fake datanode of this host that takes buffers."""

    host_id: str = HERE
    buffers: SharedBuffers = field(default_factory=SharedBuffers)
    refuses: bool = False
    silent: bool = False
    shared_frames: int = 0
    open_connections: int = 0

    @property
    def info(self) -> common_pb2.NodeInfo:
        info = super().info
        info.unix_socket = f"side-{self.number}"
        return info

    def _on_frame(self, stream: StoreStream, frame: ChunkFrame) -> None:
        self.shared_frames += frame.shared is not None
        self.buffers.resolve(frame)
        super()._on_frame(stream, frame)


@dataclass
class Connection:
    """A side connection to a `SharingNode`."""

    node: SharingNode
    name: str = ""
    closed: bool = False

    async def ask(
        self, request: chunks_pb2.SideRequest, sent: Sequence[int] = ()
    ) -> tuple[chunks_pb2.SideReply, list[int]]:
        if self.node.silent:
            await trio.sleep_forever()
        if self.node.refuses:
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "as the test wants it")
        self.name = self.node.buffers.add(sent[0], request.share.size)
        return chunks_pb2.SideReply(share=chunks_pb2.ShareReply(buffer=self.name)), []

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.node.open_connections -= 1
            self.node.buffers.remove(self.name)


class Cluster:
    """Sharing datanodes 1 to 3, a session and a chunk client."""

    def __init__(self) -> None:
        self.nodes = {number: SharingNode(number) for number in (1, 2, 3)}
        self.session = PlanningSession(dict(self.nodes))

    async def dial(self, unix_socket: str, /) -> Connection:
        node = self.nodes[int(unix_socket.partition("-")[2])]
        if not node.reachable:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "dead")
        node.open_connections += 1
        return Connection(node)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[ChunkClient]:
        transport = MemoryChunkTransport(dict(self.nodes))
        async with ChunkClient.open(self.session, transport, HERE, _hash_at_once, self.dial) as client:
            yield client


async def _hash_at_once(data: bytes) -> bytes:
    return chunk_id(data)


@pytest.fixture
def cluster() -> Cluster:
    """Three datanodes on this host."""
    return Cluster()


def _data(size: int = limits.CHUNK_MAX_BYTES, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def _store(client: ChunkClient, data: bytes) -> list[int]:
    [stored] = await client.store([data])
    await wait_all_tasks_blocked()  # so that the buffer is there for the next one
    return list(stored.nodes)


async def test_frames_travel_without_their_bytes(autojump_clock: MockClock, cluster: Cluster) -> None:
    async with cluster.client() as client:
        await _store(client, _data(1000))
        for seed in range(10):
            assert await _store(client, _data(seed=seed)) == [1, 2]
    node = cluster.nodes[1]
    assert node.shared_frames == 10 * limits.CHUNK_MAX_BYTES // limits.FRAME_MAX_BYTES
    assert all(chunk_id(data) == name for name, data in node.chunks.items())
    assert node.open_connections == 0


async def test_acknowledgements_make_room_again(autojump_clock: MockClock, cluster: Cluster) -> None:
    node = cluster.nodes[1]
    async with cluster.client() as client:
        await _store(client, _data(1000))
        node.hold_acks = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.store, [_data(seed=seed) for seed in range(6)])
            await wait_all_tasks_blocked()
            assert node.shared_frames == limits.STORE_WINDOW_BYTES // limits.FRAME_MAX_BYTES
            while node.acknowledge():
                await wait_all_tasks_blocked()
    assert node.shared_frames == 6 * limits.CHUNK_MAX_BYTES // limits.FRAME_MAX_BYTES


@pytest.mark.parametrize("fault", ["refuses", "silent"])
async def test_without_shared_memory_the_bytes_travel(
    autojump_clock: MockClock, cluster: Cluster, fault: str
) -> None:
    setattr(cluster.nodes[1], fault, True)
    async with cluster.client() as client:
        for seed in range(3):
            assert await _store(client, _data(seed=seed)) == [1, 2]
            await trio.sleep(limits.HEDGE_MAX_S)
    assert cluster.nodes[1].shared_frames == 0
    assert cluster.nodes[1].open_connections == 0


async def test_a_new_stream_shares_a_new_buffer(autojump_clock: MockClock, cluster: Cluster) -> None:
    node = cluster.nodes[1]
    async with cluster.client() as client:
        await _store(client, _data(1000))
        node.kill()
        await wait_all_tasks_blocked()
        assert node.open_connections == 0
        node.reachable = True
        await _store(client, _data(1000, seed=2))
        assert await _store(client, _data()) == [1, 2]
        assert node.open_connections == 1
    assert node.shared_frames == limits.CHUNK_MAX_BYTES // limits.FRAME_MAX_BYTES
