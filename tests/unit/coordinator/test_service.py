"""The Metadata service over loopback, asked by grpcio, with the memory engine."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain
from typing import Any

import grpc.aio
import pytest

from cairnfs.base.settings import CoordinatorSettings
from cairnfs.coordinator.assembly import Coordinator
from cairnfs.coordinator.driver import Outbox
from cairnfs.engine.interface import EngineUnreachable
from cairnfs.engine.memory import MemoryEngine
from cairnfs.rpc.v1 import common_pb2 as common, metadata_pb2 as pb, metadata_pb2_grpc

Body = Callable[[Coordinator, "metadata_pb2_grpc.MetadataAsyncStub"], Awaitable[None]]


def serve(body: Body) -> None:
    """Run `body` against a coordinator."""

    async def run() -> None:
        engine = MemoryEngine()
        coordinator = Coordinator(CoordinatorSettings(listen="127.0.0.1:0"), engine)
        await coordinator.start()
        try:
            async with grpc.aio.insecure_channel(coordinator.address) as channel:
                await body(coordinator, metadata_pb2_grpc.MetadataStub(channel))
        finally:
            await coordinator.stop()
            engine.close()

    asyncio.run(run())


async def session(stub: Any) -> tuple[Any, pb.Welcome]:
    """Open a session."""
    stream = stub.Session()
    await stream.write(pb.ClientMessage(hello=pb.Hello(subdir="/", description="test")))
    first = await stream.read()
    return stream, first.events[0].welcome


async def replies(stream: Any, count: int) -> dict[int, pb.Reply]:
    """Read until `count` replies have come."""
    found: dict[int, pb.Reply] = {}
    while len(found) < count:
        message = await stream.read()
        found.update({event.reply.seq: event.reply for event in message.events if event.HasField("reply")})
    return found


def test_a_session_over_the_wire() -> None:
    async def body(coordinator: Coordinator, stub: Any) -> None:
        stream, welcome = await session(stub)
        assert welcome.cluster_id == coordinator.cluster_id
        batch = [
            pb.Request(seq=number, mkdir=pb.MkDir(parent=1, name=b"d%d" % number, mode=0o755))
            for number in range(1, 51)
        ]
        await stream.write(pb.ClientMessage(requests=batch))
        found = await replies(stream, 50)
        assert all(reply.error == common.ERROR_CODE_OK for reply in found.values())
        await stream.write(pb.ClientMessage(requests=[pb.Request(seq=51, statfs=pb.StatFs())]))
        assert (await replies(stream, 1))[51].statfs.inodes_used == 51
        status = await stub.Status(pb.StatusRequest())
        assert [info.description for info in status.session_list] == ["test"]
        assert (await stub.ListNodes(pb.ListNodesRequest())).HasField("cluster_map")
        await stream.write(pb.ClientMessage(goodbye=True))
        assert await stream.read() is grpc.aio.EOF

    serve(body)


def test_a_stream_that_does_not_begin_with_hello_is_refused() -> None:
    async def body(_coordinator: Coordinator, stub: Any) -> None:
        stream = stub.Session()
        await stream.write(pb.ClientMessage())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT

    serve(body)


def test_a_broken_stream_leaves_the_session_to_come_back() -> None:
    async def body(coordinator: Coordinator, stub: Any) -> None:
        stream, welcome = await session(stub)
        stream.cancel()
        again = stub.Session()
        hello = pb.Hello(session_id=welcome.session_id, incarnation=welcome.incarnation, subdir="/")
        await again.write(pb.ClientMessage(hello=hello))
        resumed = (await again.read()).events[0].welcome
        assert resumed.resumed
        assert resumed.session_id == welcome.session_id
        again.cancel()

    serve(body)


def test_fsck_tells_of_a_sound_file_system() -> None:
    async def body(_coordinator: Coordinator, stub: Any) -> None:
        messages = [progress async for progress in stub.Fsck(pb.FsckRequest())]
        assert messages[-1].report.directories == 1
        assert not messages[-1].report.problems

    serve(body)


@pytest.mark.announces_warnings("metadata engine failed", "upkeep waits for the metadata engine")
def test_an_operator_is_told_when_the_engine_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_engine: MemoryEngine, _body: object) -> None:
        raise EngineUnreachable("the database is starting up")

    async def body(_coordinator: Coordinator, stub: Any) -> None:
        monkeypatch.setattr(MemoryEngine, "read", refuse)

        async def check() -> None:
            async for _ in stub.Fsck(pb.FsckRequest()):
                pass

        for asking in (stub.Status(pb.StatusRequest()), check()):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asking
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "try again" in (caught.value.details() or "")

    serve(body)


def test_events_of_a_step_stay_together_and_large_ones_are_split() -> None:
    filled: list[bool] = []
    outbox = Outbox(lambda: filled.append(True))
    large = pb.Event(reply=pb.Reply(seq=1, detail="x" * 600_000))
    outbox.put([large, pb.Event(recall=pb.Recall(id=5)), large, large])
    outbox.close()
    messages = []
    while message := outbox.take():
        messages.append([event.WhichOneof("kind") for event in pb.ServerMessage.FromString(message).events])
    assert list(chain.from_iterable(messages)) == ["reply", "recall", "reply", "reply"]
    assert messages[0][:2] == ["reply", "recall"]
    assert len(messages) > 1
    assert outbox.size_bytes == 0
    assert filled == [True, True]


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "nonsense"])
def test_unsafe_addresses_are_refused(listen: str) -> None:
    async def body() -> None:
        with pytest.raises(ValueError, match=r"listen|HOST"):
            Coordinator(CoordinatorSettings(listen=listen), MemoryEngine())

    asyncio.run(body())
