"""A trivial metadata server in a process of its own: greets, and answers every request with nothing.

Run as a script: prints its port, serves until standard input ends. Requests that the tests use as levers:
lookup of `end` ends the stream with an error; lookup of `crash` kills the process.
"""

import asyncio
import os
import sys
from typing import Any

import grpc.aio
import uvloop

from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb


async def _session(_requests: Any, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        answer = pb.ServerMessage()
        if message.HasField("hello"):
            answer.events.add().welcome.MergeFrom(
                pb.Welcome(session_id="s", resumed=message.hello.session_id == "s", lease_ms=10_000)
            )
        elif message.goodbye:
            return
        elif not message.requests:
            answer.events.add().heartbeat.SetInParent()
        for request in message.requests:
            if request.lookup.name == b"end":
                await context.abort(grpc.StatusCode.UNAVAILABLE, "ended as asked")
            if request.lookup.name == b"crash":
                os._exit(1)
            answer.events.add().reply.MergeFrom(_reply(request))
        await context.write(answer)


def _reply(request: pb.Request) -> pb.Reply:
    reply = pb.Reply(seq=request.seq)
    if request.WhichOneof("op") == "get_attr":
        reply.attr.attr.ino = request.get_attr.ino
    if request.lookup.name == b"absent":
        reply.error = common_pb2.ERROR_CODE_NOT_FOUND
    return reply


class _Metadata:
    """The service; only what the client uses."""

    async def status(self, _request: pb.StatusRequest, _context: Any) -> pb.StatusReply:
        return pb.StatusReply(cluster_id="trivial")

    async def list_nodes(self, _request: pb.ListNodesRequest, _context: Any) -> pb.ListNodesReply:
        nodes = [common_pb2.NodeInfo(node=1)]
        return pb.ListNodesReply(cluster_map=common_pb2.ClusterMap(version=1, nodes=nodes))

    async def fsck(self, request: pb.FsckRequest, context: Any) -> None:
        """Refuses anything but a check of the data."""
        if not request.verify_data:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not in this state")
        await context.write(pb.FsckProgress(phase="names"))
        await context.write(pb.FsckProgress(phase="data", report=pb.FsckReport(chunks=7)))


def _handlers() -> grpc.GenericRpcHandler:
    service = _Metadata()
    return grpc.method_handlers_generic_handler(
        "cairnfs.rpc.v1.Metadata",
        {
            "Session": grpc.stream_stream_rpc_method_handler(
                _session, pb.ClientMessage.FromString, pb.ServerMessage.SerializeToString
            ),
            "Status": grpc.unary_unary_rpc_method_handler(
                service.status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
            ),
            "ListNodes": grpc.unary_unary_rpc_method_handler(
                service.list_nodes, pb.ListNodesRequest.FromString, pb.ListNodesReply.SerializeToString
            ),
            "Fsck": grpc.unary_stream_rpc_method_handler(
                service.fsck, pb.FsckRequest.FromString, pb.FsckProgress.SerializeToString
            ),
        },
    )


async def _main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(_main())
