"""A gRPC server: listens, and gives every call to what serves its method, by plain function calls."""

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from cairnfs.base import limits
from cairnfs.base.logs import get_logger
from cairnfs.http2 import connection as http2
from cairnfs.http2.calls import Status, path_of, response_fields, trailer_fields
from cairnfs.http2.frames import Field

log = get_logger(__name__)

_BACKLOG: Final = 1_024
_NO_SUCH_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_KEEPALIVE_S: Final = int(limits.HTTP2_KEEPALIVE_S)


class Receiver(Protocol):
    """Serves one call. Methods run on the loop's thread and must not block."""

    def message(self, data: bytes) -> None:
        """The next message of the client."""
        ...

    def ended(self) -> None:
        """The client sends no more."""
        ...

    def unblocked(self) -> None:
        """`Call.blocked` has become false."""
        ...

    def gone(self) -> None:
        """The call was cut off before it was finished; nothing can be sent any more."""
        ...


class Call:
    """The server's end of one call."""

    __slots__ = ("_connection", "_stream")

    def __init__(self, connection: "_Connection", stream: int) -> None:
        self._connection = connection
        self._stream = stream

    @property
    def blocked(self) -> bool:
        """Whether the client takes no more at the moment; whoever can wait should, for `unblocked`."""
        return self._connection.blocked(self._stream)

    def send(self, message: bytes) -> None:
        """Send one message; dropped when the call is over."""
        self._connection.send(self._stream, message)

    def finish(self, status: Status = Status.OK, detail: str = "") -> None:
        """End the call, after what was sent; its receiver is told nothing more."""
        self._connection.finish(self._stream, status, detail)

    def hold_back(self, hold: bool) -> None:
        """Read no more of this client while any call of it is held back."""
        self._connection.hold_back(self._stream, hold)


Opener = Callable[[Call], Receiver]
"""Begins to serve one call."""


class _Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, methods: Mapping[str, Opener], connections: "set[_Connection]") -> None:
        self._methods = methods
        self._connections = connections
        self._http = http2.Connection(is_client=False)
        self._transport: Any = None
        self._receivers: dict[int, Receiver] = {}
        self._held_back: set[int] = set()
        self._reading = False  # output waits until everything that has come is handled
        self._full = False  # the kernel takes no more at the moment
        self._violated = False
        self.lost = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------------ for calls

    def blocked(self, stream: int) -> bool:
        return self._full or self._http.blocked(stream)

    def send(self, stream: int, message: bytes) -> None:
        self._http.send_message(stream, message)
        self._flush()

    def finish(self, stream: int, status: Status, detail: str) -> None:
        self._receivers.pop(stream, None)
        self.hold_back(stream, False)
        self._http.finish(stream, trailer_fields(status, detail))
        self._flush()

    def hold_back(self, stream: int, hold: bool) -> None:
        before = bool(self._held_back)
        (self._held_back.add if hold else self._held_back.discard)(stream)
        if before != bool(self._held_back) and not self._transport.is_closing():
            (self._transport.pause_reading if hold else self._transport.resume_reading)()

    def _flush(self) -> None:
        if self._reading:
            return
        output = self._http.take_output()
        if output and not self._transport.is_closing():
            self._transport.write(output)

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=limits.HTTP2_SEND_BUFFER_BYTES)
        _watch_peer(transport.get_extra_info("socket"))
        self._connections.add(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._reading = True
        for event in self._http.feed(data):
            self._apply(event)
        self._reading = False
        self._flush()
        if self._violated:
            self._transport.close()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        for stream, receiver in list(self._receivers.items()):
            if not self._http.blocked(stream):
                self._guarded(stream, receiver.unblocked)

    def connection_lost(self, _error: Exception | None) -> None:
        self.drop()
        self._connections.discard(self)
        self.lost.set_result(None)

    def drop(self) -> None:
        """End everything at once."""
        self._transport.abort()
        receivers, self._receivers = self._receivers, {}
        for stream, receiver in receivers.items():
            self._guarded(stream, receiver.gone)

    # ------------------------------------------------------------------ events

    def _apply(self, event: http2.Event) -> None:
        match event:
            case http2.Message(stream, data):
                if (receiver := self._receivers.get(stream)) is not None:
                    self._guarded(stream, receiver.message, data)
            case http2.Headers(stream, fields, is_new):
                if is_new:
                    self._open(stream, fields)
            case http2.Ended(stream):
                if (receiver := self._receivers.get(stream)) is not None:
                    self._guarded(stream, receiver.ended)
            case http2.Reset(stream):
                self.hold_back(stream, False)
                if (receiver := self._receivers.pop(stream, None)) is not None:
                    self._guarded(stream, receiver.gone)
            case http2.Unblocked(stream):
                if not self._full and (receiver := self._receivers.get(stream)) is not None:
                    self._guarded(stream, receiver.unblocked)
            case http2.Violated(_, detail):
                log.info("connection_refused", reason=detail)
                self._violated = True
            case http2.GoneAway():
                pass  # it will close when its calls have ended

    def _open(self, stream: int, fields: list[Field]) -> None:
        opener = self._methods.get(path_of(fields))
        self._http.send_headers(stream, response_fields())
        if opener is None:
            self.finish(stream, Status.UNIMPLEMENTED, "no such method")
        else:
            self._receivers[stream] = opener(Call(self, stream))

    def _guarded(self, stream: int, step: Callable[..., None], *args: Any) -> None:
        """One step of a receiver; if it fails, its call does, and no other."""
        try:
            step(*args)
        except Exception:
            log.exception("call_failed")
            self.finish(stream, Status.INTERNAL, "internal error")


def _watch_peer(peer: Any) -> None:
    """Have the kernel find out that a client's host is gone."""
    if peer.family in (socket.AF_INET, socket.AF_INET6):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2_000 * _KEEPALIVE_S)


class Server:
    """Serves the methods given, by their path /PACKAGE.SERVICE/METHOD; made on a running loop."""

    def __init__(self, methods: Mapping[str, Opener]) -> None:
        self._methods = methods
        self._connections: set[_Connection] = set()
        self._sockets: list[socket.socket] = []
        self._listeners: list[asyncio.Server] = []

    def bind(self, listen: str) -> str:
        """Take HOST:PORT; returns it with the port that port 0 came to. Raises OSError."""
        host, _, port_text = listen.rpartition(":")
        port = int(port_text)
        refusal: OSError | None = None
        try:
            for family, _, _, _, address in socket.getaddrinfo(
                host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                try:
                    bound = socket.create_server((address[0], port), family=family, backlog=_BACKLOG)
                except OSError as error:
                    refusal = error
                    if error.errno in _NO_SUCH_ADDRESS:
                        continue  # localhost may have an IPv6 address where there is no IPv6
                    break
                self._sockets.append(bound)
                port = bound.getsockname()[1]
        except OSError as error:
            refusal = error
        if not self._sockets:
            raise OSError(f"cannot listen on {listen}: {refusal}") from refusal
        return f"{host}:{port}"

    def bind_abstract(self, name: str) -> None:
        """Take a Unix socket of the abstract namespace. Raises OSError."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(f"\0{name}")
            bound.listen(_BACKLOG)
        except OSError:
            bound.close()
            raise
        self._sockets.append(bound)

    async def start(self) -> None:
        """Begin to serve."""
        loop = asyncio.get_running_loop()
        for bound in self._sockets:
            create = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
            self._listeners.append(
                await create(lambda: _Connection(self._methods, self._connections), sock=bound)
            )
        self._sockets.clear()

    async def stop(self) -> None:
        """Stop at once, breaking all calls."""
        for bound in self._sockets:
            bound.close()
        for listener in self._listeners:
            listener.close()
        lost = [connection.lost for connection in self._connections]
        for connection in list(self._connections):
            connection.drop()
        await asyncio.gather(*lost)
