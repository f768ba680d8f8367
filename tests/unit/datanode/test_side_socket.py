"""The side socket of a datanode, over real sockets: what it hands out, and to whom."""

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import uvloop

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.bulk import descriptors
from cairnfs.bulk.codec import ChunkFrame
from cairnfs.bulk.shared import SendBuffer, SharedBuffers
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.side_socket import SideSocket
from cairnfs.datanode.store.checksums import BlockChecksums
from cairnfs.datanode.store.interface import ChunkLocation, SmallChunk
from cairnfs.datanode.store.local import LocalChunkStore
from cairnfs.rpc.v1 import chunks_pb2, common_pb2
from tests.unit.datanode.harness import content, eventually, name

DEADLINE_S = 10.0
LARGE = limits.PACK_CHUNK_MAX_BYTES + 1


Scenario = Callable[..., Coroutine[None, None, None]]


def on_a_loop(scenario: Scenario) -> Callable[..., None]:
    """Run a test on the event loop that datanodes use."""

    @functools.wraps(scenario)
    def run(**fixtures: object) -> None:
        uvloop.run(scenario(**fixtures))

    return run


def put(store: LocalChunkStore, data: bytes) -> bytes:
    sums = BlockChecksums()
    sums.add(data)
    if len(data) <= limits.PACK_CHUNK_MAX_BYTES:
        assert store.store_batch([SmallChunk(name(data), data, sums.blocks)]) == [None]
    else:
        writer = store.open(name(data), len(data))
        writer.append(data)
        writer.finish(sums.blocks)
    return name(data)


class Asker:
    """A client of the side socket; closes what it received at the end."""

    def __init__(self, unix_socket: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setblocking(False)
        self.address = descriptors.side_address(unix_socket)
        self.received: list[int] = []

    async def __aenter__(self) -> "Asker":
        await asyncio.get_running_loop().sock_connect(self.socket, self.address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()
        for descriptor in self.received:
            os.close(descriptor)

    async def ask(
        self, *chunk_ids: bytes, held: Sequence[int] = (), version: int = descriptors.VERSION
    ) -> chunks_pb2.LocateReply:
        locate = chunks_pb2.LocateRequest(chunk_ids=chunk_ids, held_packs=held)
        reply = await self.request(chunks_pb2.SideRequest(version=version, locate=locate))
        if reply.error != common_pb2.ERROR_CODE_OK:
            raise CairnError(reply.error, reply.detail)
        return reply.locate

    async def request(
        self, request: chunks_pb2.SideRequest, sent: Sequence[int] = ()
    ) -> chunks_pb2.SideReply:
        self.socket.sendmsg([request.SerializeToString()], descriptors.ancillary(sent))
        packet = await self.packet()
        assert packet
        return chunks_pb2.SideReply.FromString(packet)

    async def packet(self) -> bytes:
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.socket, readable.set)
        try:
            async with asyncio.timeout(DEADLINE_S):
                await readable.wait()
        finally:
            loop.remove_reader(self.socket)
        packet, ancillary, _, _ = self.socket.recvmsg(
            limits.LOCATE_MESSAGE_MAX_BYTES, descriptors.ANCILLARY_BYTES, descriptors.RECEIVE_FLAGS
        )
        self.received += descriptors.received_descriptors(ancillary)
        return packet

    def read(self, place: chunks_pb2.ChunkPlace) -> bytes:
        return os.pread(self.received[place.descriptor - 1], place.length, place.position)


@asynccontextmanager
async def side_socket(
    root: Path, buffers: SharedBuffers | None = None
) -> AsyncIterator[tuple[LocalChunkStore, str]]:
    store = LocalChunkStore(root)
    disk = Disk(store)
    side = SideSocket(disk, buffers or SharedBuffers())
    unix_socket = f"cairnfs-test-{new_id()}"
    side.start(unix_socket)
    try:
        yield store, unix_socket
    finally:
        await side.close()
        disk.close()
        store.close()


@on_a_loop
async def test_chunks_in_files_and_packs(tmp_path: Path) -> None:
    chunks = [content(LARGE, 1), content(100, 2), content(200_000, 3), content(LARGE + 5, 4)]
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as asker:
        chunk_ids = [put(store, data) for data in chunks]
        reply = await asker.ask(*chunk_ids, bytes(32))
        assert [asker.read(place) for place in reply.places[:4]] == chunks
        assert len(asker.received) == 3, "one for each file, one for the pack of both small chunks"
        assert reply.places[4].error == common_pb2.ERROR_CODE_NOT_FOUND
        assert not any(os.get_inheritable(descriptor) for descriptor in asker.received)


@on_a_loop
async def test_the_descriptor_of_a_held_pack_is_not_sent_again(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as asker:
        first = (await asker.ask(put(store, content(10)))).places[0]
        again = (await asker.ask(put(store, content(20)), held=[first.pack])).places[0]
        assert (again.pack, again.descriptor) == (first.pack, 0)
        assert len(asker.received) == 1


@on_a_loop
async def test_neighbours_come_along_up_to_a_bound(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as asker:
        chunk_ids = [put(store, content(10, seed)) for seed in range(300)]
        reply = await asker.ask(chunk_ids[0])
        named = [place.chunk_id for place in reply.places]
        assert named == chunk_ids[: 1 + limits.LOCATE_AHEAD_CHUNKS_MAX], "here none was stored before"
        assert [asker.read(place) for place in reply.places[:3]] == [content(10, n) for n in range(3)]


@on_a_loop
async def test_the_largest_reply_fits_into_a_packet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locate = LocalChunkStore.locate
    blocks = limits.CHUNK_MAX_BYTES // limits.CHECKSUM_BLOCK_BYTES

    def as_if_large(self: LocalChunkStore, chunk_id: bytes, held_packs: Container[int] = ()) -> ChunkLocation:
        found = locate(self, chunk_id, held_packs)
        if found.pack:
            return found
        return replace(found, length=limits.CHUNK_MAX_BYTES, block_checksums=[2**32 - 1] * blocks)

    monkeypatch.setattr(LocalChunkStore, "locate", as_if_large)
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as asker:
        files = limits.LOCATE_CHUNKS_MAX - 1
        chunk_ids = [put(store, content(LARGE, seed)) for seed in range(files)]
        small = [put(store, content(100, seed)) for seed in range(limits.LOCATE_AHEAD_CHUNKS_MAX + 1)]
        reply = await asker.ask(*chunk_ids, small[0])
        assert len(reply.places) == limits.LOCATE_CHUNKS_MAX + limits.LOCATE_AHEAD_CHUNKS_MAX
        assert reply.ByteSize() < limits.LOCATE_MESSAGE_MAX_BYTES
        assert len(asker.received) == limits.LOCATE_CHUNKS_MAX


def _open_below(directory: Path) -> int:
    links = [entry.resolve() for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    return sum(directory in link.parents for link in links)


@on_a_loop
async def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as asker:
        chunk_ids = [put(store, content(size, 9)) for size in (10, LARGE)]
        before = _open_below(tmp_path)
        for _ in range(5):
            await asker.ask(*chunk_ids)

        async def closed() -> bool:
            return _open_below(tmp_path) == before + len(asker.received)

        await eventually(closed)
        assert len(asker.received) == 2 * 5


@on_a_loop
async def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (_, unix_socket), Asker(unix_socket) as asker:
        with pytest.raises(CairnError) as caught:
            await asker.ask(version=77)
        assert caught.value.code == common_pb2.ERROR_CODE_NOT_SUPPORTED
        with pytest.raises(CairnError) as caught:
            await asker.ask(*[bytes(32)] * (limits.LOCATE_CHUNKS_MAX + 1))
        assert caught.value.code == common_pb2.ERROR_CODE_INVALID


@on_a_loop
async def test_garbage_ends_the_connection_and_no_other(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as one:
        async with Asker(unix_socket) as other:
            await asyncio.get_running_loop().sock_sendall(other.socket, b"\xff\xff\xff")
            assert await other.packet() == b""
        assert (await one.ask(put(store, content(1)))).places[0].length == 1


async def _flood(asker: Asker, request: chunks_pb2.SideRequest) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            await asyncio.get_running_loop().sock_sendall(asker.socket, request.SerializeToString())
            await asyncio.sleep(0)


@on_a_loop
async def test_a_client_that_takes_no_reply_loses_its_connection(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (store, unix_socket), Asker(unix_socket) as asker:
        chunk_ids = [put(store, content(limits.CHUNK_MAX_BYTES, seed)) for seed in range(10)]
        locate = chunks_pb2.LocateRequest(chunk_ids=chunk_ids)
        request = chunks_pb2.SideRequest(version=descriptors.VERSION, locate=locate)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await _flood(asker, request)
        async with Asker(unix_socket) as other:
            assert len((await other.ask(chunk_ids[0])).places) == 1


@on_a_loop
async def test_strangers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with side_socket(tmp_path) as (_, unix_socket):
        monkeypatch.setattr(descriptors, "peer_uid", lambda _connection: 4_321)
        async with Asker(unix_socket) as asker:
            assert await asker.packet() == b""


def test_root_and_the_same_user_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        assert descriptors.peer_uid(one) == os.getuid()
        monkeypatch.setattr(os, "geteuid", lambda: 5)
        for uid, trusted in ((0, True), (5, True), (6, False)):
            monkeypatch.setattr(descriptors, "peer_uid", lambda _connection, uid=uid: uid)
            assert descriptors.is_trusted(one) is trusted


@pytest.mark.announces_warnings("no side socket")
@on_a_loop
async def test_a_name_in_use_costs_only_the_side_socket(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (store, unix_socket):
        disk = Disk(store)
        second = SideSocket(disk, SharedBuffers())
        second.start(unix_socket)
        await second.close()
        disk.close()


def _share(size_bytes: int = limits.SHARED_BUFFER_BYTES) -> chunks_pb2.SideRequest:
    return chunks_pb2.SideRequest(version=descriptors.VERSION, share=chunks_pb2.ShareRequest(size=size_bytes))


@on_a_loop
async def test_shared_memory_is_known_until_the_connection_ends(tmp_path: Path) -> None:
    buffers = SharedBuffers()
    sender = SendBuffer()
    data = content(70_000)
    async with side_socket(tmp_path, buffers) as (_, unix_socket):
        async with Asker(unix_socket) as asker:
            sender.name = (await asker.request(_share(), [sender.descriptor])).share.buffer
            frame = sender.place(ChunkFrame(1, 0, data))
            assert not frame.data
            buffers.resolve(frame)
            assert frame.data == data
        await eventually(partial(_unknown, buffers, sender))
    sender.close()
    assert frame.data == data, "what was taken from it stays readable"


async def _unknown(buffers: SharedBuffers, sender: SendBuffer) -> bool:
    shared = chunks_pb2.SharedRange(buffer=sender.name, length=5)
    try:
        buffers.resolve(ChunkFrame(1, shared=shared))
    except CairnError:
        return True
    return False


@on_a_loop
async def test_memory_that_could_go_away_is_not_taken(tmp_path: Path) -> None:
    async with side_socket(tmp_path) as (_, unix_socket), Asker(unix_socket) as asker:
        for size_bytes in (4_096, limits.SHARED_BUFFER_BYTES):
            fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size_bytes)
            reply = await asker.request(_share(size_bytes), [fd])
            assert reply.error == common_pb2.ERROR_CODE_INVALID
            os.close(fd)
        sender = SendBuffer()
        assert (await asker.request(_share(5), [sender.descriptor])).error == common_pb2.ERROR_CODE_INVALID
        assert (await asker.request(_share(), [0])).error == common_pb2.ERROR_CODE_INVALID
        sender.close()
