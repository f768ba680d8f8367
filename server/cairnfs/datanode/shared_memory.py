"""Memory shared with another datanode of this host, for the frames of a replication stream."""

import asyncio
import socket

from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.bulk import descriptors
from cairnfs.bulk.shared import SendBuffer
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)


class SharedMemory:
    """A buffer, and the connection to the peer's side socket that keeps it known there."""

    def __init__(self, buffer: SendBuffer, connection: socket.socket) -> None:
        self.buffer = buffer
        self._connection = connection

    @classmethod
    async def open(cls, info: common_pb2.NodeInfo, own_host_id: str) -> "SharedMemory | None":
        """Share memory with a datanode; None when it is on another host, or cannot be had."""
        if not info.unix_socket or info.host_id != own_host_id:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            buffer = SendBuffer()
        except OSError as error:
            _log.info("no memory to share", peer=info.node, detail=str(error))
            connection.close()
            return None
        shared = cls(buffer, connection)
        try:
            async with asyncio.timeout(limits.LOCATE_PATIENCE_S):
                buffer.name = await _offer(connection, info.unix_socket, buffer.descriptor)
        except (OSError, TimeoutError, DecodeError) as error:
            _log.info("memory not shared", peer=info.node, detail=str(error))
        except BaseException:
            shared.close()
            raise
        if not buffer.name:
            shared.close()
            return None
        return shared

    def close(self) -> None:
        """Share it no longer."""
        self._connection.close()
        self.buffer.close()


async def _offer(connection: socket.socket, unix_socket: str, descriptor: int) -> str:
    """The name that the datanode gives to a buffer, or ""."""
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, descriptors.side_address(unix_socket))
    if not descriptors.is_trusted(connection):
        return ""
    request = chunks_pb2.SideRequest(version=descriptors.VERSION)
    request.share.size = limits.SHARED_BUFFER_BYTES
    connection.sendmsg([request.SerializeToString()], descriptors.ancillary([descriptor]))
    packet = await loop.sock_recv(connection, limits.LOCATE_MESSAGE_MAX_BYTES)
    return chunks_pb2.SideReply.FromString(packet).share.buffer
