"""Streams to servers: gRPC spoken on sockets by the trio thread itself (docs/decisions/0007).

What is sent goes out in the step that sends it, and what arrives is handled in the step that reads it: no
other thread, queue or wake-up lies in between. Each stream has a connection of its own.
"""

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio
from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.base.logs import get_logger
from cairnfs.client.grpc_reasons import short_reason
from cairnfs.http2 import connection as http2
from cairnfs.http2.calls import Status, request_fields, status_of
from cairnfs.http2.connection import Buffer
from cairnfs.http2.frames import ErrorCode, Field
from cairnfs.rpc.v1 import common_pb2

_log = get_logger(__name__)

Out = TypeVar("Out")
In = TypeVar("In")

UNIX: Final = "unix-abstract:"
_READ_FIRST_BYTES: Final = 16 * limits.KIB
_READ_MORE_BYTES: Final = 1 * limits.MIB
_JOINED_MAX_BYTES: Final = 64 * limits.KIB  # copying less is cheaper than telling the kernel of every piece
_PIECES_MAX: Final = 1_024  # the kernel's IOV_MAX


@dataclass(frozen=True, slots=True)
class Method(Generic[Out, In]):
    """A method with streams in both directions; `encode` may raise CairnError, `decode` also DecodeError."""

    path: str
    encode: Callable[[Out], bytes]
    decode: Callable[[bytes], In]


class Stream(Generic[Out, In]):
    """See `MetadataStream` and its like. It is dialled, and read, by whoever awaits `receive`."""

    def __init__(self, nursery: trio.Nursery, target: str, method: Method[Out, In]) -> None:
        """`target` is HOST:PORT or unix-abstract:NAME; `nursery` owns a task that waits for a full socket."""
        self._nursery = nursery
        self._target = target
        self._method = method
        self._http = http2.Connection(is_client=True)
        authority = "localhost" if target.startswith(UNIX) else target
        self._call = self._http.open(request_fields(authority, method.path))
        self._socket: socket.socket | None = None
        self._dialling: trio.CancelScope | None = None
        self._more = False  # the last read may have left something
        self._writing = False  # a task waits for room in the socket
        self._arrived: list[In] = []
        self._farewell = "the connection was closed"
        self._error: CairnError | None = None

    def send(self, item: Out) -> None:
        """Send an item as soon as the stream is connected; dropped when it is over."""
        if self._error is not None:
            return
        try:
            message = self._method.encode(item)
        except CairnError as error:
            _log.error("cannot encode a message", target=self._target, error=str(error))
            self._over(str(error))
            return
        self._http.send_message(self._call, message)
        self._write()

    async def receive(self) -> list[In]:
        """Everything that arrived, at least one; CairnError UNAVAILABLE when the stream is over."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if self._socket is None:
                await self._dial()
            else:
                await self._read(self._socket)
        batch = self._arrived[: limits.SESSION_INBOX_MESSAGES]
        del self._arrived[: limits.SESSION_INBOX_MESSAGES]
        return batch

    def finish(self) -> None:
        """Half-close: nothing more will be sent."""
        self._http.finish(self._call)
        self._write()

    def close(self) -> None:
        """Drop the stream at once; idempotent."""
        self._over("closed")

    def _over(self, detail: str) -> None:
        """End the stream; what has arrived can still be received."""
        if self._error is not None:
            return
        self._error = CairnError(common_pb2.ERROR_CODE_UNAVAILABLE, f"{self._target}: {detail}")
        if self._dialling is not None:
            self._dialling.cancel()
        if self._socket is not None:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    # -------------------------------------------------------------- connecting

    async def _dial(self) -> None:
        detail = "no answer in time"
        with trio.move_on_after(limits.HTTP2_CONNECT_S) as self._dialling:
            try:
                self._socket = await _connected_socket(self._target)
            except (OSError, ValueError) as error:
                number = getattr(error, "errno", None)
                detail = os.strerror(number) if number and number > 0 else str(error)
        self._dialling = None
        if self._socket is None:
            self._over(detail)
        elif self._error is not None:
            self._socket.close()
        else:
            self._write()

    # -------------------------------------------------------------- writing

    def _write(self) -> None:
        if self._socket is None or self._writing or self._error is not None:
            return
        rest = _send(self._socket, self._http.take_buffers())
        if rest:
            self._writing = True
            self._nursery.start_soon(self._write_rest, self._socket, rest)

    async def _write_rest(self, writable: socket.socket, rest: list[Buffer]) -> None:
        while rest:
            try:
                await trio.lowlevel.wait_writable(writable)
            except trio.ClosedResourceError:
                return
            rest = _send(writable, rest)
        self._writing = False
        self._write()

    # -------------------------------------------------------------- reading

    async def _read(self, readable: socket.socket) -> None:
        size_bytes = _READ_MORE_BYTES if self._more else _READ_FIRST_BYTES
        try:
            if self._more:
                await trio.lowlevel.checkpoint()  # whoever sends without end must not stop all else
            else:
                await trio.lowlevel.wait_readable(readable)
            data = readable.recv(size_bytes)
        except BlockingIOError:
            self._more = False
            return
        except trio.ClosedResourceError:
            return
        except OSError as error:
            self._over(error.strerror or str(error))
            return
        if not data:
            self._over(self._farewell)
            return
        self._more = len(data) == size_bytes
        try:
            for event in self._http.feed(data):
                self._apply(event)
        except (CairnError, DecodeError) as error:
            self._over(f"sent a malformed message: {error}")
        self._write()

    def _apply(self, event: http2.Event) -> None:
        match event:
            case http2.Message(_, data):
                self._arrived.append(self._method.decode(data))
            case http2.Headers(_, fields):
                self._note_status(fields)
            case http2.Ended():
                self._over(self._farewell)
            case http2.Reset(_, code):
                known = code in ErrorCode.__members__.values()
                self._over(f"reset by the peer: {ErrorCode(code).name if known else code}")
            case http2.GoneAway(_, detail):
                self._farewell = detail or self._farewell
            case http2.Violated(_, detail):
                self._write()
                self._over(f"broke the rules: {detail}")
            case http2.Unblocked():
                pass

    def _note_status(self, fields: list[Field]) -> None:
        if (status := status_of(fields)) is not None:
            code, detail = status
            otherwise = "ended by the peer" if code == Status.OK else code.name
            self._farewell = short_reason(detail, otherwise)


def _send(writable: socket.socket, buffers: list[Buffer]) -> list[Buffer]:
    """Write what the socket takes; what is left. Nothing is when it is lost, which the reader finds out."""
    while buffers:
        now = buffers[:_PIECES_MAX]
        size = sum(map(len, now))
        try:
            sent = writable.send(b"".join(now)) if size <= _JOINED_MAX_BYTES else writable.sendmsg(now)
        except BlockingIOError:
            return buffers
        except OSError:
            return []
        if sent < size:
            return _without(buffers, sent)
        buffers = buffers[_PIECES_MAX:]
    return []


def _without(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """All but the first `sent` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *buffers[index + 1 :]]
        sent -= len(buffer)
    return []


async def _connected_socket(target: str) -> socket.socket:
    """A connection to the target. Raises OSError or ValueError."""
    if target.startswith(UNIX):
        return await _dial_one(socket.AF_UNIX, "\0" + target.removeprefix(UNIX))
    host, _, port = target.rpartition(":")
    refusal: OSError | None = None
    for family, _, _, _, address in await trio.socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM
    ):
        try:
            plain = await _dial_one(family, address)
        except OSError as error:
            refusal = error
        else:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plain
    raise refusal or OSError(f"no address of {host}")


async def _dial_one(family: int, address: object) -> socket.socket:
    plain = socket.socket(family, socket.SOCK_STREAM)
    plain.setblocking(False)
    wrapped = trio.socket.from_stdlib_socket(plain)
    try:
        await wrapped.connect(address)
    except BaseException:
        wrapped.close()
        raise
    return plain
