"""The Metadata service: sessions read and written explicitly, and administration."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import grpc.aio

from cairnfs.base.limits import GRPC_MESSAGE_MAX_BYTES, WELCOME_DEADLINE_S
from cairnfs.base.logs import get_logger
from cairnfs.coordinator.driver import Driver, Outbox
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb, nodes_pb2_grpc

log = get_logger(__name__)

Fsck = Callable[[pb.FsckRequest, Any], AsyncIterator[pb.FsckProgress]]

_SERVICE: Final = "cairnfs.rpc.v1.Metadata"
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", GRPC_MESSAGE_MAX_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
)


class MetadataService:
    """The handlers. Replies of `Session` are serialized by the outbox, so it has no serializer here."""

    def __init__(
        self,
        driver: Driver,
        status: Callable[[], pb.StatusReply],
        cluster_map: Callable[[], common.ClusterMap],
        fsck: Fsck | None = None,
    ) -> None:
        self._driver = driver
        self._status = status
        self._cluster_map = cluster_map
        self._fsck = fsck

    def handler(self) -> grpc.GenericRpcHandler:
        """What a server takes with `add_generic_rpc_handlers`."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Session": grpc.stream_stream_rpc_method_handler(
                self._session, request_deserializer=pb.ClientMessage.FromString
            ),
            "Status": grpc.unary_unary_rpc_method_handler(
                self._get_status,
                request_deserializer=pb.StatusRequest.FromString,
                response_serializer=pb.StatusReply.SerializeToString,
            ),
            "ListNodes": grpc.unary_unary_rpc_method_handler(
                self._list_nodes,
                request_deserializer=pb.ListNodesRequest.FromString,
                response_serializer=pb.ListNodesReply.SerializeToString,
            ),
        }
        if self._fsck is not None:
            handlers["Fsck"] = grpc.unary_stream_rpc_method_handler(
                self._fsck,
                request_deserializer=pb.FsckRequest.FromString,
                response_serializer=pb.FsckProgress.SerializeToString,
            )
        return grpc.method_handlers_generic_handler(_SERVICE, handlers)

    # ------------------------------------------------------------------ sessions

    async def _session(self, _requests: Any, context: Any) -> None:
        hello = await asyncio.wait_for(context.read(), WELCOME_DEADLINE_S)
        if hello is grpc.aio.EOF or not hello.HasField("hello"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a session begins with Hello")
        connection, outbox = self._driver.connect(hello.hello)
        tasks = (
            asyncio.ensure_future(self._receive(connection, context)),
            asyncio.ensure_future(_send(outbox, context)),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._driver.disconnect(connection)
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    log.debug("session_stream_broke", reason=repr(result))

    async def _receive(self, connection: int, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            try:
                self._driver.message(connection, message)
            except Exception:
                log.exception("message_failed")
                return

    # ------------------------------------------------------------------ administration

    async def _get_status(self, _request: pb.StatusRequest, _context: Any) -> pb.StatusReply:
        return self._status()

    async def _list_nodes(self, _request: pb.ListNodesRequest, _context: Any) -> pb.ListNodesReply:
        return pb.ListNodesReply(cluster_map=self._cluster_map())


async def _send(outbox: Outbox, context: Any) -> None:
    while message := await outbox.take():
        await context.write(message)


class Server:
    """The gRPC server of a coordinator."""

    def __init__(self, metadata: MetadataService, nodes: nodes_pb2_grpc.NodesServicer) -> None:
        self._server = grpc.aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers((metadata.handler(),))
        nodes_pb2_grpc.add_NodesServicer_to_server(nodes, self._server)

    def bind(self, listen: str) -> str:
        """Take HOST:PORT; returns it with the port that port 0 came to. Raises OSError."""
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: is the address in use?") from error
        return f"{listen.rpartition(':')[0]}:{port}"

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once, breaking all streams."""
        await self._server.stop(None)
