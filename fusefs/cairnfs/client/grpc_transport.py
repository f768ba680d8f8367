"""The chunk transport over gRPC: each stream has a channel of its own, served by the wire thread."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import grpc
import grpc.aio

from cairnfs.base import limits
from cairnfs.base.checksums import crc32c
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.bulk.codec import ChunkFrame, decode_chunk_data, encode_chunk_data
from cairnfs.client.grpc_reasons import short_reason
from cairnfs.client.transport import RetrievedFrame
from cairnfs.client.waiting import Bell
from cairnfs.client.wire import Wire
from cairnfs.rpc.v1 import chunks_pb2, common_pb2

_log = get_logger(__name__)

Out = TypeVar("Out")
In = TypeVar("In")

CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.use_local_subchannel_pool", 1),  # no back-off inherited from an earlier channel
    ("grpc.min_reconnect_backoff_ms", 2_000),  # also bounds one attempt to connect
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True)
class _Method(Generic[Out, In]):
    """One streaming method and its codec; gRPC itself sees bytes only."""

    path: str
    encode: Callable[[Out], bytes]
    decode: Callable[[bytes], In]


class _GrpcStream(Generic[Out, In]):
    """One stream: methods run on the trio thread, those with `wire` in their name in the wire thread."""

    def __init__(self, wire: Wire, target: str, method: _Method[Out, In]) -> None:
        self._wire = wire
        self._target = target
        self._method = method
        # trio thread
        self._inbox: list[In] = []
        self._bell = Bell()
        self._error: CairnError | None = None
        # wire thread
        self._outbox: deque[Out] = deque()
        self._finishing = False
        self._call: Any = None
        self._closed = False
        self._outbox_filled = asyncio.Event()
        self._resumed = asyncio.Event()
        self._delivered = 0
        # written by one thread, read by the other
        self._taken = 0
        self._paused = False
        wire.post(self._start_in_wire)

    # -------------------------------------------------------------- trio thread

    def send(self, item: Out) -> None:
        """Queue an item; dropped when the stream is over."""
        self._wire.post(self._queue_in_wire, item)

    async def receive(self) -> list[In]:
        """Everything that arrived, at least one; CairnError UNAVAILABLE when the stream is over."""
        while not self._inbox:
            if self._error is not None:
                raise self._error
            await self._bell.wait()
        batch, self._inbox = self._inbox, []
        self._taken += len(batch)
        if self._paused:
            self._wire.post(self._resumed.set)
        return batch

    def finish(self) -> None:
        """Half-close: nothing more will be sent."""
        self._wire.post(self._finish_in_wire)

    def close(self) -> None:
        """Drop the stream at once; idempotent."""
        self._wire.post(self._close_in_wire)
        self._over(CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, f"stream to {self._target} closed"))

    def _arrived(self, item: In) -> None:
        self._inbox.append(item)
        self._bell.ring()

    def _over(self, error: CairnError) -> None:
        self._error = self._error or error
        self._bell.ring()

    # -------------------------------------------------------------- wire thread

    def _start_in_wire(self) -> None:
        self._wire.spawn(self._serve_in_wire())

    def _queue_in_wire(self, item: Out) -> None:
        self._outbox.append(item)
        self._outbox_filled.set()

    def _finish_in_wire(self) -> None:
        self._finishing = True
        self._outbox_filled.set()

    def _close_in_wire(self) -> None:
        self._closed = True
        self._outbox.clear()
        if self._call is not None:
            self._call.cancel()

    async def _serve_in_wire(self) -> None:
        if self._closed:
            return
        detail = "ended by the peer"
        channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
        try:
            call = self._call = _open_call(channel, self._method.path)
            writer = asyncio.ensure_future(self._write_in_wire(call))
            try:
                await self._read_in_wire(call)
            except grpc.aio.AioRpcError as error:
                detail = short_reason(error.details(), error.code().name)
            except CairnError as error:  # what arrived was malformed
                detail = str(error)
            except asyncio.CancelledError:
                if not call.cancelled():
                    raise
            finally:
                writer.cancel()
                call.cancel()
                await asyncio.gather(writer, return_exceptions=True)
        finally:
            self._outbox.clear()
            self._wire.post_to_trio(
                self._over, CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, f"{self._target}: {detail}")
            )
            await channel.close()

    async def _read_in_wire(self, call: Any) -> None:
        decode = self._method.decode
        while (message := await call.read()) is not grpc.aio.EOF:
            self._wire.post_to_trio(self._arrived, decode(message))
            self._delivered += 1
            while self._delivered - self._taken > limits.SESSION_INBOX_MESSAGES:
                self._resumed.clear()
                self._paused = True
                if self._delivered - self._taken > limits.SESSION_INBOX_MESSAGES:
                    await self._resumed.wait()
                self._paused = False

    async def _write_in_wire(self, call: Any) -> None:
        encode = self._method.encode
        try:
            while True:
                while self._outbox:
                    await call.write(encode(self._outbox.popleft()))
                if self._finishing:
                    await call.done_writing()
                    return
                self._outbox_filled.clear()
                await self._outbox_filled.wait()
        except (grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            return  # the reader reports why
        except CairnError as error:
            _log.error("cannot encode a message", target=self._target, error=str(error))
            call.cancel()


def _open_call(channel: Any, path: str) -> Any:
    """A stream of bytes in both directions."""
    return channel.stream_stream(path)()


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


_STORE: Final[_Method[ChunkFrame, chunks_pb2.ChunkDataAck]] = _Method(
    "/cairnfs.rpc.v1.Chunks/StoreChunk", _encode_frame, chunks_pb2.ChunkDataAck.FromString
)
_RETRIEVE: Final[_Method[chunks_pb2.RetrieveChunkRequest, RetrievedFrame]] = _Method(
    "/cairnfs.rpc.v1.Chunks/RetrieveChunk",
    chunks_pb2.RetrieveChunkRequest.SerializeToString,
    _decode_frame,
)


class GrpcChunkTransport:
    """`ChunkTransport` over gRPC: by Unix socket to a node of this host, by TCP to any other."""

    def __init__(self, wire: Wire, host_id: str) -> None:
        self._wire = wire
        self._host_id = host_id

    def open_store(self, node: common_pb2.NodeInfo) -> _GrpcStream[ChunkFrame, chunks_pb2.ChunkDataAck]:
        """See `ChunkTransport.open_store`."""
        return _GrpcStream(self._wire, self._target(node), _STORE)

    def open_retrieve(
        self, node: common_pb2.NodeInfo
    ) -> _GrpcStream[chunks_pb2.RetrieveChunkRequest, RetrievedFrame]:
        """See `ChunkTransport.open_retrieve`."""
        return _GrpcStream(self._wire, self._target(node), _RETRIEVE)

    def _target(self, node: common_pb2.NodeInfo) -> str:
        if node.unix_socket and node.host_id == self._host_id:
            return f"unix-abstract:{node.unix_socket}"
        return node.address
