"""Reads from files of this host, over side sockets in memory and a clock that jumps."""

import os
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cairnfs.base import limits
from cairnfs.base.checksums import block_checksums, chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.client.chunks import ChunkClient
from cairnfs.rpc.v1 import chunks_pb2, common_pb2
from tests.unit.client.memory_datanodes import FakeDatanode, MemoryChunkTransport, PlanningSession

HERE = "here"


@dataclass
class LocalNode(FakeDatanode):
    """A fake datanode whose chunks are also in files, one each, and that answers on a side socket."""

    host_id: str = HERE
    directory: Path = Path()
    side: "common_pb2.ErrorCode.ValueType" = common_pb2.ERROR_CODE_OK  # why dialling fails
    side_delay_s: float = 0.0
    ended: bool = False  # connections so far are dead
    dialled: int = 0
    located: list[list[bytes]] = field(default_factory=list[list[bytes]])

    @property
    def info(self) -> common_pb2.NodeInfo:
        info = super().info
        info.unix_socket = f"side-{self.number}"
        return info

    def path(self, name: bytes) -> Path:
        return self.directory / f"{self.number}-{name.hex()}"

    def put(self, data: bytes) -> bytes:
        name = chunk_id(data)
        self.chunks[name] = data
        self.path(name).write_bytes(data)
        return name

    def locate(self, request: chunks_pb2.LocateRequest) -> tuple[chunks_pb2.LocateReply, list[int]]:
        self.located.append(list(request.chunk_ids))
        reply = chunks_pb2.LocateReply()
        received: list[int] = []
        for name in request.chunk_ids:
            if (data := self.chunks.get(name)) is None:
                reply.places.add(chunk_id=name, error=common_pb2.ERROR_CODE_NOT_FOUND)
                continue
            received.append(os.open(self.path(name), os.O_RDONLY))
            reply.places.add(
                chunk_id=name,
                length=len(data),
                descriptor=len(received),
                block_checksums=block_checksums(data),
            )
        return reply, received


@dataclass
class Connection:
    """One connection to a `LocalNode`."""

    node: LocalNode
    closed: bool = False
    ended: bool = False

    async def ask(
        self, request: chunks_pb2.SideRequest, sent: Sequence[int] = ()
    ) -> tuple[chunks_pb2.SideReply, list[int]]:
        assert not sent
        await trio.sleep(self.node.side_delay_s)
        if self.node.ended and not self.ended:
            self.ended = True
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "ended by the datanode")
        reply, received = self.node.locate(request.locate)
        return chunks_pb2.SideReply(locate=reply), received

    def close(self) -> None:
        self.closed = True


async def _at_once(work: Callable[[], bytes | None]) -> bytes | None:
    return work()


class Cluster:
    """Datanodes 1 to 3 of this host, a session and a chunk client."""

    def __init__(self, directory: Path) -> None:
        self.nodes = {number: LocalNode(number, directory=directory) for number in (1, 2, 3)}
        self.session = PlanningSession(dict(self.nodes))

    async def dial(self, unix_socket: str, /) -> Connection:
        node = self.nodes[int(unix_socket.partition("-")[2])]
        node.dialled += 1
        if node.side:
            raise CairnError(node.side, "as the test wants it")
        node.ended = False
        return Connection(node)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[ChunkClient]:
        transport = MemoryChunkTransport(dict(self.nodes))
        async with ChunkClient.open(
            self.session, transport, HERE, _hash_at_once, self.dial, _at_once
        ) as client:
            yield client

    def put(self, data: bytes, *numbers: int) -> bytes:
        for number in numbers:
            self.nodes[number].put(data)
        return chunk_id(data)

    @property
    def asked(self) -> int:
        """Requests that came by RetrieveChunk."""
        return sum(node.asked for node in self.nodes.values())

    @property
    def questions(self) -> list[list[bytes]]:
        return [question for node in self.nodes.values() for question in node.located]


async def _hash_at_once(data: bytes) -> bytes:
    return chunk_id(data)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    """Three datanodes on this host."""
    return Cluster(tmp_path)


def _data(size: int = 1000, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def _flip(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("size", [1, 65_536, 65_537, 300_000, limits.CHUNK_MAX_BYTES])
async def test_any_range_is_read_without_the_datanode(
    autojump_clock: MockClock, cluster: Cluster, size: int
) -> None:
    data = _data(size)
    name = cluster.put(data, 1, 2)
    rng = random.Random(size)
    async with cluster.client() as client:
        assert await client.retrieve(name, size, [1, 2], 0, size) == data
        for _ in range(20):
            start = rng.randrange(size)
            length = rng.randint(1, size - start)
            assert await client.retrieve(name, size, [1, 2], start, length) == data[start : start + length]
    assert cluster.asked == 0
    assert cluster.questions == [[name]], "it is located once"


async def test_those_who_ask_together_share_a_question(autojump_clock: MockClock, cluster: Cluster) -> None:
    chunks = {cluster.put(data, 1): data for data in (_data(seed=seed) for seed in range(100))}
    cluster.nodes[1].side_delay_s = 0.01

    async def read(client: ChunkClient, name: bytes) -> None:
        assert await client.retrieve(name, 1000, [1], 0, 1000) == chunks[name]

    async with cluster.client() as client, trio.open_nursery() as nursery:
        for name in chunks:
            nursery.start_soon(read, client, name)
    assert [len(question) for question in cluster.questions] == [64, 36]
    assert cluster.asked == 0


async def test_nodes_of_other_hosts_are_not_dialled(autojump_clock: MockClock, cluster: Cluster) -> None:
    name = cluster.put(_data(), 1)
    cluster.nodes[1].host_id = "elsewhere"
    async with cluster.client() as client:
        assert await client.retrieve(name, 1000, [1], 0, 1000) == _data()
    assert cluster.nodes[1].dialled == 0
    assert cluster.asked == 1


@pytest.mark.parametrize("error", [common_pb2.ERROR_CODE_UNAVAILABLE, common_pb2.ERROR_CODE_ACCESS])
async def test_a_side_socket_that_cannot_be_used_is_left_alone_for_a_while(
    autojump_clock: MockClock, cluster: Cluster, error: "common_pb2.ErrorCode.ValueType"
) -> None:
    name = cluster.put(_data(), 1)
    cluster.nodes[1].side = error
    async with cluster.client() as client:
        for _ in range(5):
            assert await client.retrieve(name, 1000, [1], 0, 1000) == _data()
        assert cluster.nodes[1].dialled == 1
        cluster.nodes[1].side = common_pb2.ERROR_CODE_OK
        await trio.sleep(limits.LOCAL_RETRY_S)
        assert await client.retrieve(name, 1000, [1], 0, 1000) == _data()
    assert cluster.asked == 5
    assert cluster.nodes[1].located


async def test_a_restarted_datanode_is_dialled_again_at_once(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    first, second = cluster.put(_data(seed=1), 1), cluster.put(_data(seed=2), 1)
    async with cluster.client() as client:
        await client.retrieve(first, 1000, [1], 0, 1000)
        cluster.nodes[1].ended = True
        assert await client.retrieve(second, 1000, [1], 0, 1000) == _data(seed=2)
    assert cluster.nodes[1].dialled == 2
    assert cluster.asked == 0


async def test_held_descriptors_serve_while_the_datanode_is_dead(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    data = _data(200_000)
    name = cluster.put(data, 1)
    async with cluster.client() as client:
        await client.retrieve(name, len(data), [1], 0, 10)
        cluster.nodes[1].kill()
        cluster.nodes[1].path(name).unlink()
        assert await client.retrieve(name, len(data), [1], 100_000, 5_000) == data[100_000:105_000]


async def test_another_replica_of_this_host_is_tried(autojump_clock: MockClock, cluster: Cluster) -> None:
    name = cluster.put(_data(), 2)
    async with cluster.client() as client:
        for _ in range(5):
            assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == _data()
    assert cluster.asked == 0


@pytest.mark.announces_warnings("bad replica")
@pytest.mark.parametrize("size", [1_000, 1_000_000])
async def test_a_flipped_bit_is_read_around_and_reported(
    autojump_clock: MockClock, cluster: Cluster, size: int
) -> None:
    data = _data(size)
    name = cluster.put(data, 1, 2)
    for number in (1, 2):
        cluster.nodes[number].path(name).write_bytes(data)
    _flip(cluster.nodes[1].path(name), size // 2)
    async with cluster.client() as client:
        for _ in range(10):
            assert await client.retrieve(name, size, [1, 2], 0, size) == data
            await trio.sleep(limits.LOCAL_FILE_MAX_S + 1)
        await trio.testing.wait_all_tasks_blocked()
    assert cluster.session.reports
    assert set(cluster.session.reports) == {(1, True)}


@pytest.mark.announces_warnings("bad replica")
async def test_when_every_file_is_bad_the_datanodes_have_the_last_word(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    name = cluster.put(_data(), 1)
    _flip(cluster.nodes[1].path(name), 7)
    cluster.nodes[1].corrupt.add(name)
    async with cluster.client() as client:
        with pytest.raises(CairnError) as caught:
            await client.retrieve(name, 1000, [1], 0, 1000)
    assert caught.value.code == common_pb2.ERROR_CODE_CORRUPT
    assert cluster.asked == 1


async def test_an_old_descriptor_of_a_chunk_stored_anew_is_not_called_corrupt(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    data = _data()
    name = cluster.put(data, 1)
    async with cluster.client() as client:
        await client.retrieve(name, 1000, [1], 0, 1000)
        _flip(cluster.nodes[1].path(name), 7)
        cluster.nodes[1].path(name).unlink()
        cluster.nodes[1].put(data)
        assert await client.retrieve(name, 1000, [1], 0, 1000) == data
    assert cluster.session.reports == []
    assert len(cluster.questions) == 2
    assert cluster.asked == 0


async def test_a_truncated_file_is_read_around(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data(300_000)
    name = cluster.put(data, 1)
    async with cluster.client() as client:
        await client.retrieve(name, len(data), [1], 0, 1000)
        os.truncate(cluster.nodes[1].path(name), 150_000)
        cluster.nodes[1].side = common_pb2.ERROR_CODE_UNAVAILABLE
        cluster.nodes[1].ended = True
        assert await client.retrieve(name, len(data), [1], 0, len(data)) == data
    assert cluster.asked == 1


async def test_a_silent_side_socket_delays_a_read_only_so_long(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    name = cluster.put(_data(), 1, 2)
    cluster.nodes[1].side_delay_s = cluster.nodes[2].side_delay_s = 1_000
    async with cluster.client() as client:
        assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == _data()
        assert trio.current_time() <= 2 * limits.LOCATE_PATIENCE_S
        at_s = trio.current_time()
        assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == _data()
        assert trio.current_time() == at_s, "both are known to be slow"


async def test_a_hanging_disk_is_left_for_another_replica(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    async def hang(_work: Callable[[], bytes | None]) -> bytes | None:
        await trio.sleep_forever()

    name = cluster.put(_data(300_000), 1, 2)
    transport = MemoryChunkTransport(dict(cluster.nodes))
    async with ChunkClient.open(
        cluster.session, transport, HERE, _hash_at_once, cluster.dial, hang
    ) as client:
        assert await client.retrieve(name, 300_000, [1, 2], 0, 300_000) == _data(300_000)
    assert cluster.asked == 1


async def test_a_cancelled_read_leaves_the_link_usable(autojump_clock: MockClock, cluster: Cluster) -> None:
    name = cluster.put(_data(), 1)
    cluster.nodes[1].side_delay_s = 0.05
    async with cluster.client() as client:
        with trio.move_on_after(0.01) as scope:
            await client.retrieve(name, 1000, [1], 0, 1000)
        assert scope.cancelled_caught
        assert await client.retrieve(name, 1000, [1], 0, 1000) == _data()
    assert cluster.asked == 0
    assert cluster.nodes[1].dialled == 1


def _open_below(directory: Path) -> list[Path]:
    links = [entry.resolve() for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    return [link for link in links if directory in link.parents]


async def test_no_descriptor_is_open_after_the_client(autojump_clock: MockClock, cluster: Cluster) -> None:
    names = [cluster.put(_data(seed=seed), 1) for seed in range(10)]
    async with cluster.client() as client:
        for name in names:
            await client.retrieve(name, 1000, [1], 0, 1000)
        assert len(_open_below(cluster.nodes[1].directory)) == 10
    assert not _open_below(cluster.nodes[1].directory)


async def test_a_chunk_of_another_length_is_left_to_the_datanode(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    name = cluster.put(_data(), 1)
    async with cluster.client() as client:
        assert await client.retrieve(name, 2000, [1], 0, 500) == _data()[:500]
    assert cluster.asked == 1


async def test_places_of_many_chunks_take_few_questions(autojump_clock: MockClock, cluster: Cluster) -> None:
    here = [cluster.put(_data(seed=seed), 1) for seed in range(100)]
    gone = chunk_id(b"nowhere")
    cluster.nodes[1].side_delay_s = 0.01
    async with cluster.client() as client:
        assert client.place(here[0]) is None
        await client.find_places([(name, [1]) for name in (*here, gone)])
        places = [client.place(name) for name in here]
        assert [place.length for place in places if place is not None] == [1000] * 100
        assert client.place(gone) is None
        await client.find_places([(name, [1]) for name in here])
    assert [len(question) for question in cluster.questions] == [64, 37]
    assert cluster.asked == 0


SLOW = Path("/proc/version")  # a file system without RWF_NOWAIT
SLOW_CONTENT = SLOW.read_bytes()


def _move_to_slow(path: Path) -> None:
    path.unlink()
    path.symlink_to(SLOW)


async def test_a_file_system_that_cannot_tell_whether_a_read_would_wait_has_no_places(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    data = SLOW_CONTENT
    name, other = cluster.put(data, 1), cluster.put(_data(), 1)
    _move_to_slow(cluster.nodes[1].path(name))
    async with cluster.client() as client:
        await client.find_places([(name, [1]), (other, [1])])
        assert client.place(name) is None
        assert client.place(other) is not None
        assert await client.retrieve(name, len(data), [1], 0, len(data)) == data
    assert cluster.asked == 0
