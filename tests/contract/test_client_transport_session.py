"""What every metadata transport does for a session, in memory and over gRPC on loopback."""

import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.grpc_transport import GrpcMetadataTransport
from cairnfs.client.session import Session
from cairnfs.client.session_core import Identity
from cairnfs.client.transport import MetadataTransport
from cairnfs.client.wire import open_wire
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb
from tests.unit.client.memory import FakeCoordinator, MemoryMetadataTransport, RecordingListener

_SCRIPT = Path(__file__).with_name("trivial_coordinator.py")


@pytest.fixture(scope="module")
def grpc_address() -> Iterator[str]:
    """A trivial coordinator in another process."""
    process = subprocess.Popen(
        [sys.executable, str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


@asynccontextmanager
async def _transport(
    kind: str, request: pytest.FixtureRequest
) -> AsyncGenerator[tuple[MetadataTransport, str]]:
    if kind == "memory":
        yield MemoryMetadataTransport({"c:1": FakeCoordinator()}), "c:1"
    else:
        async with open_wire() as wire:
            yield GrpcMetadataTransport(wire), request.getfixturevalue("grpc_address")


both = pytest.mark.parametrize("kind", ["memory", "grpc"])


@asynccontextmanager
async def _session(kind: str, request: pytest.FixtureRequest) -> AsyncGenerator[Session]:
    async with (
        _transport(kind, request) as (transport, address),
        Session.open(transport, [address], Identity(host_id="h"), RecordingListener()) as session,
    ):
        yield session


@both
async def test_calls_are_answered(kind: str, request: pytest.FixtureRequest) -> None:
    async with _session(kind, request) as session:
        assert session.connected
        assert (await session.call(pb.GetAttr(ino=5))).attr.ino == 5
        with pytest.raises(CairnError) as caught:
            await session.call(pb.Lookup(parent=1, name=b"absent"))
        assert caught.value.code == common_pb2.ERROR_CODE_NOT_FOUND


@both
async def test_many_concurrent_calls_get_their_own_answers(kind: str, request: pytest.FixtureRequest) -> None:
    answers: dict[int, int] = {}

    async def ask(session: Session, ino: int) -> None:
        answers[ino] = (await session.call(pb.GetAttr(ino=ino))).attr.ino

    async with _session(kind, request) as session, trio.open_nursery() as nursery:
        for ino in range(1, 1001):
            nursery.start_soon(ask, session, ino)
    assert answers == {ino: ino for ino in range(1, 1001)}


@both
async def test_a_raw_stream_ends_after_goodbye(kind: str, request: pytest.FixtureRequest) -> None:
    async with _transport(kind, request) as (transport, address):
        stream = transport.connect(address)
        stream.send(pb.ClientMessage(hello=pb.Hello()))
        [message] = await stream.receive()
        assert message.events[0].HasField("welcome")
        stream.send(pb.ClientMessage(goodbye=True))
        stream.finish()
        with pytest.raises(CairnError) as caught:
            await stream.receive()
        assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
        stream.close()
        stream.close()


async def test_grpc_stops_reading_while_nobody_takes_what_arrived(request: pytest.FixtureRequest) -> None:
    count = 5 * limits.SESSION_INBOX_MESSAGES
    async with _transport("grpc", request) as (transport, address):
        stream = transport.connect(address)
        stream.send(pb.ClientMessage(hello=pb.Hello()))
        await stream.receive()
        for seq in range(count):
            stream.send(pb.ClientMessage(requests=[pb.Request(seq=seq, get_attr=pb.GetAttr(ino=1))]))
        seen: list[int] = []
        while len(seen) < count:
            batch = await stream.receive()
            assert len(batch) <= limits.SESSION_INBOX_MESSAGES + 1
            seen.extend(message.events[0].reply.seq for message in batch)
            await trio.sleep(0.02)  # lets more arrive than may be kept
        assert seen == list(range(count))
        stream.close()


@both
async def test_closing_a_stream_ends_a_waiting_receive(kind: str, request: pytest.FixtureRequest) -> None:
    async with _transport(kind, request) as (transport, address):
        stream = transport.connect(address)

        async def receive() -> None:
            with pytest.raises(CairnError):
                await stream.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            stream.close()


class _ReconnectListener(RecordingListener):
    """Sets `resumed` when the session is welcomed back."""

    def __init__(self) -> None:
        super().__init__()
        self.resumed = trio.Event()

    def on_welcome(self, welcome: pb.Welcome) -> None:
        if welcome.resumed:
            self.resumed.set()


@pytest.mark.announces_warnings("lost the coordinator")
async def test_grpc_survives_the_end_of_a_stream(request: pytest.FixtureRequest) -> None:
    listener = _ReconnectListener()
    address = request.getfixturevalue("grpc_address")
    async with (
        open_wire() as wire,
        Session.open(GrpcMetadataTransport(wire), [address], Identity("h"), listener) as session,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(session.call, pb.Lookup(parent=1, name=b"end"))
        await listener.resumed.wait()
        nursery.cancel_scope.cancel()


async def test_grpc_reports_an_address_where_nobody_listens() -> None:
    async with open_wire() as wire:
        stream = GrpcMetadataTransport(wire).connect("127.0.0.1:1")
        with pytest.raises(CairnError, match=r"127\.0\.0\.1:1") as caught:
            await stream.receive()
        assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


async def test_the_wire_leaves_no_thread() -> None:
    async with open_wire() as wire:
        stream = GrpcMetadataTransport(wire).connect("127.0.0.1:1")
        assert any(thread.name == "cairnfs-wire" for thread in threading.enumerate())
    with pytest.raises(CairnError):
        await stream.receive()
    assert not any(thread.name == "cairnfs-wire" for thread in threading.enumerate())
