"""The service over real gRPC: storing, copying to replicas, retrieving."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from cairnfs.base import limits
from cairnfs.bulk.codec import ChunkFrame, encode_chunk_data
from cairnfs.bulk.shared import SendBuffer
from cairnfs.datanode.node import Datanode
from cairnfs.datanode.store.local import LocalChunkStore, LocalChunkWriter
from cairnfs.rpc.v1 import chunks_pb2, common_pb2 as pb
from tests.unit.datanode.harness import (
    Client,
    FakeCoordinator,
    content,
    coordinator,
    datanode,
    eventually,
    final_answer,
    frames_of,
    name,
)

SIZES = [1, 100_000, limits.PACK_CHUNK_MAX_BYTES, limits.PACK_CHUNK_MAX_BYTES + 1, 3_000_001, 4 << 20]


@asynccontextmanager
async def cluster(root: Path, count: int) -> AsyncIterator[tuple[FakeCoordinator, list[Datanode]]]:
    async with AsyncExitStack() as stack:
        fake, address = await stack.enter_async_context(coordinator())
        nodes: list[Datanode] = []
        for number in range(1, count + 1):
            nodes.append(await stack.enter_async_context(datanode(root / str(number), address)))
            await fake.until(lambda number=number: len(fake.nodes) == number)  # type: ignore[misc]
        await fake.until(lambda: all(node.membership.version == fake.version for node in nodes))
        yield fake, nodes


def test_a_chunk_reaches_every_replica(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 3) as (_, nodes), Client(nodes[0].address) as client:
            for seed, size in enumerate(SIZES):
                data = content(size, seed)
                ack = await client.store(frames_of(data, [2, 3]))
                assert ack.stored, ack
                assert sorted(ack.nodes) == [1, 2, 3]
                for node in nodes:
                    assert node.store.verify(name(data)) == size

    asyncio.run(scenario())


def test_interleaved_transfers_on_one_stream(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes), Client(nodes[0].address) as client:
            chunks = [content(900_000 + seed, seed) for seed in range(5)]
            transfers = [
                frames_of(data, [2], transfer=number, frame_bytes=200_000)
                for number, data in enumerate(chunks)
            ]
            call = client.open_store()
            for step in range(5):
                for frames in transfers:
                    await call.write(encode_chunk_data(frames[step]))
            await call.done_writing()
            answered = {(await final_answer(call.read)).transfer for _ in chunks}
            assert answered == set(range(5))
            for data in chunks:
                assert nodes[1].store.verify(name(data)) == len(data)

    asyncio.run(scenario())


def test_a_stored_chunk_is_answered_without_writing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes), Client(nodes[0].address) as client:
            data = content(3_000_000)
            first, *_ = frames = frames_of(data, [2])
            assert (await client.store(frames)).stored
            used = nodes[0].store.usage().used_bytes
            before = nodes[0].store.seq
            ack = await client.store([first])
            assert ack.stored
            assert sorted(ack.nodes) == [1, 2]
            assert nodes[0].store.usage().used_bytes == used
            assert nodes[0].store.seq == before + 1

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1000, 2_000_000])
def test_content_under_a_wrong_name_is_stored_nowhere(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes), Client(nodes[0].address) as client:
            frames = frames_of(content(size), [2])
            assert frames[0].header is not None
            frames[0].header.chunk_id = bytes(32)
            ack = await client.store(frames)
            assert ack.error == pb.ERROR_CODE_CORRUPT
            assert list(ack.nodes) == []
            assert all(node.store.usage().chunks == 0 for node in nodes)

    asyncio.run(scenario())


def test_a_wrong_frame_checksum_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes), Client(nodes[0].address) as client:
            frames = frames_of(content(3_000_000), [2])
            frames[1].crc32c ^= 1
            ack = await client.store(frames)
            assert ack.error == pb.ERROR_CODE_CORRUPT
            data = content(1_000_000, 1)
            assert (await client.store(frames_of(data, [2]))).stored
            assert [entry.chunk_id for entry in nodes[1].store.list_chunks(b"", 9)] == [name(data)]

    asyncio.run(scenario())


def test_an_unknown_replica_costs_an_error_that_names_the_holders(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes), Client(nodes[0].address) as client:
            ack = await client.store(frames_of(content(1_000_000), [2, 77]))
            assert ack.error == pb.ERROR_CODE_UNAVAILABLE
            assert sorted(ack.nodes) == [1, 2]
            assert "77" in ack.detail
            enough = await client.store(frames_of(content(1_000_000, 1), [2, 77], wanted=2))
            assert enough.stored
            assert sorted(enough.nodes) == [1, 2]

    asyncio.run(scenario())


def test_a_replica_that_stopped_is_dropped_and_found_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address), datanode(tmp_path / "1", address) as primary:
            await fake.until(lambda: primary.membership.node == 1)  # numbers go by order of arrival
            async with datanode(tmp_path / "2", address) as replica:
                await fake.until(lambda: primary.membership.peer(2) is not None)
                async with Client(primary.address) as client:
                    assert (await client.store(frames_of(content(1_000_000), [2]))).stored
                listen = replica.address
            async with Client(primary.address) as client:
                ack = await client.store(frames_of(content(1_000_000, 1), [2]))
                assert ack.error == pb.ERROR_CODE_UNAVAILABLE
                assert list(ack.nodes) == [1]
                async with datanode(tmp_path / "2", address, listen=listen):

                    async def stored() -> bool:
                        return (await client.store(frames_of(content(1_000_000, 2), [2]))).stored

                    await eventually(stored)

    asyncio.run(scenario())


def test_a_client_that_vanishes_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes):
            async with Client(nodes[0].address) as client:
                call = client.open_store()
                frames = frames_of(content(4 << 20), [2])
                await call.write(encode_chunk_data(frames[0]))
                await call.write(encode_chunk_data(frames[1]))
                ack = await call.read()
                assert ack.bytes_received > 0
            temporary = [tmp_path / "1" / "temp", tmp_path / "2" / "temp"]

            async def empty() -> bool:
                return not any(any(directory.iterdir()) for directory in temporary)

            await eventually(empty)
            assert all(node.store.usage().chunks == 0 for node in nodes)

    asyncio.run(scenario())


def test_ranges_come_back_exactly(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (_, nodes), Client(nodes[0].address) as client:
            data = content(3_500_001)
            assert (await client.store(frames_of(data))).stored
            for offset, length in [(0, 0), (0, 1), (65_535, 2), (1_000_000, 2_500_001), (3_500_000, 0)]:
                found, last = await client.retrieve(name(data), offset, length)
                assert not last.error
                assert found == data[offset : offset + length if length else None]

    asyncio.run(scenario())


@pytest.mark.parametrize(("offset", "length"), [(1000, 0), (0, 1001), (2000, 5), (1 << 63, 1 << 63)])
def test_ranges_beyond_the_chunk_are_invalid(tmp_path: Path, offset: int, length: int) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (_, nodes), Client(nodes[0].address) as client:
            data = content(1000)
            await client.store(frames_of(data))
            _, last = await client.retrieve(name(data), offset, length)
            assert last.error == pb.ERROR_CODE_INVALID
            assert last.transfer == 3
            _, last = await client.retrieve(bytes(32))
            assert last.error == pb.ERROR_CODE_NOT_FOUND

    asyncio.run(scenario())


@pytest.mark.announces_warnings("bad chunk")
def test_a_bad_chunk_is_reported_to_reader_and_coordinator(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (fake, nodes), Client(nodes[0].address) as client:
            data = content(1_000_000)
            await client.store(frames_of(data))
            digest = name(data).hex()
            path = tmp_path / "1" / "chunks" / digest[:2] / digest
            path.write_bytes(b"X" + path.read_bytes()[1:])
            _, last = await client.retrieve(name(data))
            assert last.error == pb.ERROR_CODE_CORRUPT
            await fake.until(lambda: name(data) in fake.corrupt)

    asyncio.run(scenario())


def test_a_replication_session_is_needed_and_of_the_same_cluster(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (fake, nodes), Client(nodes[0].address) as client:
            refused = await client.replicate(chunks_pb2.ReplicateChunkRequest(cluster_id="other"))
            assert not refused.accepted
            assert refused.error == pb.ERROR_CODE_WRONG_CLUSTER
            call = client.open_replica()
            await call.write(encode_chunk_data(frames_of(content(10))[0]))
            assert (await final_answer(call.read)).error == pb.ERROR_CODE_STALE
            accepted = await client.replicate(
                chunks_pb2.ReplicateChunkRequest(cluster_id=fake.cluster_id, window_bytes=1 << 40)
            )
            assert accepted.accepted
            assert accepted.ready_for_next == limits.REPLICATION_WINDOW_BYTES
            session = accepted.replication_session
            await call.write(encode_chunk_data(frames_of(content(10), transfer=2, session=session)[0]))
            assert (await final_answer(call.read)).stored
            call.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "message", [b"\xff\xff\xff", encode_chunk_data(frames_of(content(300_000), frame_bytes=290_000)[0]) * 2]
)
def test_a_malformed_stream_is_ended_with_an_error(tmp_path: Path, message: bytes) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (_, nodes), Client(nodes[0].address) as client:
            call = client.open_store()
            await call.write(message[: len(message) // 2] if message[0] != 0xFF else message)
            if message[0] != 0xFF:
                await call.write(message[len(message) // 2 :])
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await final_answer(call.read)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert (await client.store(frames_of(content(10)))).stored

    asyncio.run(scenario())


def test_frames_of_unknown_transfers_are_dropped(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (_, nodes), Client(nodes[0].address) as client:
            stray = ChunkFrame(9, 5, b"x" * 100, 1)
            ack = await client.store([stray, *frames_of(content(10)), stray])
            assert ack.stored
            assert ack.transfer == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [100_000, 3 * limits.FRAME_MAX_BYTES])
def test_a_sender_that_gives_up_hears_when_its_bytes_are_let_go(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        async with cluster(tmp_path, 1) as (_, nodes), Client(nodes[0].address) as client:
            call = client.open_store()
            first, *rest = frames_of(content(size))
            await call.write(encode_chunk_data(first))
            await call.write(encode_chunk_data(ChunkFrame(1, error=pb.ERROR_CODE_INTERRUPTED)))
            answers = [await call.read()]
            while not answers[-1].error and not (answers[-1].stored and not rest):
                answers.append(await call.read())
            assert answers[-1].transfer == 1
            assert (await client.store(frames_of(content(10)))).stored
            call.cancel()

    asyncio.run(scenario())


def test_peers_of_one_host_share_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[bool] = []
    place = SendBuffer.place

    def watch(self: SendBuffer, frame: ChunkFrame) -> ChunkFrame:
        sent = place(self, frame)
        placed.append(sent.shared is not None)
        return sent

    monkeypatch.setattr(SendBuffer, "place", watch)

    async def scenario() -> None:
        async with cluster(tmp_path, 2) as (_, nodes), Client(nodes[0].address) as client:
            for seed in range(5):
                data = content(limits.CHUNK_MAX_BYTES, seed)
                ack = await client.store(frames_of(data, [2]))
                assert ack.stored
                assert list(ack.nodes) == [1, 2]
                assert nodes[1].store.verify(name(data)) == len(data)

    asyncio.run(scenario())
    frames = limits.CHUNK_MAX_BYTES // limits.FRAME_MAX_BYTES
    assert sum(placed) >= 3 * frames, "the first may be sent before the memory is shared"


def test_one_replica_keeps_a_chunk_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str, bool]] = []
    opened = LocalChunkStore.open

    def watch(
        self: LocalChunkStore, chunk_id: bytes, length: int, *, keep_in_memory: bool = True
    ) -> LocalChunkWriter:
        kept.append((self.boot, keep_in_memory))
        return opened(self, chunk_id, length, keep_in_memory=keep_in_memory)

    monkeypatch.setattr(LocalChunkStore, "open", watch)

    async def scenario() -> None:
        async with cluster(tmp_path, 3) as (_, nodes), Client(nodes[0].address) as client:
            boots = [node.store.boot for node in nodes]
            for seed, reader in enumerate((0, 1, 2, 3)):
                kept.clear()
                frames = frames_of(content(limits.MIB, seed), [2, 3])
                assert frames[0].header
                frames[0].header.reader = reader
                assert (await client.store(frames)).stored
                wanted = [boot for number, boot in enumerate(boots, 1) if reader in (0, number)]
                assert sorted(boot for boot, keep in kept if keep) == sorted(wanted)
                assert len(kept) == 3

    asyncio.run(scenario())
