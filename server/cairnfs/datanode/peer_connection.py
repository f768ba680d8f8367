"""A connection to another datanode: gRPC spoken on a socket of the event loop (docs/decisions/0007)."""

import asyncio
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.http2 import connection as http2
from cairnfs.http2.calls import Status, request_fields, status_of
from cairnfs.rpc.v1 import common_pb2

UNIX: Final = "unix-abstract:"


class PeerCall:
    """One call: messages to write and to read, as bytes."""

    def __init__(self, connection: "PeerConnection", stream: int) -> None:
        self._connection = connection
        self._stream = stream
        self._arrived: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: CairnError | None = None

    async def write(self, message: bytes) -> None:
        """Send a message when the peer takes it. Raises CairnError UNAVAILABLE when the call is over."""
        while self._connection.blocked(self._stream) and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._ended:
            raise self._error or _unavailable("the peer ended the call")
        self._connection.send(self._stream, message)

    def write_now(self, message: bytes) -> bool:
        """Send a message if the peer takes it at once."""
        if self._ended or self._connection.blocked(self._stream):
            return False
        self._connection.send(self._stream, message)
        return True

    async def read(self) -> bytes | None:
        """The next message; None at a good end. Raises CairnError UNAVAILABLE at any other."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._arrived.popleft()

    def message(self, data: bytes) -> None:
        """A message arrived."""
        self._arrived.append(data)
        self._changed.set()

    def unblocked(self) -> None:
        """More may be written."""
        self._changed.set()

    def end(self, detail: str = "") -> None:
        """Nothing more comes; `detail` says why, unless all is well. The first reason given stays."""
        if detail and self._error is None and not self._ended:
            self._error = _unavailable(detail)
        self._ended = True
        self._changed.set()


class PeerConnection(asyncio.Protocol):
    """Made by `connect`."""

    def __init__(self) -> None:
        self._http = http2.Connection(is_client=True)
        self._transport: Any = None
        self._calls: dict[int, PeerCall] = {}
        self._full = False
        self._lost = ""

    @classmethod
    @asynccontextmanager
    async def connect(cls, target: str) -> "AsyncGenerator[PeerConnection]":
        """To HOST:PORT or unix-abstract:NAME; closed at the end. Raises CairnError UNAVAILABLE."""
        try:
            async with asyncio.timeout(limits.HTTP2_CONNECT_S):
                connection = await cls._connected(target)
        except TimeoutError:
            raise _unavailable(f"{target}: no answer in time") from None
        except (OSError, ValueError) as error:
            raise _unavailable(f"{target}: {error}") from None
        try:
            yield connection
        finally:
            connection.close()

    @classmethod
    async def _connected(cls, target: str) -> "PeerConnection":
        loop = asyncio.get_running_loop()
        if not target.startswith(UNIX):
            host, _, port = target.rpartition(":")
            _, connection = await loop.create_connection(cls, host.strip("[]"), int(port))
            return connection
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            await loop.sock_connect(plain, "\0" + target.removeprefix(UNIX))
            _, connection = await loop.create_unix_connection(cls, sock=plain)
        except BaseException:
            plain.close()
            raise
        return connection

    def open(self, path: str) -> PeerCall:
        """Begin a call of the method /PACKAGE.SERVICE/METHOD."""
        stream = self._http.open(request_fields("datanode", path))
        call = self._calls[stream] = PeerCall(self, stream)
        if self._lost:
            call.end(self._lost)
        self._flush()
        return call

    async def ask(self, path: str, request: bytes) -> bytes:
        """The one answer to one request. Raises CairnError UNAVAILABLE."""
        call = self.open(path)
        await call.write(request)
        answer = await call.read()
        if answer is None:
            raise _unavailable("the peer gave no answer")
        return answer

    def blocked(self, stream: int) -> bool:
        """Whether a call should wait before it writes more."""
        return self._full or self._http.blocked(stream)

    def send(self, stream: int, message: bytes) -> None:
        """Send a message."""
        self._http.send_message(stream, message)
        self._flush()

    def close(self) -> None:
        """Drop the connection at once; idempotent."""
        self._transport.abort()

    def _flush(self) -> None:
        output = self._http.take_buffers()
        if output and not self._transport.is_closing():
            self._transport.writelines(output)

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        """See asyncio.Protocol."""
        self._transport = transport
        transport.set_write_buffer_limits(high=limits.HTTP2_SEND_BUFFER_BYTES)
        self._flush()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._full = True

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._full = False
        for call in self._calls.values():
            call.unblocked()

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._over(str(error) if error else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        for event in self._http.feed(data):
            self._apply(event)
        self._flush()

    def _apply(self, event: http2.Event) -> None:
        match event:
            case http2.Message(stream, data) if stream in self._calls:
                self._calls[stream].message(data)
            case http2.Headers(stream, fields) if stream in self._calls:
                status = status_of(fields)
                if status is not None and status[0] != Status.OK:
                    self._calls[stream].end(status[1] or status[0].name.lower())
            case http2.Ended(stream) if stream in self._calls:
                self._calls.pop(stream).end()
            case http2.Reset(stream) if stream in self._calls:
                self._calls.pop(stream).end("reset by the peer")
            case http2.Unblocked(stream) if stream in self._calls:
                self._calls[stream].unblocked()
            case http2.Violated(_, detail):
                self._over(f"the peer broke the rules: {detail}")
                self._transport.close()
            case _:
                pass

    def _over(self, detail: str) -> None:
        self._lost = detail
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.end(detail)


def _unavailable(detail: str) -> CairnError:
    return CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, detail)
