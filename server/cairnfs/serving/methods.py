"""Methods served by coroutines: one request and one answer, many requests, or many answers."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.http2.calls import Status
from cairnfs.serving.server import Call, Opener

log = get_logger(__name__)


class Unavailable(Exception):
    """A call cannot be served now, for the reason given; the caller may try again, elsewhere or later."""


class Exchange:
    """One call as a coroutine sees it: the client's messages to iterate over, and `send`.

    It is the call's receiver, and owns the task that serves it.
    """

    def __init__(self, call: Call, serve: "Callable[[Exchange], Awaitable[None]]") -> None:
        self._call = call
        self._arrived: deque[bytes] = deque()
        self._ended = False
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(serve))

    async def _run(self, serve: "Callable[[Exchange], Awaitable[None]]") -> None:
        try:
            await serve(self)
        except DecodeError:
            self._call.finish(Status.INTERNAL, "a malformed message")
        except Unavailable as error:
            self._call.finish(Status.UNAVAILABLE, str(error))
        except Exception:
            log.exception("call_failed")
            self._call.finish(Status.INTERNAL, "internal error")
        else:
            self._call.finish()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next message of the client."""
        while not self._arrived:
            if self._ended:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        self._call.hold_back(len(self._arrived) > limits.HTTP2_QUEUED_MESSAGES)
        return self._arrived.popleft()

    async def send(self, message: Message) -> None:
        """Send a message, when the client takes it."""
        while self._call.blocked:
            self._changed.clear()
            await self._changed.wait()
        self._call.send(message.SerializeToString())

    # ------------------------------------------------------------------ Receiver

    def message(self, data: bytes) -> None:
        """See `Receiver`."""
        self._arrived.append(data)
        if len(self._arrived) > limits.HTTP2_QUEUED_MESSAGES:
            self._call.hold_back(True)
        self._changed.set()

    def ended(self) -> None:
        """See `Receiver`."""
        self._ended = True
        self._changed.set()

    def unblocked(self) -> None:
        """See `Receiver`."""
        self._changed.set()

    def gone(self) -> None:
        """See `Receiver`."""
        self._task.cancel()


def unary(request: type[Message], handle: Callable[[Any, Any], Awaitable[Message]]) -> Opener:
    """One request and one answer: `await handle(request, None)`."""

    async def serve(exchange: Exchange) -> None:
        async for data in exchange:
            await exchange.send(await handle(request.FromString(data), None))
            return

    return lambda call: Exchange(call, serve)


def many_requests(
    request: type[Message], handle: Callable[[AsyncIterator[Any], Any], Awaitable[Message]]
) -> Opener:
    """Any number of requests and one answer: `await handle(requests, None)`."""

    async def serve(exchange: Exchange) -> None:
        requests = (request.FromString(data) async for data in exchange)
        await exchange.send(await handle(requests, None))

    return lambda call: Exchange(call, serve)


def many_answers(request: type[Message], handle: Callable[[Any, Any], AsyncIterator[Message]]) -> Opener:
    """One request and any number of answers: `async for answer in handle(request, None)`."""

    async def serve(exchange: Exchange) -> None:
        async for data in exchange:
            async for answer in handle(request.FromString(data), None):
                await exchange.send(answer)
            return

    return lambda call: Exchange(call, serve)
