"""Connections between datanodes, over real sockets, with our server at the other end."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
import uvloop

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.ids import new_id
from cairnfs.datanode.calls import ByteCall
from cairnfs.datanode.peer_connection import UNIX, PeerConnection
from cairnfs.rpc.v1 import common_pb2
from cairnfs.serving.server import Server

DEADLINE_S = 30.0
Scenario = Callable[..., Coroutine[None, None, None]]


def on_a_loop(scenario: Scenario) -> Callable[..., None]:
    """Run a test on the event loop that datanodes use."""

    @functools.wraps(scenario)
    def run(**fixtures: object) -> None:
        uvloop.run(asyncio.wait_for(scenario(**fixtures), DEADLINE_S))

    return run


async def _echo(call: ByteCall) -> None:
    while (message := await call.read()) is not None:
        if message == b"refuse":
            raise CairnError(common_pb2.ERROR_CODE_INVALID, "as the test wants it")
        if message == b"end":
            return
        await call.write(message)


@asynccontextmanager
async def server() -> AsyncIterator[tuple[Server, str, str]]:
    """A server that echoes, its TCP and its Unix target."""
    made = Server({"/echo": lambda call: ByteCall(call, _echo)})
    name = f"cairnfs-test-{new_id()}"
    address = made.bind("127.0.0.1:0")
    made.bind_abstract(name)
    await made.start()
    try:
        yield made, address, UNIX + name
    finally:
        await made.stop()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@on_a_loop
async def test_messages_of_any_size_in_order(kind: str) -> None:
    async with server() as (_, tcp, unix), PeerConnection.connect(tcp if kind == "tcp" else unix) as peer:
        call = peer.open("/echo")
        messages = [b"", b"x", bytes(limits.FRAME_MAX_BYTES), *(b"%d" % n for n in range(1000))]

        async def write() -> None:
            for message in messages:
                await call.write(message)

        writing = asyncio.create_task(write())
        assert [await call.read() for _ in messages] == messages
        await writing


@on_a_loop
async def test_what_is_not_read_holds_its_sender_back() -> None:
    read = asyncio.Event()

    async def slow(call: ByteCall) -> None:
        await read.wait()
        while await call.read() is not None:
            pass

    made = Server({"/slow": lambda call: ByteCall(call, slow)})
    address = made.bind("127.0.0.1:0")
    await made.start()
    async with PeerConnection.connect(address) as peer:
        call = peer.open("/slow")
        written = 0

        async def write() -> None:
            nonlocal written
            for _ in range(100):
                await call.write(bytes(limits.FRAME_MAX_BYTES))
                written += 1

        writing = asyncio.create_task(write())
        done, _ = await asyncio.wait([writing], timeout=1)
        assert not done
        assert written < 50
        read.set()
        await writing
    await made.stop()


@on_a_loop
async def test_calls_end_one_by_one() -> None:
    async with server() as (_, address, _), PeerConnection.connect(address) as peer:
        refused, ended, going = (peer.open("/echo") for _ in range(3))
        await refused.write(b"refuse")
        with pytest.raises(CairnError, match="as the test wants it"):
            await refused.read()
        await ended.write(b"end")
        assert await ended.read() is None
        with pytest.raises(CairnError):
            await ended.write(b"more")
        await going.write(b"more")
        assert await going.read() == b"more"
        with pytest.raises(CairnError):
            await peer.ask("/no/such/method", b"")


@on_a_loop
async def test_a_lost_server_ends_every_call() -> None:
    async with server() as (made, address, _), PeerConnection.connect(address) as peer:
        calls = [peer.open("/echo") for _ in range(3)]
        await calls[0].write(b"x")
        assert await calls[0].read() == b"x"
        await made.stop()
        for call in [*calls, peer.open("/echo")]:
            with pytest.raises(CairnError) as caught:
                await call.read()
            assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE


@pytest.mark.parametrize("target", ["127.0.0.1:1", UNIX + "nobody-is-there", "no port"])
@on_a_loop
async def test_nobody_is_there(target: str) -> None:
    with pytest.raises(CairnError) as caught:
        async with PeerConnection.connect(target):
            raise AssertionError("connected")
    assert caught.value.code == common_pb2.ERROR_CODE_UNAVAILABLE
