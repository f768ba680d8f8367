"""The side socket: hands descriptors of chunk files to clients of this host, which read them themselves.

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
from cairnfs.datanode.disk import Disk
from cairnfs.datanode.store.interface import ChunkLocation, ChunkStore
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)

ACCEPT_PAUSE_S: Final = 1.0  # after a connection could not be accepted: the table of descriptors is full
BACKLOG: Final = 64


class SideSocket:
    """Serves LocateRequests. Make it and use it on one event loop."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
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
        loop = asyncio.get_running_loop()
        with connection:
            try:
                while packet := await loop.sock_recv(connection, limits.LOCATE_MESSAGE_MAX_BYTES):
                    request = chunks_pb2.LocateRequest.FromString(packet)
                    await self._finish(self._disk.run(_answer, connection, self._disk.store, request))
            except (OSError, DecodeError) as error:
                _log.info("side connection ended", detail=str(error))

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


def _answer(connection: socket.socket, store: ChunkStore, request: chunks_pb2.LocateRequest) -> None:
    """Locate, send and close, all in one visit to a thread, so that no descriptor is ever left over."""
    problem = _problem(request)
    if problem is not None:
        connection.sendmsg([problem.SerializeToString()])
        return
    answer = _Answer(request.held_packs)
    try:
        for chunk_id in request.chunk_ids:
            answer.add(store, chunk_id)
        message = answer.reply.SerializeToString()
        connection.sendmsg([message], descriptors.ancillary(answer.open))
    finally:
        for fd in answer.open:
            os.close(fd)


def _problem(request: chunks_pb2.LocateRequest) -> chunks_pb2.LocateReply | None:
    if request.version != descriptors.VERSION:
        detail = f"version {request.version} is not spoken here, but {descriptors.VERSION}"
        return chunks_pb2.LocateReply(error=common_pb2.ERROR_CODE_NOT_SUPPORTED, detail=detail)
    if len(request.chunk_ids) > limits.LOCATE_CHUNKS_MAX:
        return chunks_pb2.LocateReply(error=common_pb2.ERROR_CODE_INVALID, detail="too many chunks")
    return None


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
