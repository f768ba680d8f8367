"""The side socket, for this host: hands out descriptors of chunk files, and takes memory that others share.

docs/internals/replication.md says why what they read is right. A client that does not take its reply at once
loses its connection, so a slow one holds neither memory nor descriptors.
"""

import asyncio
import os
import socket
from collections.abc import Coroutine, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.bulk import descriptors
from cairnfs.bulk.shared import SharedBuffers
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.store.interface import ChunkLocation, ChunkStore
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)

ACCEPT_PAUSE_S: Final = 1.0  # after a connection could not be accepted: the table of descriptors is full
BACKLOG: Final = 64


class SideSocket:
    """Serves SideRequests. Make it and use it on one event loop."""

    def __init__(self, disk: Disk, buffers: SharedBuffers) -> None:
        self._disk = disk
        self._buffers = buffers
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, unix_socket: str) -> None:
        """Listen beside the gRPC socket of this name. Without it clients read through gRPC, so only warn."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(descriptors.side_address(unix_socket))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            _log.warning("no side socket", detail=str(error))
            return
        self._listener = listener
        self._spawn(self._accept(listener))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("cannot accept on the side socket", detail=str(error))
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if not descriptors.is_trusted(connection):
                _log.info("side socket refused", uid=descriptors.peer_uid(connection))
                connection.close()
            elif len(self._tasks) > limits.LOCAL_CONNECTIONS_MAX:
                connection.close()
            else:
                self._spawn(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        shared = ""
        with connection:
            try:
                while True:
                    request, received = await _receive(connection)
                    try:
                        if request is None:
                            return
                        if request.HasField("share") and received and not shared:
                            shared = self._share(connection, request, received[0])
                        else:
                            await self._finish(self._disk.run(_answer, connection, self._disk.store, request))
                    finally:
                        for fd in received:
                            os.close(fd)
            except (OSError, DecodeError) as error:
                _log.info("side connection ended", detail=str(error))
            finally:
                self._buffers.remove(shared)

    def _share(self, connection: socket.socket, request: chunks_pb2.SideRequest, fd: int) -> str:
        reply = _refusal(request)
        if reply is None:
            reply = chunks_pb2.SideReply()
            try:
                reply.share.buffer = self._buffers.add(fd, request.share.size)
            except CairnError as error:
                reply.error, reply.detail = error.code, error.detail
        connection.sendmsg([reply.SerializeToString()])
        return reply.share.buffer

    async def _finish(self, answering: Coroutine[None, None, None]) -> None:
        """Wait also when cancelled: the connection must stay open while a thread uses it."""
        job = asyncio.get_running_loop().create_task(answering)
        try:
            await asyncio.shield(job)
        finally:
            await asyncio.wait([job])

    async def close(self) -> None:
        """Drop every connection and listen no more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()


async def _receive(connection: socket.socket) -> tuple[chunks_pb2.SideRequest | None, list[int]]:
    """The next request, None at the end, and the descriptors that came with it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
    packet, ancillary, _, _ = connection.recvmsg(
        limits.LOCATE_MESSAGE_MAX_BYTES, descriptors.ANCILLARY_BYTES, descriptors.RECEIVE_FLAGS
    )
    received = descriptors.received_descriptors(ancillary)
    try:
        return (chunks_pb2.SideRequest.FromString(packet) if packet else None), received
    except DecodeError:
        for fd in received:
            os.close(fd)
        raise


def _refusal(request: chunks_pb2.SideRequest) -> chunks_pb2.SideReply | None:
    if request.version != descriptors.VERSION:
        detail = f"version {request.version} is not spoken here, but {descriptors.VERSION}"
        return chunks_pb2.SideReply(error=common_pb2.ERROR_CODE_NOT_SUPPORTED, detail=detail)
    if len(request.locate.chunk_ids) > limits.LOCATE_CHUNKS_MAX:
        return chunks_pb2.SideReply(error=common_pb2.ERROR_CODE_INVALID, detail="too many chunks")
    return None


def _answer(connection: socket.socket, store: ChunkStore, request: chunks_pb2.SideRequest) -> None:
    """Locate, send and close, all in one visit to a thread, so that no descriptor is ever left over."""
    refusal = _refusal(request)
    if refusal is not None:
        connection.sendmsg([refusal.SerializeToString()])
        return
    answer = _Answer(request.locate.held_packs)
    try:
        for chunk_id in request.locate.chunk_ids:
            answer.add(store, chunk_id)
        message = chunks_pb2.SideReply(locate=answer.reply).SerializeToString()
        connection.sendmsg([message], descriptors.ancillary(answer.open))
    finally:
        for fd in answer.open:
            os.close(fd)


class _Answer:
    """A reply being put together, and the descriptors that go with it."""

    def __init__(self, held_packs: Sequence[int]) -> None:
        self.reply = chunks_pb2.LocateReply()
        self.open: list[int] = []
        self._packs = dict.fromkeys(held_packs, 0)  # to the number of its descriptor
        self._named: set[bytes] = set()
        self._neighbours = 0

    def add(self, store: ChunkStore, chunk_id: bytes) -> None:
        """Name the place of a chunk, and of some that were stored after it."""
        if chunk_id in self._named:
            return
        try:
            location = store.locate(chunk_id, self._packs)
        except CairnError as error:
            self.reply.places.add(chunk_id=chunk_id, error=error.code)
            return
        self._put(location)
        if location.pack:
            for neighbour in store.locate_neighbours(chunk_id):
                if (
                    self._neighbours < limits.LOCATE_AHEAD_CHUNKS_MAX
                    and neighbour.chunk_id not in self._named
                ):
                    self._neighbours += 1
                    self._put(neighbour)

    def _put(self, location: ChunkLocation) -> None:
        number = self._packs.get(location.pack, 0) if location.pack else 0
        if location.descriptor is not None:
            self.open.append(location.descriptor)
            number = len(self.open)
            if location.pack:
                self._packs[location.pack] = number
        self._named.add(location.chunk_id)
        self.reply.places.add(
            chunk_id=location.chunk_id,
            length=location.length,
            position=location.position,
            pack=location.pack,
            descriptor=number,
            block_checksums=location.block_checksums,
        )
