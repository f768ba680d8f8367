"""The client's end of a datanode's side socket: requests, replies, and descriptors that go with them."""

import os
import socket
from collections.abc import Sequence
from typing import Protocol

import trio
from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.bulk import descriptors
from cairnfs.rpc.v1 import chunks_pb2, common_pb2


class SideConnection(Protocol):
    """One connection to a side socket; one task at a time asks."""

    async def ask(
        self, request: chunks_pb2.SideRequest, sent: Sequence[int] = ()
    ) -> tuple[chunks_pb2.SideReply, list[int]]:
        """The reply and the descriptors that came with it, which are the caller's; those `sent` stay so.

        Raises CairnError UNAVAILABLE when the connection is over, OVERLOADED when this process cannot hold
        the descriptors, and what the datanode says. After an error, or when cancelled, only `close` is left.
        """
        ...

    def close(self) -> None:
        """Drop the connection; idempotent."""
        ...


class SideDialer(Protocol):
    """Connects to side sockets."""

    async def __call__(self, unix_socket: str, /) -> SideConnection:
        """To the datanode whose gRPC socket has this name.

        Raises CairnError UNAVAILABLE when nobody listens, ACCESS when a stranger does.
        """
        ...


async def dial(unix_socket: str) -> SideConnection:
    """See `SideDialer`."""
    connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        try:
            await connection.connect(descriptors.side_address(unix_socket))
        except OSError as error:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, f"side socket: {error.strerror}") from None
        if not descriptors.is_trusted(connection):
            uid = descriptors.peer_uid(connection)
            raise CairnError(common_pb2.ERROR_CODE_ACCESS, f"the side socket belongs to user {uid}")
    except BaseException:
        connection.close()
        raise
    return _SocketConnection(connection)


class _SocketConnection:
    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._connection = connection

    async def ask(
        self, request: chunks_pb2.SideRequest, sent: Sequence[int] = ()
    ) -> tuple[chunks_pb2.SideReply, list[int]]:
        request.version = descriptors.VERSION
        try:
            await self._connection.sendmsg([request.SerializeToString()], descriptors.ancillary(sent))
            packet, ancillary, flags, _ = await self._connection.recvmsg(
                limits.LOCATE_MESSAGE_MAX_BYTES, descriptors.ANCILLARY_BYTES, descriptors.RECEIVE_FLAGS
            )
        except OSError as error:
            raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, f"side socket: {error.strerror}") from None
        received = descriptors.received_descriptors(ancillary)
        try:
            return _understood(packet, flags), received
        except BaseException:
            for descriptor in received:
                os.close(descriptor)
            raise

    def close(self) -> None:
        self._connection.close()


def _understood(packet: bytes, flags: int) -> chunks_pb2.SideReply:
    if not packet:
        raise CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, "side socket: ended by the datanode")
    if flags & socket.MSG_CTRUNC:
        raise CairnError(common_pb2.ERROR_CODE_OVERLOADED, "no room for more descriptors")
    try:
        reply = chunks_pb2.SideReply.FromString(packet)
    except DecodeError as error:
        raise CairnError(common_pb2.ERROR_CODE_INVALID, f"side socket: {error}") from None
    if reply.error != common_pb2.ERROR_CODE_OK:
        raise CairnError(reply.error, reply.detail)
    return reply
