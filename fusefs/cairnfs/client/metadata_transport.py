"""Session streams to coordinators: gRPC spoken on sockets by the trio thread itself (docs/decisions/0007).

A request goes out in the step that makes it, and its answer is handled in the step that reads it: no other
thread, queue or wake-up lies in between. Each stream has a connection of its own.
"""

import os
import socket
from typing import Final

import trio
from google.protobuf.message import DecodeError

from cairnfs.base import limits
from cairnfs.base.errors import CairnError
from cairnfs.client.grpc_reasons import short_reason
from cairnfs.http2 import connection as http2
from cairnfs.http2.calls import Status, request_fields, status_of
from cairnfs.http2.frames import ErrorCode, Field
from cairnfs.rpc.v1 import common_pb2, metadata_pb2 as pb

_METHOD: Final = "/cairnfs.rpc.v1.Metadata/Session"
_READ_BYTES: Final = 256 * limits.KIB


class SessionStream:
    """See `MetadataStream`. It is dialled, and read, by whoever awaits `receive`."""

    def __init__(self, nursery: trio.Nursery, target: str) -> None:
        self._nursery = nursery
        self._target = target
        self._http = http2.Connection(is_client=True)
        self._call = self._http.open(request_fields(target, _METHOD))
        self._socket: socket.socket | None = None
        self._dialling: trio.CancelScope | None = None
        self._more = False  # the last read may have left something
        self._writing = False  # a task waits for room in the socket
        self._arrived: list[pb.ServerMessage] = []
        self._farewell = "the connection was closed"
        self._error: CairnError | None = None

    def send(self, message: pb.ClientMessage) -> None:
        """Send a message as soon as the stream is connected; dropped when it is over."""
        self._http.send_message(self._call, message.SerializeToString())
        self._write()

    async def receive(self) -> list[pb.ServerMessage]:
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
        output = self._http.take_output()
        if not output:
            return
        sent = _send(self._socket, output)
        if sent < len(output):
            self._writing = True
            self._nursery.start_soon(self._write_rest, self._socket, memoryview(output)[sent:])

    async def _write_rest(self, writable: socket.socket, rest: memoryview) -> None:
        while rest:
            try:
                await trio.lowlevel.wait_writable(writable)
            except trio.ClosedResourceError:
                return
            rest = rest[_send(writable, rest) :]
        self._writing = False
        self._write()

    # -------------------------------------------------------------- reading

    async def _read(self, readable: socket.socket) -> None:
        try:
            if not self._more:
                await trio.lowlevel.wait_readable(readable)
            data = readable.recv(_READ_BYTES)
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
        self._more = len(data) == _READ_BYTES
        try:
            for event in self._http.feed(data):
                self._apply(event)
        except DecodeError:
            self._over("sent a malformed message")
        self._write()

    def _apply(self, event: http2.Event) -> None:
        match event:
            case http2.Message(_, data):
                self._arrived.append(pb.ServerMessage.FromString(data))
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


def _send(writable: socket.socket, data: bytes | memoryview) -> int:
    """How many bytes were written; all of them when the connection is lost, which the reader finds out."""
    try:
        return writable.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)


async def _connected_socket(target: str) -> socket.socket:
    """A connection to HOST:PORT. Raises OSError or ValueError."""
    host, _, port = target.rpartition(":")
    refusal: OSError | None = None
    for family, kind, protocol, _, address in await trio.socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM
    ):
        plain = socket.socket(family, kind, protocol)
        plain.setblocking(False)
        wrapped = trio.socket.from_stdlib_socket(plain)
        try:
            await wrapped.connect(address)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            refusal = error
            wrapped.close()
        except BaseException:
            wrapped.close()
            raise
        else:
            return plain
    raise refusal or OSError(f"no address of {host}")


class Http2MetadataTransport:
    """`MetadataTransport` over gRPC."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """`nursery` owns the tasks that wait for sockets to take more."""
        self._nursery = nursery

    def connect(self, address: str) -> SessionStream:
        """See `MetadataTransport.connect`."""
        return SessionStream(self._nursery, address)
