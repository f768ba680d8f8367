"""The chunk client over in-memory datanodes, with a clock that jumps."""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cairnfs.base import limits
from cairnfs.base.checksums import chunk_id
from cairnfs.base.errors import CairnError
from cairnfs.client.chunks import ChunkClient, ThreadHasher
from cairnfs.rpc.v1 import common_pb2
from tests.unit.client.memory_datanodes import FakeDatanode, MemoryChunkTransport, PlanningSession


async def _hash_at_once(data: bytes) -> bytes:
    return chunk_id(data)


class Cluster:
    """Fake datanodes 1 to `count`, a session and a chunk client."""

    def __init__(self, count: int = 3) -> None:
        self.nodes = {number: FakeDatanode(number) for number in range(1, count + 1)}
        self.session = PlanningSession(self.nodes)

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[ChunkClient]:
        transport = MemoryChunkTransport(self.nodes)
        async with ChunkClient.open(self.session, transport, "here", _hash_at_once) as client:
            yield client

    def put(self, data: bytes, *numbers: int) -> bytes:
        """Place a chunk on these nodes."""
        name = chunk_id(data)
        for number in numbers:
            self.nodes[number].chunks[name] = data
        return name


@pytest.fixture
def cluster() -> Cluster:
    """Three datanodes."""
    return Cluster()


def _data(size: int = 1000, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


# ---------------------------------------------------------------- storing


async def test_store_names_the_holders(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data(2 * limits.FRAME_MAX_BYTES + 5)
    async with cluster.client() as client:
        [stored] = await client.store([data])
    assert stored.chunk_id == chunk_id(data)
    assert stored.length == len(data)
    assert list(stored.nodes) == [1, 2]
    assert cluster.nodes[1].chunks == {chunk_id(data): data}


async def test_chunks_of_one_call_share_one_plan_and_equal_ones_one_transfer(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    chunks = [_data(seed=seed) for seed in (1, 2, 1, 3)]
    async with cluster.client() as client:
        stored = await client.store(chunks)
    assert [each.chunk_id for each in stored] == [chunk_id(data) for data in chunks]
    assert len(cluster.session.plans) == 1
    assert len(cluster.nodes[1].frames) == 3


async def test_concurrent_callers_share_plans(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.session.delay_s = 1
    async with cluster.client() as client, trio.open_nursery() as nursery:
        for seed in range(50):
            nursery.start_soon(client.store, [_data(seed=seed)])
    assert [len(plan.chunks) for plan in cluster.session.plans] == [1, 49]


async def test_a_chunk_already_stored_is_not_sent(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data()
    cluster.session.known.add(chunk_id(data))
    async with cluster.client() as client:
        [stored] = await client.store([data])
    assert not stored.nodes
    assert not cluster.nodes[1].frames


async def test_chunks_of_a_wrong_size_are_refused(autojump_clock: MockClock, cluster: Cluster) -> None:
    async with cluster.client() as client:
        for data in (b"", bytes(limits.CHUNK_MAX_BYTES + 1)):
            with pytest.raises(CairnError) as caught:
                await client.store([data])
            assert caught.value.code == common_pb2.ERROR_CODE_INVALID
        assert await client.store([]) == []


async def test_a_dead_primary_is_replaced(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].kill()
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
    assert list(stored.nodes) == [2, 3]
    assert [list(plan.exclude_nodes) for plan in cluster.session.plans] == [[], [1]]


async def test_a_primary_that_dies_in_the_middle_is_replaced(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    cluster.nodes[1].stalled = True
    outcome: list[list[int]] = []

    async def store(client: ChunkClient) -> None:
        [stored] = await client.store([_data(limits.CHUNK_MAX_BYTES)])
        outcome.append(list(stored.nodes))

    async with cluster.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(store, client)
        await wait_all_tasks_blocked()
        assert cluster.nodes[1].frames
        cluster.nodes[1].kill()
    assert outcome == [[2, 3]]


async def test_a_primary_without_progress_is_given_up(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].stalled = True
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
        assert list(stored.nodes) == [2, 3]
        assert limits.TRANSFER_PROGRESS_S <= trio.current_time() <= limits.TRANSFER_PROGRESS_S + 2
        assert not cluster.nodes[1].store_streams[0].alive


async def test_a_primary_that_refuses_is_replaced(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].store_error = common_pb2.ERROR_CODE_NO_SPACE
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
    assert list(stored.nodes) == [2, 3]


async def test_a_failed_replica_is_replaced(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].failing_replicas = frozenset({2})
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
    assert list(stored.nodes) == [1, 3]
    assert [list(plan.exclude_nodes) for plan in cluster.session.plans] == [[], [2]]


async def test_fewer_holders_are_accepted_when_no_node_is_left(autojump_clock: MockClock) -> None:
    cluster = Cluster(2)
    cluster.nodes[1].failing_replicas = frozenset({2})
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
    assert list(stored.nodes) == [1]


async def test_fewer_holders_are_not_accepted_for_another_reason(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    cluster.nodes[1].failing_replicas = frozenset({2})
    cluster.session.replan_errors.append(common_pb2.ERROR_CODE_SAFE_MODE)
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
    assert list(stored.nodes) == [1, 3]


async def test_nodes_that_come_back_are_tried_again(autojump_clock: MockClock, cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.kill()
    done: list[list[int]] = []

    async def store(client: ChunkClient) -> None:
        [stored] = await client.store([_data()])
        done.append(list(stored.nodes))

    async with cluster.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(store, client)
        await trio.sleep(5)
        assert not done
        cluster.nodes[2].reachable = cluster.nodes[3].reachable = True
    assert done == [[2, 3]]


async def test_storing_fails_when_no_node_comes_back(autojump_clock: MockClock, cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.kill()
    async with cluster.client() as client:
        with pytest.raises(CairnError) as caught:
            await client.store([_data()])
    assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


async def test_no_space_is_reported_at_once(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.session.plan_errors.extend([common_pb2.ERROR_CODE_NO_SPACE])
    async with cluster.client() as client:
        with pytest.raises(CairnError) as caught:
            await client.store([_data()])
    assert caught.value.code == common_pb2.ERROR_CODE_NO_SPACE
    assert trio.current_time() == 0


async def test_datanodes_not_heard_yet_since_a_restart_are_waited_for(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    cluster.session.plan_errors.extend([common_pb2.ERROR_CODE_UNAVAILABLE] * 3)
    async with cluster.client() as client:
        [stored] = await client.store([_data()])
    assert list(stored.nodes) == [1, 2]


async def test_a_cluster_without_datanodes_is_waited_for_only_so_long(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    cluster.session.plan_errors.extend([common_pb2.ERROR_CODE_UNAVAILABLE] * 10_000)
    async with cluster.client() as client:
        with pytest.raises(CairnError) as caught:
            await client.store([_data()])
    assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
    assert limits.TRANSFER_DEADLINE_S <= trio.current_time() <= 2 * limits.TRANSFER_DEADLINE_S


@pytest.mark.parametrize(
    "credit", [1, 64 * limits.KIB, limits.FRAME_MAX_BYTES + 1, 3 * limits.FRAME_MAX_BYTES]
)
async def test_credit_is_never_exceeded(autojump_clock: MockClock, cluster: Cluster, credit: int) -> None:
    node = cluster.nodes[1]
    node.credit, node.hold_acks = credit, True
    size = 50 if credit == 1 else limits.FRAME_MAX_BYTES + 100_000
    first, *others = [_data(size, seed) for seed in range(4)]
    async with cluster.client() as client:
        # The first chunk learns the credit; before that, one frame may be under way.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.store, [first])
            await wait_all_tasks_blocked()
            assert node.most_under_way <= limits.FRAME_MAX_BYTES
            while node.acknowledge():
                await wait_all_tasks_blocked()
        node.most_under_way = 0
        async with trio.open_nursery() as nursery:
            for data in others:
                nursery.start_soon(client.store, [data])
            await wait_all_tasks_blocked()
            while node.acknowledge():
                await wait_all_tasks_blocked()
    assert 0 < node.most_under_way <= credit
    assert len(node.chunks) == 4


async def test_transfers_are_interleaved(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].credit = limits.FRAME_MAX_BYTES
    async with cluster.client() as client:
        await client.store([_data()])
        cluster.nodes[1].frames.clear()
        await client.store([_data(3 * limits.FRAME_MAX_BYTES, seed) for seed in (2, 3)])
    order = [frame.transfer for frame in cluster.nodes[1].frames]
    assert order != sorted(order)


async def test_cancelling_tells_the_datanode(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].stalled = True
    async with cluster.client() as client:
        with trio.move_on_after(1):
            await client.store([_data(limits.CHUNK_MAX_BYTES)])
        assert cluster.nodes[1].frames[-1].error == common_pb2.ERROR_CODE_INTERRUPTED
        cluster.nodes[1].stalled = False
        assert len(await client.store([_data()])) == 1


# ---------------------------------------------------------------- retrieving


async def test_retrieve_whole_and_ranges(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data(limits.CHUNK_MAX_BYTES)
    name = cluster.put(data, 1)
    async with cluster.client() as client:
        assert await client.retrieve(name, len(data), [1], 0, len(data)) == data
        assert await client.retrieve(name, len(data), [1], 70_001, 2_000_003) == data[70_001:2_070_004]
        assert await client.retrieve(name, len(data), [1], 5, 0) == b""
        with pytest.raises(CairnError):
            await client.retrieve(name, len(data), [1], 5, len(data))


async def test_the_node_of_this_host_is_asked_first(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[2].host_id = "here"
    name = cluster.put(_data(), 1, 2, 3)
    async with cluster.client() as client:
        for _ in range(20):
            await client.retrieve(name, 1000, [1, 2, 3], 0, 1000)
    assert [node.asked for node in cluster.nodes.values()] == [0, 20, 0]


async def test_healthy_nodes_come_before_suspect_ones(autojump_clock: MockClock, cluster: Cluster) -> None:
    cluster.nodes[1].state = common_pb2.NODE_STATE_SUSPECT
    cluster.nodes[1].host_id = "here"
    name = cluster.put(_data(), 1, 2)
    async with cluster.client() as client:
        for _ in range(20):
            await client.retrieve(name, 1000, [1, 2], 0, 1000)
    assert cluster.nodes[1].asked == 0


async def test_a_dead_node_is_left_for_the_next(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data()
    name = cluster.put(data, 1, 2)
    cluster.nodes[1].host_id = "here"
    cluster.nodes[1].kill()
    async with cluster.client() as client:
        assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == data
        assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == data
    assert len(cluster.nodes[1].retrieve_streams) == 1, "asked last for a while"


@pytest.mark.announces_warnings("bad replica")
@pytest.mark.parametrize("how", ["content", "frames"])
async def test_a_corrupt_replica_is_left_and_reported(
    autojump_clock: MockClock, cluster: Cluster, how: str
) -> None:
    data = _data()
    name = cluster.put(data, 1, 2)
    cluster.nodes[1].host_id = "here"
    if how == "content":
        cluster.nodes[1].corrupt.add(name)
    else:
        cluster.nodes[1].damaged_frames = True
    async with cluster.client() as client:
        assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == data
        await wait_all_tasks_blocked()
    assert cluster.session.reports == [(1, True)]


@pytest.mark.announces_warnings("bad replica")
async def test_a_missing_replica_is_reported_as_missing(autojump_clock: MockClock, cluster: Cluster) -> None:
    name = cluster.put(_data(), 2)
    cluster.nodes[1].host_id = "here"
    async with cluster.client() as client:
        await client.retrieve(name, 1000, [1, 2], 10, 20)
        await wait_all_tasks_blocked()
    assert cluster.session.reports == [(1, False)]


@pytest.mark.announces_warnings("bad replica")
async def test_only_corrupt_replicas(autojump_clock: MockClock, cluster: Cluster) -> None:
    name = cluster.put(_data(), 1, 2)
    for number in (1, 2):
        cluster.nodes[number].corrupt.add(name)
    async with cluster.client() as client:
        with pytest.raises(CairnError) as caught:
            await client.retrieve(name, 1000, [1, 2], 0, 1000)
    assert caught.value.code == common_pb2.ERROR_CODE_CORRUPT


@pytest.mark.announces_warnings("bad replica")
async def test_only_missing_replicas_fail_at_once(autojump_clock: MockClock, cluster: Cluster) -> None:
    async with cluster.client() as client:
        for nodes in ([1, 2], [99], []):
            with pytest.raises(CairnError) as caught:
                await client.retrieve(chunk_id(b"x"), 1000, nodes, 0, 1000)
            assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
    assert trio.current_time() == 0


async def test_a_slow_replica_is_hedged(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data()
    name = cluster.put(data, 1, 2)
    cluster.nodes[1].host_id = "here"
    cluster.nodes[1].stalled = True
    async with cluster.client() as client:
        assert await client.retrieve(name, 1000, [1, 2], 0, 1000) == data
        assert trio.current_time() <= limits.HEDGE_MAX_S


async def test_the_last_replica_gets_all_the_time_and_then_fails(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    name = cluster.put(_data(), 1)
    cluster.nodes[1].stalled = True
    async with cluster.client() as client:
        with pytest.raises(CairnError) as caught:
            await client.retrieve(name, 1000, [1], 0, 1000)
    assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
    assert limits.RPC_DEADLINE_S / 2 <= trio.current_time() <= 2 * limits.RPC_DEADLINE_S


async def test_a_node_that_comes_back_answers(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data()
    name = cluster.put(data, 1)
    cluster.nodes[1].kill()
    got: list[bytes] = []

    async def retrieve(client: ChunkClient) -> None:
        got.append(await client.retrieve(name, 1000, [1], 0, 1000))

    async with cluster.client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(retrieve, client)
        await trio.sleep(3)
        cluster.nodes[1].reachable = True
    assert got == [data]


async def test_a_cancelled_read_leaves_the_stream_working(
    autojump_clock: MockClock, cluster: Cluster
) -> None:
    data = _data()
    name = cluster.put(data, 1)
    cluster.nodes[1].stalled = True
    async with cluster.client() as client:
        with trio.move_on_after(1):
            await client.retrieve(name, 1000, [1], 0, 1000)
        cluster.nodes[1].stalled = False
        assert await client.retrieve(name, 1000, [1], 0, 1000) == data
    assert len(cluster.nodes[1].retrieve_streams) == 1


async def test_bytes_under_way_are_bounded(autojump_clock: MockClock, cluster: Cluster) -> None:
    data = _data(limits.CHUNK_MAX_BYTES)
    name = cluster.put(data, 1)
    cluster.nodes[1].stalled = True
    async with cluster.client() as client:
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(
                        partial(client.retrieve, name, len(data), [1], offset=0, length=len(data))
                    )
        assert cluster.nodes[1].asked == limits.RETRIEVE_WINDOW_BYTES // limits.CHUNK_MAX_BYTES
        cluster.nodes[1].stalled = False
        assert await client.retrieve(name, len(data), [1], 0, len(data)) == data


async def test_large_chunks_are_hashed_in_threads() -> None:
    hasher = ThreadHasher()
    for size in (10, limits.CHUNK_MAX_BYTES):
        assert await hasher(bytes(size)) == chunk_id(bytes(size))
