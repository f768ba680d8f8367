"""The coordinators of a datanode's list: one is used until it fails, then the next."""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import grpc.aio

from cairnfs.base import limits
from cairnfs.rpc.v1 import nodes_pb2, nodes_pb2_grpc

CHANNEL_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.enable_retries", 0),
    # A channel of its own after a failure must not inherit the back-off of the old one.
    ("grpc.use_local_subchannel_pool", 1),
)


class Coordinators:
    """Calls the service Nodes. Every call raises grpc.aio.AioRpcError when it fails."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._current = 0
        self._channel: grpc.aio.Channel | None = None

    @property
    def address(self) -> str:
        """The coordinator in use."""
        return self._addresses[self._current]

    async def register(self, request: nodes_pb2.RegisterRequest) -> nodes_pb2.RegisterReply:
        """Register this datanode."""
        reply: nodes_pb2.RegisterReply = await self._stub().Register(request, timeout=limits.RPC_DEADLINE_S)
        return reply

    async def heartbeat(
        self, request: nodes_pb2.HeartbeatRequest, deadline_s: float
    ) -> nodes_pb2.HeartbeatReply:
        """Send a heartbeat."""
        reply: nodes_pb2.HeartbeatReply = await self._stub().Heartbeat(request, timeout=deadline_s)
        return reply

    async def report_chunks(self, pages: AsyncIterator[nodes_pb2.ChunkReport]) -> nodes_pb2.ChunkReportReply:
        """Send a full report; it takes as long as it takes to read the pages."""
        reply: nodes_pb2.ChunkReportReply = await self._stub().ReportChunks(pages)
        return reply

    async def use_next(self) -> bool:
        """Turn to the next coordinator; True when the list starts again."""
        await self.close()
        self._current = (self._current + 1) % len(self._addresses)
        return self._current == 0

    def _stub(self) -> Any:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        return nodes_pb2_grpc.NodesStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
