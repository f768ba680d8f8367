"""What every metadata transport does for a session, in memory and over gRPC on loopback."""

import contextlib
import socket
import subprocess
import sys
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
from cairnfs.client.transport import MetadataStream, MetadataTransport
from cairnfs.http2 import connection as http2, frames
from cairnfs.http2.calls import Status, trailer_fields
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
        async with trio.open_nursery() as nursery:
            yield GrpcMetadataTransport(nursery), request.getfixturevalue("grpc_address")


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
        trio.open_nursery() as nursery,
        Session.open(GrpcMetadataTransport(nursery), [address], Identity("h"), listener) as session,
    ):
        nursery.start_soon(session.call, pb.Lookup(parent=1, name=b"end"))
        await listener.resumed.wait()
        nursery.cancel_scope.cancel()


async def test_grpc_reports_an_address_where_nobody_listens() -> None:
    async with trio.open_nursery() as nursery:
        stream = GrpcMetadataTransport(nursery).connect("127.0.0.1:1")
        with pytest.raises(CairnError, match=r"127\.0\.0\.1:1") as caught:
            await stream.receive()
        assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


@pytest.mark.parametrize("kind", ["grpc"])
async def test_messages_larger_than_every_window_arrive_whole(
    kind: str, request: pytest.FixtureRequest
) -> None:
    size_bytes = limits.GRPC_MESSAGE_MAX_BYTES // 4  # the trivial coordinator takes no more than 4 MiB
    async with _session(kind, request) as session, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(session.call, pb.SetXattr(ino=1, name=b"n", value=bytes(size_bytes)))


async def _listen() -> tuple[trio.SocketListener, str]:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener, f"127.0.0.1:{listener.socket.getsockname()[1]}"


async def test_a_peer_that_does_not_read_gets_everything_later() -> None:
    listener, address = await _listen()
    listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    text = "x" * 20_000  # all of it is more than the sockets hold
    sent = [
        pb.ClientMessage(acknowledged_seq=number, hello=pb.Hello(description=text)) for number in range(500)
    ]
    got: list[bytes] = []
    peer = http2.Connection(is_client=False)

    async def converse(stream: trio.SocketStream) -> None:
        await stream.send_all(peer.take_output())
        async for data in stream:
            for event in peer.feed(bytes(data)):
                match event:
                    case http2.Message(_, message):
                        got.append(message)
                    case http2.Ended(call):
                        peer.finish(call, trailer_fields(Status.OK))
                    case _:
                        pass
            await stream.send_all(peer.take_output())

    async with listener, trio.open_nursery() as nursery:
        stream = GrpcMetadataTransport(nursery).connect(address)
        nursery.start_soon(_receive_until_over, stream)
        accepted = await listener.accept()
        stream.send(sent[0])
        await trio.testing.wait_all_tasks_blocked()
        await accepted.send_all(peer.take_output())  # opens the window
        await trio.testing.wait_all_tasks_blocked()
        for message in sent[1:]:
            stream.send(message)
        stream.finish()
        async with accepted:
            await converse(accepted)
    assert got == [message.SerializeToString() for message in sent]


async def _receive_until_over(stream: MetadataStream) -> None:
    try:
        while True:
            await stream.receive()
    except CairnError:
        stream.close()


async def test_a_peer_that_never_pauses_does_not_stop_other_tasks() -> None:
    message = pb.ServerMessage(events=[pb.Event(end=pb.SessionEnd(message="x" * 100_000))])
    peer = http2.Connection(is_client=False)
    peer.feed(frames.PREFACE + frames.settings({frames.Setting.INITIAL_WINDOW_SIZE: 1 << 30}))
    payload = frames.MESSAGE_HEADER.pack(0, message.ByteSize()) + message.SerializeToString()
    flood = frames.frame(frames.FrameType.DATA, 0, 1, payload) * 20
    rounds = 100
    turns = 0

    def send_all(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(OSError):
            accepted.recv(65_536)
            accepted.sendall(peer.take_output())
            for _ in range(rounds):
                accepted.sendall(flood)
            while accepted.recv(65_536):
                pass

    async def count_turns(task_status: trio.TaskStatus[None]) -> None:
        nonlocal turns
        task_status.started()
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            stream = GrpcMetadataTransport(nursery).connect(f"127.0.0.1:{listener.getsockname()[1]}")
            await nursery.start(count_turns)
            nursery.start_soon(trio.to_thread.run_sync, send_all, listener)
            got = reads = 0
            while got < 20 * rounds:
                got += len(await stream.receive())
                reads += 1
            stream.close()
            nursery.cancel_scope.cancel()
    assert turns >= reads / 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "broke the rules"),
        (frames.goaway(1, frames.ErrorCode.NO_ERROR, "going down"), "going down"),
        (frames.rst_stream(1, frames.ErrorCode.REFUSED_STREAM), "REFUSED_STREAM"),
        (frames.frame(frames.FrameType.DATA, 0, 1, bytes(4) + b"\x01\xff"), "malformed"),
        (
            frames.frame(
                frames.FrameType.HEADERS,
                frames.Flag.END_HEADERS | frames.Flag.END_STREAM,
                1,
                frames.encode_fields(trailer_fields(Status.UNIMPLEMENTED)),
            ),
            "UNIMPLEMENTED",
        ),
    ],
)
async def test_whatever_a_peer_answers_the_stream_ends_with_a_reason(answer: bytes, reason: str) -> None:
    listener, address = await _listen()
    async with listener, trio.open_nursery() as nursery:
        stream = GrpcMetadataTransport(nursery).connect(address)

        async def answer_once() -> None:
            async with await listener.accept() as accepted:
                await accepted.receive_some()
                await accepted.send_all(answer)

        nursery.start_soon(answer_once)
        with pytest.raises(CairnError, match=reason) as caught:
            await stream.receive()
        assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
        stream.send(pb.ClientMessage())
        stream.close()


async def test_closing_while_dialling_ends_the_dialling() -> None:
    listener, address = await _listen()
    async with listener, trio.open_nursery() as nursery:
        stream = GrpcMetadataTransport(nursery).connect(address)
        nursery.start_soon(_receive_until_over, stream)
        await trio.lowlevel.checkpoint()
        stream.close()


async def test_a_name_without_address_is_reported() -> None:
    async with trio.open_nursery() as nursery:
        stream = GrpcMetadataTransport(nursery).connect("name.invalid:1")
        with pytest.raises(CairnError, match=r"name\.invalid:1"):
            await stream.receive()
