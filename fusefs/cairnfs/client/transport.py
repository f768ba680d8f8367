"""The seams under the client: streams to coordinators and datanodes, whatever carries them.

`grpc_transport.py` implements them; tests implement them in memory. Opening
and sending never block: how much is under way is bounded by who sends (outstanding requests, credit).
"""

from dataclasses import dataclass
from typing import Protocol

from cairnfs.bulk.codec import Buffer, ChunkFrame
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, metadata_pb2 as pb


class MetadataStream(Protocol):
    """One session stream."""

    def send(self, message: pb.ClientMessage, /) -> None:
        """Queue a message; one that cannot be sent any more is dropped (`receive` tells)."""
        ...

    async def receive(self) -> list[pb.ServerMessage]:
        """Everything that arrived, at least one message; CairnError UNAVAILABLE when the stream is over."""
        ...

    def finish(self) -> None:
        """Nothing more will be sent; the peer ends the stream when it has handled everything."""
        ...

    def close(self) -> None:
        """Drop the stream at once; idempotent."""
        ...


class MetadataTransport(Protocol):
    """Dials coordinators."""

    def connect(self, address: str) -> MetadataStream:
        """A stream to HOST:PORT, at once; whether anybody answers is learned from `receive`."""
        ...


@dataclass(slots=True)
class RetrievedFrame:
    """One piece of a chunk that arrived; `intact` is whether its CRC-32C was right."""

    transfer: int
    offset: int
    data: Buffer
    is_final: bool
    intact: bool = True
    error: int = common_pb2.ERROR_CODE_OK
    detail: str = ""


class StoreStream(Protocol):
    """A long-lived StoreChunk stream to one datanode."""

    def send(self, frame: ChunkFrame, /) -> None:
        """Queue a frame, whose checksum is filled in on the way; see `MetadataStream.send`."""
        ...

    async def receive(self) -> list[chunks_pb2.ChunkDataAck]:
        """Everything that arrived, at least one; CairnError UNAVAILABLE when the stream is over."""
        ...

    def close(self) -> None:
        """Drop the stream at once; idempotent."""
        ...


class RetrieveStream(Protocol):
    """A long-lived RetrieveChunk stream to one datanode."""

    def send(self, request: chunks_pb2.RetrieveChunkRequest, /) -> None:
        """Queue a request; see `MetadataStream.send`."""
        ...

    async def receive(self) -> list[RetrievedFrame]:
        """Everything that arrived, at least one; CairnError UNAVAILABLE when the stream is over."""
        ...

    def close(self) -> None:
        """Drop the stream at once; idempotent."""
        ...


class ChunkTransport(Protocol):
    """Dials datanodes."""

    def open_store(self, node: common_pb2.NodeInfo) -> StoreStream:
        """A stream for storing, at once; whether the node answers is learned from `receive`."""
        ...

    def open_retrieve(self, node: common_pb2.NodeInfo) -> RetrieveStream:
        """A stream for retrieving, at once; whether the node answers is learned from `receive`."""
        ...
