"""The gRPC server on loopback, asked by grpcio and by raw bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest

from cairnfs.base import limits
from cairnfs.http2 import frames
from cairnfs.http2.calls import Status, request_fields
from cairnfs.rpc.v1 import metadata_pb2 as pb, nodes_pb2
from cairnfs.serving.methods import many_answers, many_requests, unary
from cairnfs.serving.server import Call, Opener, Server

MIB = limits.MIB
OPTIONS = (
    ("grpc.max_receive_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
    ("grpc.max_send_message_length", limits.GRPC_MESSAGE_MAX_BYTES),
)
Body = Callable[[grpc.aio.Channel, str], Awaitable[None]]


def serve(methods: Mapping[str, Opener], body: Body) -> None:
    """Run `body` with a channel to a server of these methods, and its address."""

    async def run() -> None:
        server = Server(methods)
        address = server.bind("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
                await asyncio.wait_for(body(channel, address), 30)
        finally:
            await server.stop()

    asyncio.run(run())


class Echo:
    """Sends back what it gets, remembers how its call went, and can be told what to do by messages."""

    calls: "list[Echo]"

    def __init__(self, call: Call) -> None:
        self.call = call
        self.log: list[str] = []
        self.unsent: list[bytes] = []
        self.over = asyncio.Event()
        self.held = asyncio.Event()
        self.calls.append(self)

    def message(self, data: bytes) -> None:
        if data == b"fail":
            raise RuntimeError("told to")
        if data == b"refuse":
            self.call.finish(Status.NOT_FOUND, "none such: ü")
            return
        self.unsent.append(data)
        self.unblocked()

    def ended(self) -> None:
        self.log.append("ended")
        self.call.finish()

    def unblocked(self) -> None:
        while self.unsent and not self.call.blocked:
            self.call.send(self.unsent.pop(0))
        if self.unsent:
            self.held.set()

    def gone(self) -> None:
        self.log.append("gone")
        self.over.set()


@pytest.fixture
def echo() -> Mapping[str, Opener]:
    """A method that echoes; `Echo.calls` has its calls."""
    Echo.calls = []
    return {"/t.T/Echo": Echo}


def test_messages_of_every_size_come_back_to_grpcio(echo: Mapping[str, Opener]) -> None:
    async def body(channel: grpc.aio.Channel, _address: str) -> None:
        call: Any = channel.stream_stream("/t.T/Echo")()
        for size in (0, 1, 16_379, 16_384, 65_535, 65_536, MIB, limits.GRPC_MESSAGE_MAX_BYTES - 1):
            await call.write(bytes(size))
            assert len(await call.read()) == size
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() == grpc.StatusCode.OK
        assert Echo.calls[0].log[-1] == "ended"

    serve(echo, body)


def test_a_client_that_does_not_read_blocks_its_call_and_no_other(echo: Mapping[str, Opener]) -> None:
    async def body(channel: grpc.aio.Channel, _address: str) -> None:
        slow: Any = channel.stream_stream("/t.T/Echo")()
        for _ in range(40):
            await slow.write(bytes(MIB))
        await Echo.calls[0].held.wait()
        other: Any = channel.stream_stream("/t.T/Echo")()
        await other.write(b"x")
        assert await other.read() == b"x"
        for _ in range(40):
            assert len(await slow.read()) == MIB
        slow.cancel()
        other.cancel()

    serve(echo, body)


@pytest.mark.announces_warnings("call_failed")
def test_how_calls_end(echo: Mapping[str, Opener]) -> None:
    async def body(channel: grpc.aio.Channel, _address: str) -> None:
        for order, code, detail in (
            (b"refuse", grpc.StatusCode.NOT_FOUND, "none such: ü"),
            (b"fail", grpc.StatusCode.INTERNAL, "internal error"),
        ):
            call: Any = channel.stream_stream("/t.T/Echo")()
            await call.write(order)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert (caught.value.code(), caught.value.details()) == (code, detail)
        cancelled: Any = channel.stream_stream("/t.T/Echo")()
        await cancelled.write(b"x")
        await cancelled.read()
        cancelled.cancel()
        await Echo.calls[-1].over.wait()
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await _call(channel, "unary_unary", "Other", pb.StatusRequest, pb.StatusReply)(pb.StatusRequest())
        assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED

    serve(echo, body)


def test_a_lost_connection_ends_its_calls(echo: Mapping[str, Opener]) -> None:
    async def body(channel: grpc.aio.Channel, address: str) -> None:
        call: Any = channel.stream_stream("/t.T/Echo")()
        await call.write(b"x")
        await call.read()
        await channel.close()
        await Echo.calls[0].over.wait()

    serve(echo, body)


def test_calls_that_ended_take_no_room(echo: Mapping[str, Opener]) -> None:
    async def body(channel: grpc.aio.Channel, _address: str) -> None:
        for _ in range(limits.HTTP2_STREAMS_MAX + 10):
            call: Any = channel.stream_stream("/t.T/Echo")()
            await call.write(b"refuse")
            assert await call.code() == grpc.StatusCode.NOT_FOUND

    serve(echo, body)


async def _conversation(address: str, wire: bytes) -> bytes:
    """What the server says to these bytes until it hangs up."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(wire)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_what_is_not_grpc_is_told_so(echo: Mapping[str, Opener]) -> None:
    async def body(_channel: grpc.aio.Channel, address: str) -> None:
        answer = await _conversation(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.endswith(b"this is not HTTP/2")
        begin = frames.frame(
            frames.FrameType.HEADERS,
            frames.Flag.END_HEADERS,
            1,
            frames.encode_fields(request_fields("x", "/t.T/Echo")),
        )
        bomb = frames.frame(frames.FrameType.DATA, 0, 1, b"\x00\xff\xff\xff\xff")
        assert b"too large message" in await _conversation(address, frames.PREFACE + begin + bomb)
        assert Echo.calls[-1].log == ["gone"]

    serve(echo, body)


async def _status(request: pb.StatusRequest, _context: object) -> pb.StatusReply:
    return pb.StatusReply(cluster_id="c" * 100)


async def _broken(request: pb.StatusRequest, _context: object) -> pb.StatusReply:
    raise RuntimeError("told to")


async def _count(requests: AsyncIterator[nodes_pb2.ChunkReport], _context: object) -> pb.StatusReply:
    await asyncio.sleep(0.05)  # lets more arrive than is queued
    return pb.StatusReply(sessions=len([request async for request in requests]))


async def _steps(request: pb.FsckRequest, _context: object) -> AsyncIterator[pb.FsckProgress]:
    for number in range(100):
        yield pb.FsckProgress(phase="x" * 10_000, report=pb.FsckReport(chunks=number))


def _call(channel: grpc.aio.Channel, kind: str, name: str, request: Any, reply: Any) -> Any:
    return getattr(channel, kind)(
        f"/t.T/{name}", request_serializer=request.SerializeToString, response_deserializer=reply.FromString
    )


METHODS = {
    "/t.T/Status": unary(pb.StatusRequest, _status),
    "/t.T/Broken": unary(pb.StatusRequest, _broken),
    "/t.T/Count": many_requests(nodes_pb2.ChunkReport, _count),
    "/t.T/Steps": many_answers(pb.FsckRequest, _steps),
}


@pytest.mark.announces_warnings("call_failed")
def test_methods_served_by_coroutines() -> None:
    async def body(channel: grpc.aio.Channel, _address: str) -> None:
        ask = _call(channel, "unary_unary", "Status", pb.StatusRequest, pb.StatusReply)
        assert (await ask(pb.StatusRequest(), timeout=5)).cluster_id == "c" * 100
        many = 5 * limits.HTTP2_QUEUED_MESSAGES
        count = _call(channel, "stream_unary", "Count", nodes_pb2.ChunkReport, pb.StatusReply)
        assert (await count(nodes_pb2.ChunkReport() for _ in range(many))).sessions == many
        steps = _call(channel, "unary_stream", "Steps", pb.FsckRequest, pb.FsckProgress)
        found = [progress.report.chunks async for progress in steps(pb.FsckRequest())]
        assert found == list(range(100))
        raw: Any = channel.unary_unary
        for name, request in (("Broken", b""), ("Status", b"\xff")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await raw(f"/t.T/{name}")(request)
            assert caught.value.code() == grpc.StatusCode.INTERNAL

    serve(METHODS, body)


def test_a_deadline_of_the_client_cancels_the_coroutine() -> None:
    cancelled = asyncio.Event()

    async def wait(_request: pb.StatusRequest, _context: object) -> pb.StatusReply:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return pb.StatusReply()

    async def body(channel: grpc.aio.Channel, _address: str) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _call(channel, "unary_unary", "Wait", pb.StatusRequest, pb.StatusReply)(
                pb.StatusRequest(), timeout=0.05
            )
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await cancelled.wait()

    serve({"/t.T/Wait": unary(pb.StatusRequest, wait)}, body)


def test_an_address_in_use_is_refused() -> None:
    async def run() -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        with taken, pytest.raises(OSError, match="cannot listen"):
            Server({}).bind(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(OSError, match="cannot listen"):
            Server({}).bind("name.invalid:0")
        server = Server({})
        assert server.bind("localhost:0").startswith("localhost:")
        await server.stop()

    asyncio.run(run())
