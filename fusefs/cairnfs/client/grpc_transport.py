"""The transport seams over gRPC, by TCP or by the Unix socket of a datanode of the same host."""

from typing import Final

import trio

from cairnfs.base.checksums import crc32c
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.client.streams import UNIX, Method, Stream
from cairnfs.client.transport import RetrievedFrame
from cairnfs.rpc.v1 import chunks_pb2, common_pb2, metadata_pb2 as pb

_SESSION: Final[Method[pb.ClientMessage, pb.ServerMessage]] = Method(
    "/cairnfs.rpc.v1.Metadata/Session", pb.ClientMessage.SerializeToString, pb.ServerMessage.FromString
)


def _encode_frame(frame: ChunkFrame) -> bytes:
    if frame.shared is None:
        frame.crc32c = crc32c(frame.data)
    return encode_chunk_data(frame)


def _decode_frame(message: bytes) -> RetrievedFrame:
    frame = decode_chunk_data(message)
    return RetrievedFrame(
        transfer=frame.transfer,
        offset=frame.offset,
        data=frame.data,
        is_final=frame.is_final,
        intact=crc32c(frame.data) == frame.crc32c,
        error=frame.error,
        detail=frame.detail,
    )


_STORE: Final[Method[ChunkFrame, chunks_pb2.ChunkDataAck]] = Method(
    "/cairnfs.rpc.v1.Chunks/StoreChunk", _encode_frame, chunks_pb2.ChunkDataAck.FromString
)
_RETRIEVE: Final[Method[chunks_pb2.RetrieveChunkRequest, RetrievedFrame]] = Method(
    "/cairnfs.rpc.v1.Chunks/RetrieveChunk",
    chunks_pb2.RetrieveChunkRequest.SerializeToString,
    _decode_frame,
)


class GrpcMetadataTransport:
    """`MetadataTransport` over gRPC."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """`nursery` owns the tasks that wait for full sockets."""
        self._nursery = nursery

    def connect(self, address: str) -> Stream[pb.ClientMessage, pb.ServerMessage]:
        """See `MetadataTransport.connect`."""
        return Stream(self._nursery, address, _SESSION)


class GrpcChunkTransport:
    """`ChunkTransport` over gRPC: by Unix socket to a node of this host, by TCP to any other."""

    def __init__(self, nursery: trio.Nursery, host_id: str) -> None:
        """`nursery` owns the tasks that wait for full sockets."""
        self._nursery = nursery
        self._host_id = host_id

    def open_store(self, node: common_pb2.NodeInfo) -> Stream[ChunkFrame, chunks_pb2.ChunkDataAck]:
        """See `ChunkTransport.open_store`."""
        return Stream(self._nursery, self._target(node), _STORE)

    def open_retrieve(
        self, node: common_pb2.NodeInfo
    ) -> Stream[chunks_pb2.RetrieveChunkRequest, RetrievedFrame]:
        """See `ChunkTransport.open_retrieve`."""
        return Stream(self._nursery, self._target(node), _RETRIEVE)

    def _target(self, node: common_pb2.NodeInfo) -> str:
        if node.unix_socket and node.host_id == self._host_id:
            return UNIX + node.unix_socket
        return node.address
