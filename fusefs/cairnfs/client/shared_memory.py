"""Shares memory with a datanode of this host: the frames of a store stream travel without their bytes."""

from typing import Protocol

import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.bulk.shared import SendBuffer
from cairnfs.client.side_socket import SideConnection, SideDialer
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)


class BufferUser(Protocol):
    """A stream that places its frames in `buffer` while it has one."""

    buffer: SendBuffer | None


async def share_memory(info: common_pb2.NodeInfo, dialer: SideDialer, user: BufferUser) -> None:
    """Give `user` a buffer until cancelled; at once none, when the datanode takes none."""
    connection: SideConnection | None = None
    buffer: SendBuffer | None = None
    try:
        with trio.fail_after(limits.HEDGE_MAX_S):
            connection = await dialer(info.unix_socket)
            buffer = SendBuffer()
            request = chunks_pb2.SideRequest(share=chunks_pb2.ShareRequest(size=limits.SHARED_BUFFER_BYTES))
            reply, _ = await connection.ask(request, [buffer.descriptor])
        buffer.name = reply.share.buffer
        user.buffer = buffer
        await trio.sleep_forever()
    except (CairnError, OSError, trio.TooSlowError) as error:
        _log.debug("no memory shared with a datanode", node=info.node, detail=str(error))
    finally:
        user.buffer = None
        if buffer is not None:
            buffer.close()
        if connection is not None:
            connection.close()
