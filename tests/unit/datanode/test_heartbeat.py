"""Registration, heartbeats, tasks and reports, against a small fake coordinator."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cairnfs.base.errors import CairnError
from cairnfs.base.settings import DatanodeSettings
from cairnfs.datanode.disks.directories import DataDirectories
from cairnfs.datanode.membership import Membership
from cairnfs.datanode.node import Datanode, check_listen
from cairnfs.rpc.v1 import common_pb2 as pb, nodes_pb2
from tests.unit.datanode.harness import Client, content, coordinator, datanode, frames_of, name


async def fill(node: Datanode, count: int, size: int = 300_000) -> list[bytes]:
    """Store some chunks on a datanode; returns their sorted ids."""
    async with Client(node.address) as client:
        for seed in range(count):
            assert (await client.store(frames_of(content(size, seed)))).stored
    return sorted(name(content(size, seed)) for seed in range(count))


def test_a_node_keeps_its_number_and_its_map_over_restarts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address):
            async with datanode(tmp_path, address) as node:
                await fake.until(lambda: node.membership.version == 1)
                uuid = node.membership.uuid
            fake.unavailable = True
            async with datanode(tmp_path, address) as node:
                assert (node.membership.uuid, node.membership.node) == (uuid, 1)
                assert node.membership.peer(1) is not None
                fake.unavailable = False
                await fake.until(lambda: fake.registrations == 2)
                assert list(fake.nodes) == [uuid]

    asyncio.run(scenario())


def test_a_forgotten_node_registers_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address), datanode(tmp_path, address):
            await fake.until(lambda: len(fake.heartbeats) > 0)
            fake.forgotten = True
            await fake.until(lambda: fake.registrations == 2)
            count = len(fake.heartbeats)
            await fake.until(lambda: len(fake.heartbeats) > count)

    asyncio.run(scenario())


def test_another_cluster_ends_the_datanode(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address):
            async with datanode(tmp_path, address):
                await fake.until(lambda: len(fake.heartbeats) > 0)
            fake.cluster_id = "another"
            node = Datanode(DatanodeSettings(data=tmp_path, coordinators=address))
            await node.start()
            try:
                with pytest.raises(CairnError) as caught:
                    await node.run()
                assert caught.value.code == pb.ERROR_CODE_WRONG_CLUSTER
            finally:
                await node.stop()

    asyncio.run(scenario())


def test_the_next_coordinator_of_the_list_is_tried(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (dead, dead_address), coordinator() as (fake, address):
            dead.unavailable = True
            async with datanode(tmp_path, f"{dead_address}, {address}", heartbeat_s=0.1):
                await fake.until(lambda: len(fake.heartbeats) > 0)
                fake.unavailable = True
                dead.unavailable = False
                dead.cluster_id = fake.cluster_id
                dead.forgotten = True
                await dead.until(lambda: len(dead.heartbeats) > 0)

    asyncio.run(scenario())


def test_a_full_report_is_sent_after_registration_and_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairnfs.base.limits.REPORT_PAGE_CHUNKS", 2)

    async def scenario() -> None:
        async with coordinator() as (fake, address), datanode(tmp_path, address) as node:
            await fake.until(lambda: fake.reports.get(1) == [])
            ids = await fill(node, 4)
            fake.forgotten = True
            await fake.until(lambda: fake.reports.get(1) == ids)

    asyncio.run(scenario())


def test_a_report_tells_which_chunks_were_found_damaged(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address), datanode(tmp_path, address) as node:
            await fake.until(lambda: fake.reports.get(1) == [])
            ids = await fill(node, 2)
            (path,) = (tmp_path / "chunks").glob(f"*/{ids[0].hex()}")
            path.write_bytes(bytes(path.stat().st_size))
            with pytest.raises(CairnError):
                node.store.verify(ids[0])
            fake.forgotten = True
            await fake.until(lambda: fake.reports.get(1) == ids)
            assert fake.reported_damaged == {ids[0]}

    asyncio.run(scenario())


def test_heartbeats_carry_disk_use_and_the_store_counter(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address), datanode(tmp_path, address) as node:
            await fake.until(lambda: len(fake.heartbeats) > 0)
            await fill(node, 3)
            # One that was sent while the last chunk came tells of its request and not yet of the chunk.
            await fake.until(lambda: fake.heartbeats[-1].disk.chunks == 3)
            last = fake.heartbeats[-1]
            assert last.store_seq == 3
            assert last.disk.used_bytes > 900_000
            assert last.boot == node.store.boot

    asyncio.run(scenario())


def test_copy_delete_and_verify_tasks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            fake, address = await stack.enter_async_context(coordinator())
            nodes: list[Datanode] = []
            for number in (1, 2, 3):
                nodes.append(await stack.enter_async_context(datanode(tmp_path / str(number), address)))
                await fake.until(lambda number=number: len(fake.nodes) == number)  # type: ignore[misc]
            await fake.until(lambda: nodes[0].membership.version == 3)
            async with Client(nodes[0].address) as client:
                for data in (content(4 << 20), content(1000)):
                    await client.store(frames_of(data))
                    result = await fake.do(1, copy=nodes_pb2.CopyChunk(chunk_id=name(data), targets=[2, 3]))
                    assert not result.error, result
                    assert sorted(result.nodes) == [2, 3]
                    assert nodes[2].store.verify(name(data)) == len(data)
            ids = [name(content(4 << 20)), name(content(1000))]
            partly = await fake.do(1, copy=nodes_pb2.CopyChunk(chunk_id=ids[0], targets=[2, 9]))
            assert partly.error == pb.ERROR_CODE_UNAVAILABLE
            assert list(partly.nodes) == [2]
            absent = await fake.do(1, copy=nodes_pb2.CopyChunk(chunk_id=bytes(32), targets=[2]))
            assert absent.error == pb.ERROR_CODE_NOT_FOUND

            store = nodes[2].store
            old = await fake.do(3, delete=nodes_pb2.DeleteChunks(chunk_ids=ids, as_of_seq=1, boot=store.boot))
            assert list(old.kept) == [ids[1]], "stored after the decision"
            again = await fake.do(3, delete=nodes_pb2.DeleteChunks(chunk_ids=ids, as_of_seq=9, boot="older"))
            assert sorted(again.kept) == sorted(ids)

            verified = await fake.do(2, verify=nodes_pb2.VerifyChunks())
            assert verified.end
            assert verified.last == max(ids)
            assert list(verified.corrupt) == []
            unknown = await fake.do(2)
            assert unknown.error == pb.ERROR_CODE_NOT_SUPPORTED

    asyncio.run(scenario())


@pytest.mark.announces_warnings("bad chunk")
def test_damage_is_found_by_verify_by_copy_and_by_the_scrubber(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address):
            async with datanode(tmp_path, address, scrub_bytes_per_s=0) as node:
                await fake.until(lambda: node.membership.node == 1)
                ids = await fill(node, 2)
                path = tmp_path / "chunks" / ids[0].hex()[:2] / ids[0].hex()
                path.write_bytes(b"X" + path.read_bytes()[1:])
                first = await fake.do(1, verify=nodes_pb2.VerifyChunks(limit=1))
                assert (list(first.corrupt), first.last, first.end) == ([ids[0]], ids[0], False)
                second = await fake.do(1, verify=nodes_pb2.VerifyChunks(after=ids[0], limit=9))
                assert (list(second.corrupt), second.end) == ([], True)
                copied = await fake.do(1, copy=nodes_pb2.CopyChunk(chunk_id=ids[0], targets=[1]))
                assert copied.error == pb.ERROR_CODE_CORRUPT
                assert list(copied.corrupt) == [ids[0]]
                assert not fake.corrupt
            async with datanode(tmp_path, address, scrub_bytes_per_s=1 << 30):
                await fake.until(lambda: fake.corrupt == {ids[0]})

    asyncio.run(scenario())


def test_a_full_resync_replaces_the_map(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coordinator() as (fake, address), datanode(tmp_path, address) as node:
            await fake.until(lambda: node.membership.version == 1)
            fake.nodes["ghost"] = pb.NodeInfo(node=9, uuid="ghost", address="127.0.0.1:1")
            fake.version = 40
            fake.resync = True
            await fake.until(lambda: node.membership.version == 40)
            assert node.membership.peer(9) is not None

    asyncio.run(scenario())


def test_updates_are_taken_once_and_in_order(tmp_path: Path) -> None:
    directory = DataDirectories([tmp_path])
    membership = Membership(directory)
    one, two = pb.NodeInfo(node=1, address="a"), pb.NodeInfo(node=1, address="b")
    membership.apply([pb.NodeUpdate(version=1, info=one), pb.NodeUpdate(version=2, info=two)])
    membership.apply([pb.NodeUpdate(version=1, info=one)])
    found = Membership(directory).peer(1)
    assert found is not None
    assert found.address == "b"
    membership.apply([pb.NodeUpdate(version=3, info=two, removed=True)])
    assert Membership(directory).peer(1) is None
    assert Membership(directory).version == 3
    directory.close()


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "10.0.0.1:0", "[::]:5", "example.org:1"])
def test_an_address_beyond_loopback_must_be_wanted(listen: str) -> None:
    with pytest.raises(CairnError):
        check_listen(listen, insecure=False)
    check_listen(listen, insecure=True)
    check_listen("127.0.0.1:0", insecure=False)
