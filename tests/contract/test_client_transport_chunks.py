"""What every chunk transport does for the chunk client, in memory and over gRPC (TCP and Unix socket)."""

import random
import subprocess
import sys
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.client.chunks import ChunkClient
from cairnfs.client.grpc_transport import GrpcChunkTransport
from cairnfs.client.transport import ChunkTransport
from cairnfs.rpc.v1 import chunks_pb2, common_pb2
from tests.contract.trivial_datanode import CRASH, GARBAGE
from tests.unit.client.memory_datanodes import FakeDatanode, MemoryChunkTransport, PlanningSession

_SCRIPT = Path(__file__).with_name("trivial_datanode.py")
_HOST = "this-host"


@dataclass
class _NetworkedNode(FakeDatanode):
    """Stands for a datanode of another process in the plans."""

    address: str = ""
    unix_socket: str = ""

    @property
    def info(self) -> common_pb2.NodeInfo:
        info = super().info
        info.address, info.unix_socket, info.host_id = self.address, self.unix_socket, _HOST
        return info


class Datanode:
    """A trivial datanode in a process of its own."""

    def __init__(self) -> None:
        self.socket_name = f"cairnfs-test-{uuid.uuid4().hex}"
        self.process = subprocess.Popen(
            [sys.executable, str(_SCRIPT), self.socket_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = f"127.0.0.1:{self.process.stdout.readline().strip()}"

    def stop(self) -> None:
        """End the process, if it has not crashed."""
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()

    def node(self, kind: str) -> _NetworkedNode:
        """How plans name it, so that it is reached by `kind`."""
        if kind == "unix":  # an address where nobody listens: only the socket works
            return _NetworkedNode(1, address="127.0.0.1:1", unix_socket=self.socket_name)
        return _NetworkedNode(1, address=self.address, unix_socket="")


@pytest.fixture(scope="module")
def datanode() -> Iterator[Datanode]:
    """A datanode shared by the tests of this module."""
    node = Datanode()
    yield node
    node.stop()


kinds = pytest.mark.parametrize("kind", ["memory", "tcp", "unix"])


@asynccontextmanager
async def _transport(
    kind: str, request: pytest.FixtureRequest
) -> AsyncGenerator[tuple[ChunkTransport, FakeDatanode]]:
    if kind == "memory":
        node = FakeDatanode(1)
        yield MemoryChunkTransport({1: node}), node
    else:
        networked = request.getfixturevalue("datanode").node(kind)
        async with trio.open_nursery() as nursery:
            yield GrpcChunkTransport(nursery, _HOST), networked


@asynccontextmanager
async def _client(kind: str, request: pytest.FixtureRequest) -> AsyncGenerator[ChunkClient]:
    async with _transport(kind, request) as (transport, node):
        session = PlanningSession({1: node})
        async with ChunkClient.open(session, transport, _HOST) as client:
            yield client


@kinds
async def test_what_was_stored_is_retrieved(kind: str, request: pytest.FixtureRequest) -> None:
    sizes = [1, 1000, limits.FRAME_MAX_BYTES, limits.FRAME_MAX_BYTES + 1, limits.CHUNK_MAX_BYTES]
    chunks = [random.Random(size).randbytes(size) for size in sizes]
    async with _client(kind, request) as client:
        stored = await client.store(chunks)
        assert all(list(each.nodes) == [1] for each in stored)
        for each, data in zip(stored, chunks, strict=True):
            assert await client.retrieve(each.chunk_id, each.length, each.nodes, 0, each.length) == data
        last = stored[-1]
        part = await client.retrieve(last.chunk_id, last.length, [1], 70_001, 2_000_000)
        assert part == chunks[-1][70_001:2_070_001]


@kinds
async def test_many_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    chunks = [random.Random(seed).randbytes(1 + seed * 1000) for seed in range(100)]

    async def round_trip(client: ChunkClient, data: bytes) -> None:
        [stored] = await client.store([data])
        assert await client.retrieve(stored.chunk_id, stored.length, [1], 0, stored.length) == data

    async with _client(kind, request) as client, trio.open_nursery() as nursery:
        for data in chunks:
            nursery.start_soon(round_trip, client, data)


@pytest.mark.announces_warnings("bad replica")
@kinds
async def test_a_missing_chunk(kind: str, request: pytest.FixtureRequest) -> None:
    async with _client(kind, request) as client:
        with pytest.raises(CairnError) as caught:
            await client.retrieve(chunk_id(b"never stored"), 12, [1], 0, 12)
        assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_wrong_name_is_refused_by_the_datanode(kind: str, request: pytest.FixtureRequest) -> None:
    async with _transport(kind, request) as (transport, node):
        stream = transport.open_store(node.info)
        header = chunks_pb2.ChunkHeader(chunk_id=chunk_id(b"x"), length=1, wanted_replicas=1)
        stream.send(ChunkFrame(1, 0, b"y", is_final=True, header=header))
        [ack] = await stream.receive()
        assert ack.error == common_pb2.ERROR_CODE_CORRUPT
        stream.close()


@kinds
async def test_a_closed_stream_is_over(kind: str, request: pytest.FixtureRequest) -> None:
    async with _transport(kind, request) as (transport, node):
        for stream in (transport.open_store(node.info), transport.open_retrieve(node.info)):
            stream.close()
            stream.close()
            with pytest.raises(CairnError) as caught:
                await stream.receive()
            assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


async def test_a_message_that_makes_no_sense_ends_the_stream(request: pytest.FixtureRequest) -> None:
    async with _transport("tcp", request) as (transport, node):
        stream = transport.open_retrieve(node.info)
        stream.send(chunks_pb2.RetrieveChunkRequest(transfer=1, chunk_id=GARBAGE))
        with pytest.raises(CairnError, match="chunk frame"):
            await stream.receive()


async def test_a_datanode_that_crashes_ends_its_streams() -> None:
    datanode = Datanode()
    try:
        async with trio.open_nursery() as nursery:
            transport = GrpcChunkTransport(nursery, _HOST)
            stream = transport.open_retrieve(datanode.node("tcp").info)
            idle = transport.open_store(datanode.node("tcp").info)
            stream.send(chunks_pb2.RetrieveChunkRequest(transfer=1, chunk_id=CRASH))
            for each in (stream, idle):
                with pytest.raises(CairnError) as caught:
                    await each.receive()
                assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
    finally:
        datanode.stop()
